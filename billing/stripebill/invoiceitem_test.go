package stripebill_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
	"github.com/stretchr/testify/require"
)

// lateOf is late usage of a period that ended a month before start.
func lateOf(to billing.Target, quantity int64) billing.Delivery {
	d := delivery(to, quantity, start)
	d.ID = tenant.NewID().String()
	d.IdempotencyKey = "test:" + d.ID
	d.PeriodStart, d.PeriodEnd = start.AddDate(0, -1, 0), start
	return d
}

// TestInvoiceItem: late usage is a line of the subscription's next invoice, of its
// own period and at the price of its item, that leads back to its batch; it can be
// taken back until that invoice is final. In both layouts of the API.
//
// Seen failing without the item's period, and without its namespace.
func TestInvoiceItem(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2023-10-16", "2026-08-26.dahlia"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			w := setupAs(t, nil, stripebill.Options{APIVersion: version})
			target := w.sellPro(t)
			to, ok := stripebill.InvoiceItem(target)
			require.True(t, ok)
			reporter := stripebill.NewReporter(w.client, nil)
			kept, gone := lateOf(to, 1_500), lateOf(to, 7)
			for _, d := range []billing.Delivery{kept, gone} {
				got, err := reporter.Report(t.Context(), d)
				require.NoError(t, err)
				require.Equal(t, billing.Accepted, got.Result, got.Reason)
			}
			sub := w.rawObject(t, http.MethodGet, "/v1/subscription_items/"+to.Item, "")["subscription"].(string)
			preview, err := w.client.Preview(t.Context(), sub)
			require.NoError(t, err)
			require.Equal(t, stripebill.PreviewLine{Description: "Usage from 2025-12-31 to 2026-01-31", Quantity: 1_500, Amount: 150,
				Start: start.AddDate(0, -1, 0), End: start}, preview.Lines[0])

			void, err := reporter.Void(t.Context(), gone)
			require.NoError(t, err)
			require.Equal(t, billing.Accepted, void.Result)
			w.stripe.Advance(28*24*time.Hour + time.Minute)
			invoice := w.rawObject(t, http.MethodGet, "/v1/invoices?limit=1&subscription="+sub, "")["data"].([]any)[0].(map[string]any)
			require.Equal(t, "draft", invoice["status"])
			customer, lines, err := w.client.InvoiceLines(t.Context(), invoice["id"].(string))
			require.NoError(t, err)
			require.Equal(t, to.Customer, customer)
			require.Contains(t, lines, stripebill.InvoiceLine{ID: lines[2].ID, Batch: kept.ID, Quantity: 1_500, From: start.AddDate(0, -1, 0), To: start})
			require.Len(t, lines, 3, "the plan, its usage, and this")

			presence, err := reporter.Verify(t.Context(), kept)
			require.NoError(t, err)
			require.Equal(t, billing.Present, presence)
			_, err = reporter.UsageTotal(t.Context(), to, start, start.AddDate(0, 1, 0))
			require.ErrorIs(t, err, billing.ErrNoTotals)
			w.stripe.Advance(2 * time.Hour)
			void, err = reporter.Void(t.Context(), kept)
			require.NoError(t, err)
			require.Equal(t, billing.Rejected, void.Result, "its invoice is final")
			require.EqualValues(t, 1_500, w.counted(to))
		})
	}
}

// TestInvoiceItemOfADraft is taken back from the invoice that has it.
func TestInvoiceItemOfADraft(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	to, _ := stripebill.InvoiceItem(w.sellLegacy(t))
	reporter := stripebill.NewReporter(w.client, nil)
	d := lateOf(to, 1_500)
	_, err := reporter.Report(t.Context(), d)
	require.NoError(t, err)
	w.stripe.Advance(28*24*time.Hour + time.Minute)
	for _, want := range []billing.Result{billing.Accepted, billing.AlreadyAccepted} {
		void, err := reporter.Void(t.Context(), d)
		require.NoError(t, err)
		require.Equal(t, want, void.Result, void.Reason)
	}
	invoice := w.rawObject(t, http.MethodGet, "/v1/invoices?limit=1&customer="+to.Customer, "")["data"].([]any)[0].(map[string]any)
	require.Equal(t, "draft", invoice["status"])
	require.EqualValues(t, 4900, invoice["total"])
}

// TestInvoiceItemIsRefused where the units have no price by themselves, or no
// invoice is to come; and waits while Stripe can't tell.
//
// Seen failing without the conditions on packages and on ended subscriptions, and
// when what Stripe can't tell counts as unknown.
func TestInvoiceItemIsRefused(t *testing.T) {
	t.Parallel()
	const each = `"billing_scheme":"per_unit","unit_amount":1,"unit_amount_decimal":"1","currency":"usd","transform_quantity":null`
	for name, test := range map[string]struct {
		price, status string
		code          int
		want          billing.Result
		reason        string
	}{
		"tiers":       {price: `"billing_scheme":"tiered","unit_amount":null,"unit_amount_decimal":null`, want: billing.Rejected, reason: "price price_1 is not the same for each unit"},
		"packages":    {price: strings.Replace(each, "null", `{"divide_by":100,"round":"up"}`, 1), want: billing.Rejected, reason: "not the same for each unit"},
		"ended":       {price: each, status: "canceled", want: billing.Rejected, reason: "the subscription has ended"},
		"no such":     {price: each, code: http.StatusNotFound, want: billing.Rejected, reason: "404"},
		"unavailable": {price: each, code: http.StatusServiceUnavailable, want: billing.NotApplied, reason: "503"},
		"key":         {price: each, code: http.StatusUnauthorized, want: billing.Unauthorized, reason: "401"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.status == "" {
				test.status = "active"
			}
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method != http.MethodGet:
					t.Errorf("it is charged for: %s", r.URL.Path)
				case test.code != 0:
					w.WriteHeader(test.code)
					_, _ = io.WriteString(w, `{"error":{"type":"invalid_request_error","message":"no"}}`)
				case strings.HasPrefix(r.URL.Path, "/v1/subscription_items/"):
					_, _ = io.WriteString(w, `{"id":"si_1","object":"subscription_item","subscription":"sub_1","price":{"id":"price_1",`+test.price+`}}`)
				default:
					_, _ = io.WriteString(w, `{"id":"sub_1","object":"subscription","customer":"cus_1","status":"`+test.status+`"}`)
				}
			}))
			defer s.Close()
			client, err := stripebill.New("sk_test_1", &stripebill.Options{APIBase: s.URL})
			require.NoError(t, err)
			to := billing.Target{Provider: stripebill.Provider, Mode: billing.ModeInvoiceItem, Customer: "cus_1", Item: "si_1"}
			got, err := stripebill.NewReporter(client, nil).Report(t.Context(), lateOf(to, 7))
			require.NoError(t, err)
			require.Equal(t, test.want, got.Result)
			require.Contains(t, got.Reason, test.reason)
			require.False(t, got.NewEpoch)
		})
	}
	_, ok := stripebill.InvoiceItem(billing.Target{Provider: "cloudevents", Mode: billing.ModeMeter, Item: "si_1"})
	require.False(t, ok)
	_, ok = stripebill.InvoiceItem(billing.Target{Provider: stripebill.Provider, Mode: billing.ModeMeter})
	require.False(t, ok, "nothing tells the price")
	_, ok = stripebill.InvoiceItem(billing.Target{Provider: stripebill.Provider, Mode: billing.ModeInvoiceItem, Item: "si_1"})
	require.False(t, ok, "it is one")
}
