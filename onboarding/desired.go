package onboarding

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Request asks for a tenant. Empty fields of a tenant that exists stay as they
// are.
type Request struct {
	Tenant   tenant.ID   // required
	Plan     tenant.Plan // required for a new tenant
	Name     string      // shown to operators
	Email    string      // of whoever answers for it
	Customer string      // the billing provider's id

	// The current billing period, both or neither.
	PeriodStart, PeriodEnd time.Time

	// Actor is who asks, for the audit log.
	// Defaults to "operator".
	Actor string
}

// Desired is what billing says a tenant should be: all of it each time, as it
// stands now. Only a Desired that is newer than the last one has an effect, so
// any order and any repetition end in the same state.
type Desired struct {
	Request

	// Seq orders what billing says of one tenant; greater than zero, and
	// larger is newer.
	Seq int64

	// Checkout is the id of the paid checkout session that asks for the
	// tenant, where that is what this is about. The first one is kept.
	Checkout string

	// Suspend is why billing keeps the tenant from serving ("past_due"); empty
	// when it may serve.
	Suspend string

	// Cancel says that the subscription is over: the tenant leaves after the
	// grace period.
	Cancel bool
}

// Provision raises the wish for a tenant, and returns when it is stored; the
// reconciler does the rest. See [Provisioner.Wait]. Asking again is harmless:
// for a tenant that exists it applies what differs, and one that failed is
// tried again. It returns an error that matches [ErrTombstone] for one that is
// gone, [ErrForbidden] for one that is scheduled to go, [ErrInvalid] for a
// field that can't be.
func (p *Provisioner) Provision(ctx context.Context, r Request) error {
	if err := p.validate(r); err != nil {
		return err
	}
	actor := r.Actor
	if actor == "" {
		actor = ByOperator
	}
	return p.update(ctx, r.Tenant, true, change(actor, "", func(d *draft) error {
		if final(d.State) || leaving(d.State) || d.State == tenant.DeprovisionScheduled {
			return d.refuse(EventStart)
		}
		before := d.Spec.clone()
		if err := d.merge(r); err != nil {
			return err
		}
		switch {
		case d.SpecVersion == 0 || !d.Spec.equal(before):
			d.note("provision")
		case d.State == tenant.Failed:
			d.note("retry")
		}
		d.wake()
		return nil
	}))
}

// Raise applies what billing says. A Desired that isn't newer than the last
// one applied is ignored, but for its Checkout, which is taken where there is
// none yet. Changes of plan and period of a living tenant, suspension and
// the closing of the door take effect in the one transaction that Raise makes.
//
// A tombstone wins: a Desired that wants a tenant to live which is gone is
// refused with an error that matches [ErrTombstone], and nothing is changed.
func (p *Provisioner) Raise(ctx context.Context, in Desired) error {
	if err := p.validate(in.Request); err != nil {
		return err
	}
	if in.Seq <= 0 {
		return invalid("Seq", "must be greater than zero")
	}
	if err := validText("Checkout", in.Checkout); err != nil {
		return err
	}
	if err := validText("Suspend", in.Suspend); err != nil {
		return err
	}
	grace := p.opts.Grace
	return p.update(ctx, in.Tenant, true, change(ByBilling, in.Suspend, func(d *draft) error {
		return d.raise(in, grace)
	}))
}

func (d *draft) raise(in Desired, grace time.Duration) error {
	fresh := in.Seq > d.BillingSeq
	switch {
	case final(d.State) && !in.Cancel:
		return d.refuse(EventStart)
	case leaving(d.State) && !in.Cancel && in.Checkout != "":
		return d.refuse(EventStart)
	case final(d.State), leaving(d.State):
		return nil // it is leaving already; what billing notices of that changes nothing
	case d.Spec.DeleteBy == ByOperator && !in.Cancel && in.Checkout != "" && fresh:
		return d.refuse(EventStart) // somebody pays for what an operator is deleting
	case d.State == tenant.DeprovisionScheduled && d.ActivatedAt.IsZero() && !in.Cancel && fresh:
		return d.refuse(EventRestore) // there is nothing to restore, and no way back to provisioning
	}
	before := d.Spec.clone()
	if d.Spec.Checkout == "" {
		d.Spec.Checkout = in.Checkout
	}
	if !fresh {
		return nil
	}
	d.BillingSeq = in.Seq
	if in.Cancel && d.SpecVersion == 0 && in.Plan == "" {
		in.Plan = "none" // a tombstone of what never lived
	}
	if err := d.merge(in.Request); err != nil {
		return err
	}
	d.hold(ByBilling, in.Suspend)
	switch {
	case in.Cancel && d.Spec.DeleteAt.IsZero():
		d.Spec.DeleteAt, d.Spec.DeleteBy = d.Now.Add(grace), ByBilling
	case !in.Cancel && d.Spec.DeleteBy == ByBilling:
		d.Spec.DeleteAt, d.Spec.DeleteBy = time.Time{}, ""
	}
	if !d.Spec.equal(before) {
		d.note("raise")
		d.wake()
	}
	return nil
}

// merge takes over what r names.
func (d *draft) merge(r Request) error {
	set := func(dst *string, v string) {
		if v != "" {
			*dst = v
		}
	}
	set(&d.Spec.Name, r.Name)
	set(&d.Spec.Email, r.Email)
	set(&d.Spec.Customer, r.Customer)
	if r.Plan != "" {
		d.Spec.Plan = r.Plan
	}
	if !r.PeriodStart.IsZero() {
		d.Spec.PeriodStart, d.Spec.PeriodEnd = r.PeriodStart.UTC(), r.PeriodEnd.UTC()
	}
	if d.Spec.Plan == "" {
		return invalid("Plan", "is required for a new tenant")
	}
	return nil
}

// hold sets or lifts who's hold.
func (d *draft) hold(who, why string) {
	if why == "" {
		delete(d.Spec.Holds, who)
		return
	}
	if d.Spec.Holds == nil {
		d.Spec.Holds = make(map[string]string, 1)
	}
	d.Spec.Holds[who] = why
}

// wake makes the tenant due where there may be work. A failed operation is
// begun again: what is wanted has changed, or somebody asks again.
func (d *draft) wake() {
	if !final(d.State) {
		d.NextAt = d.Now
	}
}

func (p *Provisioner) validate(r Request) error {
	if r.Tenant.IsZero() {
		return invalid("Tenant", "is required")
	}
	if r.Plan != "" && !p.plans[r.Plan] {
		return invalid("Plan", fmt.Sprintf("%.40q is unknown", r.Plan))
	}
	for _, f := range []struct{ name, value string }{
		{"Name", r.Name}, {"Email", r.Email}, {"Customer", r.Customer}, {"Actor", r.Actor},
	} {
		if err := validText(f.name, f.value); err != nil {
			return err
		}
	}
	if r.PeriodStart.IsZero() != r.PeriodEnd.IsZero() || !r.PeriodStart.IsZero() && !r.PeriodStart.Before(r.PeriodEnd) {
		return invalid("PeriodEnd", "must lie after PeriodStart")
	}
	return nil
}

// validText refuses what PostgreSQL, a log line or a terminal can't show.
func validText(field, s string) error {
	const most = 500
	switch {
	case len(s) > most:
		return invalid(field, fmt.Sprintf("is longer than %d bytes", most))
	case !utf8.ValidString(s):
		return invalid(field, "is not UTF-8")
	case strings.ContainsFunc(s, unicode.IsControl):
		return invalid(field, "has control characters")
	}
	return nil
}

func invalid(field, problem string) error {
	return fmt.Errorf("%w: %s %s", ErrInvalid, field, problem)
}
