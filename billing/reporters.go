package billing

import (
	"context"
	"fmt"
	"time"
)

// Reporters is a [Reporter] to several providers: each delivery goes to the
// reporter of its Target.Provider. With two targets, of one provider or of two,
// the tenant's usage goes to both, and each has its own batches, slots and
// states: that is how one moves from a provider, or from one kind of metering,
// to another. See [Route].
//
// A target of a provider that is not in the map keeps its batches waiting.
type Reporters map[string]Reporter

var (
	_ Reporter = Reporters(nil)
	_ Totaler  = Reporters(nil)
	_ Voider   = Reporters(nil)
)

func (r Reporters) of(t Target) (Reporter, error) {
	if one := r[t.Provider]; one != nil {
		return one, nil
	}
	return nil, fmt.Errorf("billing: no reporter for provider %q", t.Provider)
}

// Report implements [Reporter].
func (r Reporters) Report(ctx context.Context, d Delivery) (Receipt, error) {
	one, err := r.of(d.Target)
	if err != nil {
		return Receipt{}, err
	}
	return one.Report(ctx, d)
}

// Verify implements [Reporter].
func (r Reporters) Verify(ctx context.Context, d Delivery) (Presence, error) {
	one, err := r.of(d.Target)
	if err != nil {
		return Ambiguous, err
	}
	return one.Verify(ctx, d)
}

// Caps implements [Reporter]; those of an unknown provider are zero.
func (r Reporters) Caps(t Target) Caps {
	one, err := r.of(t)
	if err != nil {
		return Caps{}
	}
	return one.Caps(t)
}

// UsageTotal implements [Totaler], with [ErrNoTotals] for a provider that can't.
func (r Reporters) UsageTotal(ctx context.Context, t Target, from, to time.Time) (int64, error) {
	one, err := r.of(t)
	if err != nil {
		return 0, err
	}
	totals, ok := one.(Totaler)
	if !ok {
		return 0, ErrNoTotals
	}
	return totals.UsageTotal(ctx, t, from, to)
}

// Void implements [Voider], with [ErrNoVoid] for a provider that can't.
func (r Reporters) Void(ctx context.Context, d Delivery) (Receipt, error) {
	one, err := r.of(d.Target)
	if err != nil {
		return Receipt{}, err
	}
	v, ok := one.(Voider)
	if !ok {
		return Receipt{}, ErrNoVoid
	}
	return v.Void(ctx, d)
}

// Route returns a source that tells what s does, except where usage goes: each
// target of a subscription becomes what to makes of it. That may be the target
// itself, one at another provider, or both while moving from one to the other;
// a target that becomes none is not billed at all.
//
// Usage goes elsewhere from when the ledger is next told of the subscription.
func Route(s Source, to func(Target) []Target) Source { return routed{s, to} }

type routed struct {
	Source
	to func(Target) []Target
}

// Fetch implements [Source].
func (r routed) Fetch(ctx context.Context, n Notice) (Change, error) {
	c, err := r.Source.Fetch(ctx, n)
	if err != nil || c.Subscription == nil {
		return c, err
	}
	s := *c.Subscription
	s.Targets = nil
	for _, t := range c.Subscription.Targets {
		s.Targets = append(s.Targets, r.to(t)...)
	}
	c.Subscription = &s
	return c, nil
}
