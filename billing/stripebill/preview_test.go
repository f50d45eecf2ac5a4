package stripebill_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
)

// TestPreview: the flat price of the next period and the usage of this one, by
// either endpoint, without a change at Stripe.
func TestPreview(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2023-10-16", "2025-03-31.basil", "2026-10-28.endive"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			w := setupAs(t, &stripetest.Options{APIVersion: version}, stripebill.Options{APIVersion: version})
			target := w.sellPro(t)
			sub := w.rawObject(t, http.MethodGet, "/v1/subscriptions?customer="+target.Customer, "")["data"].([]any)[0].(map[string]any)["id"].(string)
			receipt, err := stripebill.NewReporter(w.client, nil).Report(t.Context(), delivery(target, 1200, start))
			require.NoError(t, err)
			require.Empty(t, receipt.Reason)
			w.stripe.Advance(time.Hour)
			for range 2 {
				p, err := w.client.Preview(t.Context(), sub)
				require.NoError(t, err)
				require.Equal(t, "usd", p.Currency)
				require.EqualValues(t, 4900+120, p.Total)
				require.Equal(t, time.Date(2026, 2, 28, 10, 0, 0, 0, time.UTC), p.DueAt)
				lines := map[int64]int64{}
				for _, l := range p.Lines {
					lines[l.Quantity] = l.Amount
				}
				require.Equal(t, map[int64]int64{1: 4900, 1200: 120}, lines)
			}
			require.NoError(t, w.client.CancelSubscription(t.Context(), sub))
			for _, gone := range []string{sub, "sub_unknown", "../customers", ""} {
				_, err := w.client.Preview(t.Context(), gone)
				require.ErrorIs(t, err, stripebill.ErrNotFound, gone)
			}
		})
	}
}
