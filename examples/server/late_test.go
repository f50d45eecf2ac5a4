package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// periodOverSQL has the tenant's billing period end two hours ago, and the next
// begin.
const periodOverSQL = `
with over as (
	update mcpsaas.billing_periods set live = false,
		period_start = now() - interval '30 days', since = now() - interval '30 days',
		period_end = now() - interval '2 hours', until = now() - interval '2 hours'
	where tenant_id = $1 returning tenant_id, target_id, subscription_id, until)
insert into mcpsaas.billing_periods (tenant_id, target_id, subscription_id, period_start, period_end, since, until, live)
select tenant_id, target_id, subscription_id, until, until + interval '30 days', until, until + interval '30 days', true from over`

// TestLateUsage: what an enterprise used before its billing period ended, and that
// is known two hours after, is a line by itself on its next invoice, which leads an
// operator back to the batch and the event.
//
// Seen failing without InvoiceItem (the server doesn't start) and with the policy of
// the other plans.
func TestLateUsage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.serve(nil)
	who := r.tenant(tenant.Enterprise)
	eventually(t, "all is known of the subscription", func() bool {
		return w.number(t, `select count(*) from mcpsaas.billing_notices where state in ('new', 'working')`) == 0 && len(w.stripe.Undelivered()) == 0
	})
	_, err := w.superPool(t).Exec(t.Context(), periodOverSQL, who.ID)
	require.NoError(t, err)

	late := usage.Event{ID: tenant.NewID().String(), Tenant: who.ID, Plan: tenant.Enterprise, Tool: "generate_report", Units: 7,
		Outcome: usage.OK, Time: time.Now().UTC().Add(-3 * time.Hour)}
	line, err := json.Marshal(late)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "usage_events.jsonl")
	require.NoError(t, os.WriteFile(path, append(line, '\n'), 0o600))
	_, err = w.command("billing", "backfill", path, "-actor", "ann", "-reason", "a lost disk")
	require.NoError(t, err)

	var items struct {
		Data []struct {
			Subscription string
			Quantity     int64
			Metadata     map[string]string
		}
	}
	eventually(t, "it is charged for by itself", func() bool {
		w.askStripe(t, http.MethodGet, "/v1/invoiceitems?customer="+who.StripeCustomer, nil, &items)
		return len(items.Data) == 1
	})
	item := items.Data[0]
	require.EqualValues(t, 7, item.Quantity)
	require.Zero(t, w.stripe.UsageTotal(who.StripeCustomer, unitsMeter))

	explain := func(about string, args ...string) (all []explained) {
		t.Helper()
		text, err := w.command(append([]string{"billing", "explain", about, "-events", "-json"}, args...)...)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal([]byte(text), &all), text)
		return all
	}
	var invoice struct{ ID string }
	w.askStripe(t, http.MethodPost, "/v1/invoices", url.Values{
		"customer": {who.StripeCustomer}, "subscription": {item.Subscription}, "pending_invoice_items_behavior": {"include"},
	}, &invoice)
	eventually(t, "the charge is confirmed", func() bool {
		all := explain(invoice.ID)
		return len(all) == 1 && all[0].Units == pgledger.Units{Produced: 7, Billed: 7}
	})
	x := explain(invoice.ID)[0]
	require.Equal(t, billing.ModeInvoiceItem, x.Target.Mode)
	require.Equal(t, item.Metadata["batch"], x.Line.Batch)
	require.Equal(t, x.Line.Batch, x.Batches[0].ID)
	require.Equal(t, []string{late.ID}, x.Batches[0].EventIDs)

	period := explain(who.ID.String(), "-at", late.Time.Format(time.RFC3339))
	require.Len(t, period, 2, "its meter, and the items beside it")
	require.Equal(t, pgledger.Units{Produced: 7, Moved: 7}, period[0].Units)
	require.Equal(t, x.Batches[0].ID, period[0].Batches[0].MovedTo)
}
