package stripebill_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
)

// TestReconcile: one unit too many among a million at Stripe, reported by
// somebody else, is found by the next comparison; and an account in which it is
// all as it should be shows none, lag or not.
func TestReconcile(t *testing.T) {
	t.Parallel()
	for name, d := range map[string]deal{"meter": {}, "usage record": {legacy: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlayer(t, d)
			w := setup(t, &stripetest.Options{Now: p.clock.Now, SummaryLag: 30 * time.Minute})
			sub, err := p.subscribe(t.Context(), w)
			require.NoError(t, err)
			target := sub.Targets[0]
			reporter := stripebill.NewReporter(w.client, &stripebill.ReporterOptions{MaxPerSecond: -1})
			worker, err := billing.NewWorker(p.ledger, reporter, &billing.WorkerOptions{Now: p.clock.Now})
			require.NoError(t, err)
			drift := func() string {
				t.Helper()
				require.NoError(t, worker.Reconcile(t.Context()))
				drifts, err := p.ledger.Drifts(t.Context(), target.Tenant)
				require.NoError(t, err)
				out := ""
				for _, d := range drifts {
					out += fmt.Sprintf("%d of %d", d.Provider, d.Confirmed)
				}
				return out
			}
			for range 4 {
				p.clock.Advance(20 * time.Minute)
				require.NoError(t, p.produce(t.Context(), target.Tenant, 250_000))
				require.NoError(t, worker.Tick(t.Context()))
				require.Empty(t, drift())
			}
			at := p.clock.Now().Add(-time.Minute).Unix()
			if !d.legacy {
				w.rawObject(t, "POST", "/v1/billing/meter_events", fmt.Sprintf("event_name=%s&timestamp=%d&payload[stripe_customer_id]=%s&payload[value]=1",
					target.Meter, at, target.Customer))
			} else {
				w.rawObject(t, "POST", "/v1/subscription_items/"+target.Item+"/usage_records", fmt.Sprintf("action=increment&quantity=1&timestamp=%d", at))
			}
			p.clock.Advance(2 * time.Hour)
			want := "1000001 of 1000000"
			if !d.legacy { // of the hour
				want = "500001 of 500000"
			}
			require.Equal(t, want, drift())

			gone := target
			gone.Item, gone.MeterID = "si_gone", "mtr_gone"
			_, err = reporter.UsageTotal(t.Context(), gone, sub.PeriodStart, sub.PeriodEnd)
			require.ErrorIs(t, err, billing.ErrNoTotals)
		})
	}
}
