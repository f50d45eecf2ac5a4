package stripetest_test

import (
	"maps"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
)

// subscribe starts a subscription of the shop's customer and returns it.
func (o shop) subscribe(t *testing.T, s *stripetest.Server, more url.Values) map[string]any {
	t.Helper()
	form := url.Values{"customer": {o.customer}, "items[0][price]": {o.flat}}
	for k, v := range more {
		form[k] = v
	}
	status, out, _ := call(t, s, http.MethodPost, "/v1/subscriptions", form, nil)
	require.Equal(t, 200, status, "%v", out)
	return out
}

func read(t *testing.T, s *stripetest.Server, path string) map[string]any {
	t.Helper()
	status, out, _ := call(t, s, http.MethodGet, path, nil, nil)
	require.Equal(t, 200, status, "%v", out)
	return out
}

func statusOf(t *testing.T, s *stripetest.Server, subscription string) any {
	t.Helper()
	return read(t, s, "/v1/subscriptions/"+subscription)["status"]
}

// types are the events about an object, in their order.
func types(s *stripetest.Server, object string) (out []string) {
	for _, e := range s.Events() {
		if e.ObjectID == object {
			out = append(out, e.Type)
		}
	}
	return out
}

func TestTrials(t *testing.T) {
	t.Parallel()
	days := url.Values{"trial_period_days": {"14"}}
	without := func(behavior string) url.Values {
		return url.Values{"trial_period_days": {"14"}, "trial_settings[end_behavior][missing_payment_method]": {behavior}}
	}
	for name, tt := range map[string]struct {
		form url.Values
		want string
		last string
	}{
		"with a card":            {days, "active", "customer.subscription.updated"},
		"without, billed":        {without("create_invoice"), "active", "customer.subscription.updated"},
		"without, paused":        {without("pause"), "paused", "customer.subscription.updated"},
		"without, canceled":      {without("cancel"), "canceled", "customer.subscription.deleted"},
		"canceled at its end":    {url.Values{"trial_period_days": {"14"}, "cancel_at_period_end": {"true"}}, "canceled", "customer.subscription.deleted"},
		"a card given after all": {url.Values{"trial_period_days": {"14"}, "trial_settings[end_behavior][missing_payment_method]": {"pause"}, "default_payment_method": {"pm_card_visa"}}, "active", "customer.subscription.updated"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			o := newShop(t, s, false)
			sub := o.subscribe(t, s, tt.form)
			id := sub["id"].(string)
			require.Equal(t, "trialing", sub["status"])
			s.Advance(11*24*time.Hour - time.Second)
			require.NotContains(t, types(s, id), "customer.subscription.trial_will_end")
			s.Advance(time.Second)
			require.Contains(t, types(s, id), "customer.subscription.trial_will_end")
			s.Advance(3*24*time.Hour - time.Second)
			require.Equal(t, "trialing", statusOf(t, s, id))
			s.Advance(time.Second)
			require.Equal(t, tt.want, statusOf(t, s, id))
			seen := types(s, id)
			require.Equal(t, tt.last, seen[len(seen)-1])
		})
	}
}

func TestTrialEndsNow(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	id := o.subscribe(t, s, url.Values{"trial_period_days": {"14"}})["id"].(string)
	s.Advance(24 * time.Hour)
	create(t, s, "/v1/subscriptions/"+id, url.Values{"trial_end": {"now"}})
	sub := read(t, s, "/v1/subscriptions/"+id)
	require.Equal(t, "active", sub["status"])
	require.EqualValues(t, time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC).Unix(), sub["current_period_end"])
}

// TestResume: a paused subscription isn't billed; resumed, it begins a period.
func TestResume(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	id := o.subscribe(t, s, url.Values{"trial_period_days": {"1"}, "trial_settings[end_behavior][missing_payment_method]": {"pause"}})["id"].(string)
	status, _, _ := call(t, s, http.MethodPost, "/v1/subscriptions/"+id+"/resume", nil, nil)
	require.Equal(t, 400, status, "not paused yet")
	s.Advance(100 * 24 * time.Hour)
	require.Equal(t, "paused", statusOf(t, s, id))
	create(t, s, "/v1/subscriptions/"+id+"/resume", url.Values{"billing_cycle_anchor": {"now"}})
	sub := read(t, s, "/v1/subscriptions/"+id)
	require.Equal(t, "active", sub["status"])
	require.EqualValues(t, s.Now().Unix(), sub["current_period_start"])
	inv := read(t, s, "/v1/invoices/"+sub["latest_invoice"].(string))
	require.EqualValues(t, 4900, inv["amount_paid"])
	require.Contains(t, types(s, id), "customer.subscription.resumed")
}

// TestFirstPayment: without it a subscription is incomplete, for 23 hours.
func TestFirstPayment(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	require.NoError(t, s.Decline(o.customer, true))
	late, never := o.subscribe(t, s, nil), o.subscribe(t, s, nil)
	require.Equal(t, "incomplete", late["status"])
	pay := func(sub map[string]any) int {
		status, _, _ := call(t, s, http.MethodPost, "/v1/invoices/"+sub["latest_invoice"].(string)+"/pay", nil, nil)
		return status
	}
	require.Equal(t, 402, pay(late), "still declined")
	s.Advance(23*time.Hour - time.Second)
	require.NoError(t, s.Decline(o.customer, false))
	require.Equal(t, 200, pay(late))
	require.Equal(t, "active", statusOf(t, s, late["id"].(string)))
	s.Advance(time.Second)
	require.Equal(t, "incomplete_expired", statusOf(t, s, never["id"].(string)))
	require.Equal(t, "void", read(t, s, "/v1/invoices/"+never["latest_invoice"].(string))["status"])
	require.Equal(t, 400, pay(never))
}

// TestDunning: retries at their times, then what the settings say. Mutations
// seen by it: no second retry; the end after the first.
func TestDunning(t *testing.T) {
	t.Parallel()
	end := time.Date(2026, 2, 28, 11, 0, 0, 0, time.UTC) // finalised
	for name, want := range map[string]string{"canceled": "canceled", "unpaid": "unpaid", "past_due": "past_due", "": "past_due"} {
		t.Run("then "+name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, &stripetest.Options{Dunning: stripetest.Dunning{
				Retries: []time.Duration{3 * 24 * time.Hour, 5 * 24 * time.Hour}, Then: name}})
			o := newShop(t, s, false)
			require.NoError(t, s.Decline(o.customer, true))
			s.Advance(end.Sub(start))
			sub := read(t, s, "/v1/subscriptions/"+o.subscription)
			require.Equal(t, "past_due", sub["status"])
			invoice := "/v1/invoices/" + sub["latest_invoice"].(string)
			require.EqualValues(t, end.Add(3*24*time.Hour).Unix(), read(t, s, invoice)["next_payment_attempt"])
			s.Advance(3 * 24 * time.Hour)
			require.EqualValues(t, 2, read(t, s, invoice)["attempt_count"])
			s.Advance(5*24*time.Hour - time.Second)
			require.Equal(t, "past_due", statusOf(t, s, o.subscription))
			s.Advance(time.Second)
			require.EqualValues(t, 3, read(t, s, invoice)["attempt_count"])
			require.Nil(t, read(t, s, invoice)["next_payment_attempt"])
			require.Equal(t, want, statusOf(t, s, o.subscription))

			require.NoError(t, s.Decline(o.customer, false))
			create(t, s, invoice+"/pay", nil)
			if want != "canceled" {
				want = "active"
			}
			require.Equal(t, want, statusOf(t, s, o.subscription))
		})
	}
	_, err := stripetest.New(&stripetest.Options{Dunning: stripetest.Dunning{Then: "paused"}})
	require.ErrorContains(t, err, "Then")
	_, err = stripetest.New(&stripetest.Options{Dunning: stripetest.Dunning{Retries: []time.Duration{0}}})
	require.ErrorContains(t, err, "Retries")
}

// TestUnpaid: the invoices of an unpaid subscription stay drafts.
func TestUnpaid(t *testing.T) {
	t.Parallel()
	s := newServer(t, &stripetest.Options{Dunning: stripetest.Dunning{Then: "unpaid"}})
	o := newShop(t, s, false)
	require.NoError(t, s.Decline(o.customer, true))
	s.Advance(35 * 24 * time.Hour)
	require.Equal(t, "unpaid", statusOf(t, s, o.subscription))
	s.Advance(40 * 24 * time.Hour)
	last := read(t, s, "/v1/subscriptions/"+o.subscription)["latest_invoice"].(string)
	require.Equal(t, "draft", read(t, s, "/v1/invoices/"+last)["status"])
	require.Equal(t, false, read(t, s, "/v1/invoices/"+last)["auto_advance"])
}

func TestPausedCollection(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	status, _, _ := call(t, s, http.MethodPost, "/v1/subscriptions/"+o.subscription, url.Values{"pause_collection[behavior]": {"stop"}}, nil)
	require.Equal(t, 400, status)
	create(t, s, "/v1/subscriptions/"+o.subscription, url.Values{"pause_collection[behavior]": {"void"}})
	s.Advance(30 * 24 * time.Hour)
	sub := read(t, s, "/v1/subscriptions/"+o.subscription)
	require.Equal(t, "active", sub["status"])
	require.Equal(t, "void", read(t, s, "/v1/invoices/"+sub["latest_invoice"].(string))["status"])
	create(t, s, "/v1/subscriptions/"+o.subscription, url.Values{"pause_collection": {""}})
	s.Advance(31 * 24 * time.Hour)
	sub = read(t, s, "/v1/subscriptions/"+o.subscription)
	require.Nil(t, sub["pause_collection"])
	require.Equal(t, "paid", read(t, s, "/v1/invoices/"+sub["latest_invoice"].(string))["status"])
}

// TestReactivation: the end with the period can be taken back; the end itself
// can't.
func TestReactivation(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	path := "/v1/subscriptions/" + o.subscription
	create(t, s, path, url.Values{"cancel_at_period_end": {"true"}})
	require.NotNil(t, read(t, s, path)["cancel_at"])
	create(t, s, path, url.Values{"cancel_at_period_end": {"false"}})
	require.Nil(t, read(t, s, path)["cancel_at"])
	s.Advance(30 * 24 * time.Hour)
	require.Equal(t, "active", statusOf(t, s, o.subscription))
	create(t, s, path, url.Values{"cancel_at_period_end": {"true"}})
	s.Advance(31 * 24 * time.Hour)
	require.Equal(t, "canceled", statusOf(t, s, o.subscription))
	status, _, _ := call(t, s, http.MethodPost, path, url.Values{"cancel_at_period_end": {"false"}}, nil)
	require.Equal(t, 400, status)
	status, _, _ = call(t, s, http.MethodDelete, path, nil, nil)
	require.Equal(t, 404, status)
}

// TestPlanChange: what is flat and changes is prorated to the second. The
// period is of 28 days, the change comes after 7. Mutation seen by it: a credit
// for what did not change.
func TestPlanChange(t *testing.T) {
	t.Parallel()
	month := time.Date(2026, 2, 28, 10, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		form      url.Values
		price     url.Values
		at        []float64 // the lines of an invoice at once
		next      []float64 // of the invoice of the next period
		periodEnd time.Time
	}{
		"later":     {url.Values{}, flatPrice("9900", "month"), nil, []float64{-3675, 7425, 0, 9900, 1000}, month},
		"at once":   {url.Values{"proration_behavior": {"always_invoice"}}, flatPrice("9900", "month"), []float64{-3675, 7425}, []float64{0, 9900, 1000}, month},
		"never":     {url.Values{"proration_behavior": {"none"}}, flatPrice("9900", "month"), nil, []float64{0, 9900, 1000}, month},
		"to a year": {url.Values{}, flatPrice("99000", "year"), []float64{-3675, -750, 0, 99000, 1000}, nil, time.Date(2027, 2, 7, 10, 0, 0, 0, time.UTC)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			o := newShop(t, s, false)
			price := func(form url.Values) []string {
				form.Set("product", o.product)
				return []string{create(t, s, "/v1/prices", form)}
			}
			sub := o.subscribe(t, s, url.Values{"items[1][price]": price(flatPrice("1000", "month")), "items[2][price]": {o.metered}})
			path, first := "/v1/subscriptions/"+sub["id"].(string), sub["latest_invoice"]
			form := url.Values{"items[0][id]": {itemsOf(sub)[0]["id"].(string)}, "items[0][price]": price(tt.price)}
			for k, v := range tt.form {
				form[k] = v
			}
			s.Advance(7 * 24 * time.Hour)
			create(t, s, path, form)
			sub = read(t, s, path)
			require.EqualValues(t, tt.periodEnd.Unix(), sub["current_period_end"])
			if tt.at == nil {
				require.Equal(t, first, sub["latest_invoice"])
			} else {
				require.Equal(t, tt.at, amounts(t, s, sub["latest_invoice"].(string)))
			}
			if tt.next == nil {
				return
			}
			preview := read(t, s, "/v1/invoices/upcoming?subscription="+sub["id"].(string))
			require.Equal(t, tt.next, amountsOf(preview))
			s.Advance(21 * 24 * time.Hour)
			require.Equal(t, tt.next, amounts(t, s, read(t, s, path)["latest_invoice"].(string)))
		})
	}
}

func flatPrice(cents, interval string) url.Values {
	return url.Values{"currency": {"usd"}, "unit_amount": {cents}, "recurring[interval]": {interval}}
}

func itemsOf(sub map[string]any) (out []map[string]any) {
	for _, it := range sub["items"].(map[string]any)["data"].([]any) {
		out = append(out, it.(map[string]any))
	}
	return out
}

// amounts are those of an invoice's lines, in their order.
func amounts(t *testing.T, s *stripetest.Server, invoice string) []float64 {
	t.Helper()
	return amountsOf(read(t, s, "/v1/invoices/"+invoice))
}

func amountsOf(invoice map[string]any) (out []float64) {
	for _, l := range invoice["lines"].(map[string]any)["data"].([]any) {
		out = append(out, l.(map[string]any)["amount"].(float64))
	}
	return out
}

// TestItemWithUsage can't be deleted by mistake: the usage of a legacy price
// goes with its item.
func TestItemWithUsage(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, true)
	create(t, s, "/v1/subscription_items/"+o.item+"/usage_records", url.Values{"quantity": {"3"}, "timestamp": {unix(start)}})
	form := url.Values{"items[0][id]": {o.item}, "items[0][deleted]": {"true"}}
	status, _, _ := call(t, s, http.MethodPost, "/v1/subscriptions/"+o.subscription, form, nil)
	require.Equal(t, 400, status)
	form.Set("items[0][clear_usage]", "true")
	create(t, s, "/v1/subscriptions/"+o.subscription, form)
	status, _, _ = call(t, s, http.MethodGet, "/v1/subscription_items/"+o.item, nil, nil)
	require.Equal(t, 404, status)
}

// TestThresholdsTakeIncrementsAlone: a subscription that bills at a threshold
// refuses usage records that are set.
func TestThresholdsTakeIncrementsAlone(t *testing.T) {
	t.Parallel()
	for name, form := range map[string]url.Values{
		"amount": {"billing_thresholds[amount_gte]": {"10000"}},
		"usage":  {"items[1][billing_thresholds][usage_gte]": {"100"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			o := newShop(t, s, true)
			form := maps.Clone(form)
			form.Set("items[1][price]", o.metered)
			sub := o.subscribe(t, s, form)
			item := itemsOf(sub)[1]["id"].(string)
			for action, want := range map[string]int{"set": 400, "increment": 200} {
				status, _, _ := call(t, s, http.MethodPost, "/v1/subscription_items/"+item+"/usage_records",
					url.Values{"action": {action}, "quantity": {"3"}, "timestamp": {unix(start)}}, nil)
				require.Equal(t, want, status, action)
			}
		})
	}
}
