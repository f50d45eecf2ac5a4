package stripebill_test

import (
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
)

// faults are the faults of billingtest as Stripe has them.
var faults = map[billingtest.Fault]stripetest.FaultKind{
	billingtest.DropBefore: stripetest.DropBefore,
	billingtest.DropAfter:  stripetest.DropAfter,
	billingtest.FailBefore: stripetest.Error500Before,
	billingtest.FailAfter:  stripetest.Error500After,
	billingtest.Truncated:  stripetest.Truncated,
	billingtest.Limited:    stripetest.RateLimited,
	billingtest.Conflict:   stripetest.Conflict,
	billingtest.Denied:     stripetest.Unauthorized,
	billingtest.Refused:    stripetest.Refused,
}

// inject has the next report meet the fault.
func (w world) inject(t *testing.T, fault billingtest.Fault) {
	t.Helper()
	w.injectAt(t, fault, "")
}

// injectAt has the next report to that path meet the fault.
func (w world) injectAt(t *testing.T, fault billingtest.Fault, path string) {
	t.Helper()
	if fault == billingtest.NoFault {
		return
	}
	kind, known := faults[fault]
	require.True(t, known, "fault %q", fault)
	w.stripe.Inject(stripetest.Fault{Kind: kind, Method: "POST", Path: path})
}

// injectDelete has the next request that deletes an invoice item meet the fault.
func (w world) injectDelete(t *testing.T, fault billingtest.Fault) {
	t.Helper()
	if kind, ok := faults[fault]; ok {
		w.stripe.Inject(stripetest.Fault{Kind: kind, Endpoint: "DELETE /v1/invoiceitems/{id}"})
	}
}

func TestReporterConforms(t *testing.T) {
	t.Parallel()
	for name, sell := range map[string]func(world, *testing.T) billing.Target{
		"meter": world.sellPro, "usage record": world.sellLegacy, "additive": world.sellAdditive,
		"invoice item": func(w world, t *testing.T) billing.Target {
			to, ok := stripebill.InvoiceItem(w.sellPro(t))
			require.True(t, ok)
			return to
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			billingtest.TestReporter(t, func(t *testing.T) billingtest.Fixture {
				clock := billingtest.NewClock(start)
				w := setup(t, &stripetest.Options{Now: clock.Now, SummaryLag: 10 * time.Minute})
				target := sell(w, t)
				clock.Advance(2 * time.Hour)
				return billingtest.Fixture{
					Reporter: stripebill.NewReporter(w.client, nil), Target: target,
					PeriodStart: start, PeriodEnd: time.Date(2026, 2, 28, 10, 0, 0, 0, time.UTC),
					Now: clock.Now, Advance: clock.Advance,
					Fail: func(f billingtest.Fault) {
						w.inject(t, f)
						w.injectDelete(t, f)
					},
					Cut:    w.stripe.Close,
					Billed: func() int64 { return w.counted(target) },
					Exact:  target.Mode == billing.ModeInvoiceItem,
				}
			})
		})
	}
}
