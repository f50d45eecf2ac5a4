package onboarding

import (
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// draft is a record under change, with what the audit log will say of it.
type draft struct {
	*Record
	actor, reason string
	entries       []Entry
}

// change makes a [Change] of edit: what edit did to the spec counts as a new
// version, and the transitions that follow from it at once are made in the
// same transaction.
func change(actor, reason string, edit func(*draft) error) Change {
	return func(r *Record) ([]Entry, error) {
		d := &draft{Record: r, actor: actor, reason: reason}
		before := r.Spec.clone()
		if err := edit(d); err != nil {
			return nil, err
		}
		if !r.Spec.equal(before) {
			r.SpecVersion++
		}
		if err := d.settle(); err != nil {
			return nil, err
		}
		return d.entries, nil
	}
}

// note writes a line into the audit log that is no transition.
func (d *draft) note(action string) {
	d.entries = append(d.entries, Entry{
		Tenant: d.Tenant, Actor: d.actor, Action: action, Reason: d.reason, From: d.State, To: d.State,
	})
}

// apply makes one transition.
func (d *draft) apply(e Event) error {
	to, err := Next(d.State, e)
	if err != nil {
		return d.refuse(e)
	}
	d.entries = append(d.entries, Entry{
		Tenant: d.Tenant, Actor: d.actor, Action: string(e), Reason: d.reason, From: d.State, To: to,
	})
	d.State = to
	d.NextAt = d.Now
	switch e {
	case EventActivate:
		d.ActivatedAt, d.Failure = d.Now, nil
	case EventSchedule:
		d.ClosedAt, d.Failure = d.Now, nil
	case EventRestore:
		d.ClosedAt = time.Time{}
	case EventDeprovision:
		d.Generation++
	case EventPurge:
		d.ArchivedAt, d.Failure = d.Now, nil
	case EventBury, EventCancel:
		// The last write: there is nothing left to hold a lease for. What a
		// tombstone needs to know of a person is nothing.
		d.Spec.Name, d.Spec.Email = "", ""
		d.BuriedAt, d.Failure, d.NextAt = d.Now, nil, time.Time{}
		d.LeaseOwner, d.LeaseUntil = "", time.Time{}
	}
	return nil
}

func (d *draft) refuse(e Event) error {
	return &TransitionError{Tenant: d.Tenant, From: d.State, Event: e}
}

// settle makes the transitions that need no work but follow from what is
// wanted: they open or close the door, and belong in the transaction that
// changed the wish.
func (d *draft) settle() error {
	for {
		e := d.due()
		if e == "" {
			break
		}
		if err := d.apply(e); err != nil {
			return err
		}
	}
	switch d.State {
	case tenant.Active, tenant.Suspended, tenant.Deleted, tenant.Cancelled:
		d.ObservedVersion = d.SpecVersion
	case tenant.DeprovisionScheduled:
		d.ObservedVersion = d.SpecVersion
		d.NextAt = d.Spec.DeleteAt
	}
	return nil
}

func (d *draft) due() Event {
	leave, held := !d.Spec.DeleteAt.IsZero(), len(d.Spec.Holds) > 0
	switch d.State {
	case tenant.Requested:
		if leave {
			return EventCancel
		}
	case tenant.Provisioning:
		if leave {
			return EventFail // a tenant that was never served leaves by way of failed
		}
	case tenant.Failed:
		if leave {
			return EventSchedule
		}
	case tenant.Active:
		if leave {
			return EventSchedule
		}
		if held {
			return EventSuspend
		}
	case tenant.Suspended:
		if leave {
			return EventSchedule
		}
		if !held {
			return EventResume
		}
	case tenant.DeprovisionScheduled:
		// Nobody is let in whose isolation was never proved.
		if !leave && !d.ActivatedAt.IsZero() {
			return EventRestore
		}
	}
	return ""
}
