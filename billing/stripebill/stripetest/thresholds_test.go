package stripetest_test

import (
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
)

// invoicesOf are the reasons, statuses and units of a customer's invoices, oldest
// first.
func invoicesOf(t *testing.T, s *stripetest.Server, customer string) (out []string) {
	t.Helper()
	for _, o := range read(t, s, "/v1/invoices?limit=100&customer="+customer)["data"].([]any) {
		inv := o.(map[string]any)
		units := 0
		for _, l := range inv["lines"].(map[string]any)["data"].([]any) {
			if price := l.(map[string]any)["price"].(map[string]any); price["recurring"].(map[string]any)["usage_type"] == "metered" {
				units += int(l.(map[string]any)["quantity"].(float64))
			}
		}
		out = append([]string{inv["billing_reason"].(string) + " " + inv["status"].(string) + " " + strconv.Itoa(units)}, out...)
	}
	return out
}

func status(t *testing.T, s *stripetest.Server, method, path string, form url.Values) int {
	t.Helper()
	code, _, _ := call(t, s, method, path, form, nil)
	return code
}

// TestThresholdInvoices: usage that reaches a threshold is invoiced at once, and once,
// in both modes, by units and by amount; the invoice of the period takes the rest. No
// threshold is looked at a day before the period ends.
//
// Mutations seen by it: what a threshold's invoice has billed again with the period,
// and a threshold looked at on the last day.
func TestThresholdInvoices(t *testing.T) {
	t.Parallel()
	for name, legacy := range map[string]bool{"meter": false, "usage records": true} {
		for by, threshold := range map[string]string{"units": "items[1][billing_thresholds][usage_gte]=100", "amount": "billing_thresholds[amount_gte]=10"} {
			t.Run(name+" by "+by, func(t *testing.T) {
				t.Parallel()
				s := newServer(t, nil)
				o := newShop(t, s, legacy)
				o.customer = create(t, s, "/v1/customers", nil)
				form, err := url.ParseQuery("customer=" + o.customer + "&items[0][price]=" + o.flat + "&items[1][price]=" + o.metered + "&" + threshold)
				require.NoError(t, err)
				code, sub, _ := call(t, s, http.MethodPost, "/v1/subscriptions", form, nil)
				require.Equal(t, 200, code, "%v", sub)
				item := sub["items"].(map[string]any)["data"].([]any)[1].(map[string]any)["id"].(string)
				use := func(units string) {
					t.Helper()
					s.Advance(time.Minute)
					if legacy {
						require.Equal(t, 200, status(t, s, http.MethodPost, "/v1/subscription_items/"+item+"/usage_records", url.Values{"quantity": {units}, "action": {"increment"}, "timestamp": {"now"}}))
					} else {
						require.Equal(t, 200, status(t, s, http.MethodPost, "/v1/billing/meter_events", o.use(units, "", s.Now())))
					}
				}
				use("90")
				require.Equal(t, []string{"subscription_create paid 0"}, invoicesOf(t, s, o.customer))
				use("20")
				use("5")
				require.Equal(t, []string{"subscription_create paid 0", "subscription_threshold draft 110"}, invoicesOf(t, s, o.customer))
				use("95")
				s.Advance(2 * time.Hour)
				require.Equal(t, []string{"subscription_create paid 0", "subscription_threshold paid 110", "subscription_threshold paid 100"}, invoicesOf(t, s, o.customer))
				s.Advance(time.Unix(int64(sub["current_period_end"].(float64)), 0).Add(-23 * time.Hour).Sub(s.Now()))
				use("300")
				require.Len(t, invoicesOf(t, s, o.customer), 3, "the period ends soon")
				s.Advance(26 * time.Hour)
				require.Equal(t, "subscription_cycle paid 300", invoicesOf(t, s, o.customer)[3])
				require.EqualValues(t, 510, s.Billed(o.customer))
			})
		}
	}
}

// TestThresholdResets: with reset_billing_cycle_anchor a threshold begins a period;
// on trial it does nothing.
//
// Mutation seen by it: trials not left out.
func TestThresholdResets(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	for _, trial := range []bool{true, false} {
		o.customer = create(t, s, "/v1/customers", nil)
		form := url.Values{"customer": {o.customer}, "items[0][price]": {o.flat}, "items[1][price]": {o.metered},
			"billing_thresholds[amount_gte]": {"10"}, "billing_thresholds[reset_billing_cycle_anchor]": {"true"}}
		if trial {
			form.Set("trial_period_days", "14")
		}
		id := create(t, s, "/v1/subscriptions", form)
		s.Advance(time.Hour)
		require.Equal(t, 200, status(t, s, http.MethodPost, "/v1/billing/meter_events", o.use("120", "", s.Now())))
		sub := read(t, s, "/v1/subscriptions/"+id)
		require.Equal(t, true, sub["billing_thresholds"].(map[string]any)["reset_billing_cycle_anchor"])
		if trial {
			require.Len(t, invoicesOf(t, s, o.customer), 1)
			continue
		}
		require.Equal(t, []string{"subscription_create paid 0", "subscription_threshold draft 120"}, invoicesOf(t, s, o.customer))
		require.InDelta(t, s.Now().Unix(), sub["current_period_start"], 1)
		require.Equal(t, sub["billing_cycle_anchor"], sub["current_period_start"])
		s.Advance(2 * time.Hour)
		require.EqualValues(t, 120, s.Billed(o.customer))
	}
}

// TestCancelAt: a subscription ends at the time that was given, with an invoice for
// its usage until then; or doesn't, when that was taken back.
//
// Mutation seen by it: the time left out of what falls due.
func TestCancelAt(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	path := "/v1/subscriptions/" + o.subscription
	end := start.Add(10 * 24 * time.Hour)
	for _, bad := range []url.Values{
		{"cancel_at": {unix(start)}}, {"cancel_at": {"soon"}},
		{"cancel_at": {unix(end)}, "cancel_at_period_end": {"true"}},
	} {
		require.Equal(t, 400, status(t, s, http.MethodPost, path, bad))
	}
	for _, at := range []string{unix(end), "", unix(end)} {
		require.Equal(t, 200, status(t, s, http.MethodPost, path, url.Values{"cancel_at": {at}}))
		require.Equal(t, at != "", read(t, s, path)["cancel_at"] != nil)
	}
	s.Advance(10*24*time.Hour - time.Second)
	require.Equal(t, 200, status(t, s, http.MethodPost, "/v1/billing/meter_events", o.use("7", "", s.Now())))
	require.Equal(t, "active", read(t, s, path)["status"])
	s.Advance(time.Second)
	sub := read(t, s, path)
	require.Equal(t, "canceled", sub["status"])
	require.EqualValues(t, end.Unix(), sub["ended_at"])
	require.Len(t, read(t, s, "/v1/events?type=customer.subscription.deleted")["data"], 1)
	s.Advance(2 * time.Hour)
	require.EqualValues(t, 7, s.Billed(o.customer))

	// From the beginning, in a later period.
	id := create(t, s, "/v1/subscriptions", url.Values{"customer": {o.customer}, "items[0][price]": {o.flat}, "cancel_at": {unix(s.Now().AddDate(0, 0, 45))}})
	s.Advance(44 * 24 * time.Hour)
	require.Equal(t, "active", read(t, s, "/v1/subscriptions/"+id)["status"])
	s.Advance(25 * time.Hour)
	require.Equal(t, "canceled", read(t, s, "/v1/subscriptions/"+id)["status"])
}
