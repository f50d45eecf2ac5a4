package stripetest_test

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v76"
)

// pack makes a price that is paid once: 80.00.
func (o shop) pack(t *testing.T, s *stripetest.Server) string {
	t.Helper()
	return create(t, s, "/v1/prices", url.Values{"product": {o.product}, "currency": {"usd"}, "unit_amount": {"8000"}})
}

// TestPayOnce: a checkout of what is paid once ends in a payment and its charge,
// for a customer or a guest, at once or after days; and the charge can be refunded
// as often as something is left of it.
func TestPayOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	price := o.pack(t, s)
	require.Equal(t, "one_time", read(t, s, "/v1/prices/"+price)["type"])
	open := func(extra url.Values) string {
		form := url.Values{"mode": {"payment"}, "success_url": {"https://x.example"}, "line_items[0][price]": {price}, "line_items[0][quantity]": {"2"}}
		for k, v := range extra {
			form[k] = v
		}
		return create(t, s, "/v1/checkout/sessions", form)
	}
	api := official(s)

	id := open(url.Values{"customer": {o.customer}})
	require.NoError(t, s.Pay(id))
	paid, err := api.CheckoutSessions.Get(id, nil)
	require.NoError(t, err)
	require.Equal(t, stripe.CheckoutSessionModePayment, paid.Mode)
	require.Equal(t, stripe.CheckoutSessionPaymentStatusPaid, paid.PaymentStatus)
	require.Nil(t, paid.Subscription)
	intent, err := api.PaymentIntents.Get(paid.PaymentIntent.ID, nil)
	require.NoError(t, err)
	require.Equal(t, stripe.PaymentIntentStatusSucceeded, intent.Status)
	require.EqualValues(t, 16000, intent.AmountReceived)
	charge, err := api.Charges.Get(intent.LatestCharge.ID, nil)
	require.NoError(t, err)
	require.Equal(t, o.customer, charge.Customer.ID)
	require.Len(t, read(t, s, "/v1/checkout/sessions?payment_intent="+intent.ID)["data"], 1)
	require.Len(t, read(t, s, "/v1/charges?payment_intent="+intent.ID)["data"], 1)

	give := func(form url.Values) (int, map[string]any) {
		status, out, _ := call(t, s, http.MethodPost, "/v1/refunds", form, nil)
		return status, out
	}
	status, out := give(url.Values{"payment_intent": {intent.ID}, "amount": {"4000"}, "reason": {"requested_by_customer"}})
	require.Equal(t, 200, status, "%v", out)
	status, _ = give(url.Values{"charge": {charge.ID}, "amount": {"12001"}})
	require.Equal(t, 400, status)
	status, _ = give(url.Values{"charge": {charge.ID}})
	require.Equal(t, 200, status)
	charge, err = api.Charges.Get(charge.ID, nil)
	require.NoError(t, err)
	require.True(t, charge.Refunded)
	require.EqualValues(t, 16000, charge.AmountRefunded)
	status, out = give(url.Values{"charge": {charge.ID}})
	require.Equal(t, 400, status)
	require.Equal(t, "charge_already_refunded", out["error"].(map[string]any)["code"])
	require.Len(t, read(t, s, "/v1/refunds?charge="+charge.ID)["data"], 2)
	require.Len(t, read(t, s, "/v1/events?type=charge.refunded")["data"], 2)
	for _, bad := range []url.Values{nil, {"charge": {"ch_unknown"}}, {"payment_intent": {"pi_unknown"}}, {"charge": {charge.ID}, "reason": {"boredom"}}} {
		status, _ = give(bad)
		require.Equal(t, 400, status, "%v", bad)
	}

	// A guest leaves no customer, unless one is asked for.
	for creation, want := range map[string]bool{"if_required": false, "always": true} {
		id = open(url.Values{"customer_creation": {creation}})
		require.NoError(t, s.Pay(id))
		require.Equal(t, want, read(t, s, "/v1/checkout/sessions/"+id)["customer"] != nil)
	}

	// A bank debit that comes, and one that doesn't.
	for _, comes := range []bool{true, false} {
		id = open(nil)
		require.NoError(t, s.PayLater(id))
		session := read(t, s, "/v1/checkout/sessions/"+id)
		require.Equal(t, "unpaid", session["payment_status"])
		status, _ = give(url.Values{"payment_intent": {session["payment_intent"].(string)}})
		require.Equal(t, 400, status, "not paid yet")
		require.NoError(t, s.Settle(id, comes))
		require.Error(t, s.Settle(id, comes), "once")
		last := read(t, s, "/v1/charges?payment_intent="+session["payment_intent"].(string))["data"].([]any)[0].(map[string]any)
		require.Equal(t, map[bool]string{true: "succeeded", false: "failed"}[comes], last["status"])
	}
}
