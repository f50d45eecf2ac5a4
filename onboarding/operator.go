package onboarding

import (
	"context"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Order is an operator's act on one tenant; all of it goes into the audit log.
type Order struct {
	Tenant tenant.ID // required
	Actor  string    // who; defaults to "operator"
	Reason string    // why

	// Now has [Provisioner.Deprovision] begin without a grace period. There
	// is no way back.
	Now bool
}

// Suspend keeps the tenant from serving until [Provisioner.Resume], whatever
// billing says. Its data, keys and export stay.
func (p *Provisioner) Suspend(ctx context.Context, o Order) error {
	return p.order(ctx, o, "suspend", func(d *draft) error {
		if final(d.State) || leaving(d.State) {
			return d.refuse(EventSuspend)
		}
		why := o.Reason
		if why == "" {
			why = "operator"
		}
		d.hold(ByOperator, why)
		return nil
	})
}

// Resume lifts what [Provisioner.Suspend] has set. A tenant that billing
// holds as well stays suspended.
func (p *Provisioner) Resume(ctx context.Context, o Order) error {
	return p.order(ctx, o, "resume", func(d *draft) error {
		if final(d.State) || leaving(d.State) {
			return d.refuse(EventResume)
		}
		d.hold(ByOperator, "")
		return nil
	})
}

// Deprovision closes the door to the tenant at once and has it archived and
// deleted after the grace period, or now. Asking again is harmless; Now
// shortens a grace period that runs.
func (p *Provisioner) Deprovision(ctx context.Context, o Order) error {
	grace := p.opts.Grace
	return p.order(ctx, o, "deprovision", func(d *draft) error {
		if final(d.State) || leaving(d.State) {
			return nil
		}
		d.Spec.DeleteBy = ByOperator
		switch {
		case o.Now:
			d.Spec.DeleteAt = d.Now
		case d.Spec.DeleteAt.IsZero():
			d.Spec.DeleteAt = d.Now.Add(grace)
		}
		return nil
	})
}

// Restore calls a deprovisioning off: within the grace period, or after one
// that failed before anything was dropped, whose keys are revoked. A tenant
// that never was active can't be restored.
func (p *Provisioner) Restore(ctx context.Context, o Order) error {
	return p.order(ctx, o, "restore", func(d *draft) error {
		if d.State == tenant.DeprovisionFailed {
			if err := d.apply(EventSchedule); err != nil {
				return err
			}
		}
		if d.State != tenant.DeprovisionScheduled || d.ActivatedAt.IsZero() {
			return d.refuse(EventRestore)
		}
		d.Spec.DeleteAt, d.Spec.DeleteBy = time.Time{}, ""
		return nil
	})
}

// Retry begins a failed operation again, or one that waits for its next
// attempt at once.
func (p *Provisioner) Retry(ctx context.Context, o Order) error {
	return p.order(ctx, o, "retry", func(d *draft) error {
		if final(d.State) || d.State == tenant.DeprovisionScheduled {
			return d.refuse(EventRetry)
		}
		d.wake()
		return nil
	})
}

func (p *Provisioner) order(ctx context.Context, o Order, action string, edit func(*draft) error) error {
	if o.Tenant.IsZero() {
		return invalid("Tenant", "is required")
	}
	if err := validText("Actor", o.Actor); err != nil {
		return err
	}
	if err := validText("Reason", o.Reason); err != nil {
		return err
	}
	actor := o.Actor
	if actor == "" {
		actor = ByOperator
	}
	return p.update(ctx, o.Tenant, false, change(actor, o.Reason, func(d *draft) error {
		d.note(action)
		return edit(d)
	}))
}
