package billing_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestReportersConform: going through the map changes nothing.
func TestReportersConform(t *testing.T) {
	t.Parallel()
	billingtest.TestReporter(t, func(t *testing.T) billingtest.Fixture {
		clock := billingtest.NewClock(time.Date(2026, 3, 10, 9, 17, 23, 0, time.UTC))
		p := billingtest.NewProvider(billing.ModeMeter, clock.Now)
		other := billingtest.NewProvider(billing.ModeUsageRecord, clock.Now)
		target := billing.Target{Tenant: tenant.NewID(), Provider: "test", Mode: billing.ModeMeter, Customer: "cus_1", Meter: "calls"}
		from, to := clock.Now().Add(-time.Hour), clock.Now().AddDate(0, 1, 0)
		return billingtest.Fixture{
			Reporter: billing.Reporters{"test": p, "other": other}, Target: target, PeriodStart: from, PeriodEnd: to,
			Now: clock.Now, Advance: clock.Advance,
			Fail:   func(f billingtest.Fault) { p.Fail(f) },
			Billed: func() int64 { return p.Total(target, from, to) + other.Total(target, from, to) },
		}
	})
}

// told is a source that tells what a function does.
type told func() billing.Change

func (f told) Fetch(context.Context, billing.Notice) (billing.Change, error) { return f(), nil }

func TestRoute(t *testing.T) {
	t.Parallel()
	item, meter := billing.Target{Provider: "a", Item: "si_1"}, billing.Target{Provider: "a", Meter: "calls"}
	sub := &billing.Subscription{ID: "sub_1", Targets: []billing.Target{item, meter}}
	source := billing.Route(told(func() billing.Change { return billing.Change{Subscription: sub} }), func(to billing.Target) []billing.Target {
		if to.Meter == "" {
			return nil
		}
		there := to
		there.Provider = "b"
		return []billing.Target{to, there}
	})
	c, err := source.Fetch(t.Context(), billing.Notice{})
	require.NoError(t, err)
	require.Equal(t, []billing.Target{meter, {Provider: "b", Meter: "calls"}}, c.Subscription.Targets)
	require.Equal(t, []billing.Target{item, meter}, sub.Targets, "what the source has is left alone")

	source = billing.Route(told(func() billing.Change { return billing.Change{} }), nil)
	c, err = source.Fetch(t.Context(), billing.Notice{})
	require.NoError(t, err)
	require.Nil(t, c.Subscription)
}
