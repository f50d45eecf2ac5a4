package billingtest_test

import (
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func TestProvider(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]billing.Target{
		"meter":        {Mode: billing.ModeMeter, Meter: "calls"},
		"usage record": {Mode: billing.ModeUsageRecord, Item: "si_1"},
		"additive":     {Mode: billing.ModeUsageRecord, Item: "si_1", Additive: true},
		"invoice item": {Mode: billing.ModeInvoiceItem, Item: "si_1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			billingtest.TestReporter(t, func(t *testing.T) billingtest.Fixture {
				clock := billingtest.NewClock(time.Date(2026, 3, 10, 9, 17, 23, 0, time.UTC))
				p := billingtest.NewProvider(to.Mode, clock.Now)
				target := to
				target.Tenant, target.Provider, target.Customer = tenant.NewID(), "test", "cus_1"
				from, until := clock.Now().Add(-time.Hour), clock.Now().AddDate(0, 1, 0)
				return billingtest.Fixture{
					Reporter: p, Target: target, PeriodStart: from, PeriodEnd: until,
					Now: clock.Now, Advance: clock.Advance,
					Fail:   func(f billingtest.Fault) { p.Fail(f) },
					Billed: func() int64 { return p.Total(target, from, until) },
					Exact:  to.Mode == billing.ModeInvoiceItem,
				}
			})
		})
	}
}
