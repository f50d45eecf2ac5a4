package onboarding

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// releaseTimeout bounds the last write of a run whose context has ended.
const releaseTimeout = 5 * time.Second

// Run works on the tenants that are due until ctx ends, then gives its leases
// back and returns nil. An error of the store is logged and tried again: Run
// outlives an outage.
//
// A Provisioner without Steps.Provision, such as an operator's command has,
// raises what is desired and waits, but can't run: a tenant would be active
// without anything proved.
func (p *Provisioner) Run(ctx context.Context) error {
	if len(p.steps.Provision) == 0 {
		return errors.New("onboarding: Steps.Provision is empty")
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { p.watch(ctx) })

	slots := make(chan struct{}, p.opts.Workers)
	for {
		select {
		case <-ctx.Done():
			return nil
		case slots <- struct{}{}:
		}
		bell := p.listen()
		held, err := p.state.Claim(ctx, p.opts.Owner, p.opts.Lease)
		if err == nil {
			wg.Go(func() {
				defer func() { <-slots }()
				p.reconcile(ctx, held)
				p.ring() // it may be due again, and somebody may wait for it
			})
			continue
		}
		<-slots
		if !errors.Is(err, ErrNoneDue) && ctx.Err() == nil {
			p.log.LogAttrs(ctx, slog.LevelError, "claim failed", slog.Any("err", err))
			bell = nil // an outage is no reason to ask more often
		}
		if pause(ctx, p.opts.Poll, bell) != nil {
			return nil
		}
	}
}

// watch keeps the store's notifications coming.
func (p *Provisioner) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := p.state.Watch(ctx, p.ring)
		if ctx.Err() == nil {
			p.log.LogAttrs(ctx, slog.LevelWarn, "watch ended; polling only", slog.Any("err", err))
			pause(ctx, p.opts.Lease, nil)
		}
	}
}

// reconcile works on one tenant until there is nothing to do for it now, and
// gives the lease back.
func (p *Provisioner) reconcile(ctx context.Context, held Record) {
	work, stop := p.hold(ctx, held)
	defer stop()
	for {
		next, err := p.advance(work, held)
		if err == nil {
			if next.State != held.State {
				p.log.LogAttrs(ctx, slog.LevelInfo, "tenant is "+string(next.State), slog.String("tenant", held.Tenant.String()))
				p.ring()
			}
			held = next
			if held.LeaseOwner == "" {
				return
			}
			continue
		}
		p.release(ctx, held, err)
		return
	}
}

// hold renews the lease until stop is called; the context ends when it is lost.
func (p *Provisioner) hold(ctx context.Context, held Record) (work context.Context, stop func()) {
	work, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for pause(work, p.opts.Lease/3, nil) == nil {
			// An outage of the store isn't a lost lease yet; the fence guards
			// what is written after it.
			if err := p.state.Renew(work, held, p.opts.Lease); errors.Is(err, ErrLeaseLost) {
				cancel(ErrLeaseLost)
			}
		}
	})
	return work, func() {
		cancel(nil)
		wg.Wait()
	}
}

// release gives the lease back after err, also when ctx has ended: another
// process need not wait for the lease to run out.
func (p *Provisioner) release(ctx context.Context, held Record, err error) {
	stopped := ctx.Err() != nil
	// The state was changed while we worked. Whoever did that has set when it
	// is due.
	moved := errors.Is(err, ErrForbidden) || errors.Is(err, ErrLeaseLost)
	if !stopped && !moved {
		p.log.LogAttrs(ctx, slog.LevelError, "reconcile failed",
			slog.String("tenant", held.Tenant.String()), slog.Any("err", err))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	_, err = p.state.Advance(ctx, held, change(reconciler, "", func(d *draft) error {
		if !stopped && !moved {
			d.NextAt = d.Now.Add(p.opts.Backoff)
		}
		d.LeaseOwner, d.LeaseUntil = "", time.Time{}
		return nil
	}))
	if err != nil && !errors.Is(err, ErrLeaseLost) {
		p.log.LogAttrs(ctx, slog.LevelWarn, "lease not given back; it will run out",
			slog.String("tenant", held.Tenant.String()), slog.Any("err", err))
	}
}

const reconciler = "reconciler" // the actor of its transitions

// transition makes one event and keeps the lease.
func (p *Provisioner) transition(ctx context.Context, held Record, e Event, edit func(*draft)) (Record, error) {
	return p.state.Advance(ctx, held, change(reconciler, "", func(d *draft) error {
		if edit != nil {
			edit(d)
		}
		return d.apply(e)
	}))
}

// rest gives the lease back with the tenant in good order: due again at next,
// or never, unless the wish was changed since held was read.
func (p *Provisioner) rest(ctx context.Context, held Record, next time.Time, f *Failure) (Record, error) {
	return p.state.Advance(ctx, held, change(reconciler, "", func(d *draft) error {
		if d.State == held.State && d.SpecVersion == held.SpecVersion {
			d.NextAt = next
			d.Failure = f
		}
		d.LeaseOwner, d.LeaseUntil = "", time.Time{}
		return nil
	}))
}

// advance does the work of the state that held is in.
func (p *Provisioner) advance(ctx context.Context, held Record) (Record, error) {
	switch held.State {
	case tenant.Requested:
		return p.transition(ctx, held, EventStart, nil)
	case tenant.Provisioning:
		return p.operate(ctx, held, p.steps.Provision, func(*Task) (Record, error) {
			return p.transition(ctx, held, EventActivate, nil)
		})
	case tenant.Failed, tenant.DeprovisionFailed:
		if err := p.reset(ctx, held); err != nil {
			return held, err
		}
		return p.transition(ctx, held, EventRetry, nil)
	case tenant.Active, tenant.Suspended:
		return p.operate(ctx, held, p.steps.Attend, func(*Task) (Record, error) {
			return p.rest(ctx, held, time.Time{}, nil)
		})
	case tenant.DeprovisionScheduled:
		if held.Spec.DeleteAt.After(held.Now) {
			return p.rest(ctx, held, held.Spec.DeleteAt, nil)
		}
		return p.transition(ctx, held, EventDeprovision, nil)
	case tenant.Deprovisioning:
		return p.operate(ctx, held, p.steps.Deprovision, func(t *Task) (Record, error) {
			return p.transition(ctx, held, EventPurge, func(d *draft) { d.ArchiveName, d.ArchiveDigest = t.archive() })
		})
	case tenant.Purging:
		return p.operate(ctx, held, p.steps.Purge, func(*Task) (Record, error) {
			return p.transition(ctx, held, EventBury, nil)
		})
	default:
		return p.rest(ctx, held, time.Time{}, nil)
	}
}
