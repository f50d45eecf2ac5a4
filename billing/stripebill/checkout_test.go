package stripebill_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
	"github.com/stretchr/testify/require"
)

// TestCheckoutOverTheWire goes the way of a browser: the page, its form, the
// return.
func TestCheckoutOverTheWire(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	id := tenant.NewID()
	open, err := w.client.CreateCheckout(t.Context(), request(id, "pro", ""))
	require.NoError(t, err)
	require.Equal(t, "open", open.Status)
	require.False(t, open.Paid())
	require.Equal(t, start.Add(24*time.Hour), open.ExpiresAt)

	browser := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	page, err := browser.Get(open.URL)
	require.NoError(t, err)
	require.NoError(t, page.Body.Close())
	require.Equal(t, 200, page.StatusCode)
	for range 2 { // an impatient buyer
		sent, err := browser.PostForm(open.URL, url.Values{"email": {"grace@example.com"}, "card": {"ok"}})
		require.NoError(t, err)
		require.NoError(t, sent.Body.Close())
		require.Equal(t, 303, sent.StatusCode)
		require.Equal(t, "https://shop.example/welcome?session_id="+open.ID, sent.Header.Get("Location"))
	}

	paid, err := w.client.Checkout(t.Context(), open.ID)
	require.NoError(t, err)
	require.True(t, paid.Paid())
	require.Equal(t, id, paid.Tenant)
	require.Equal(t, tenant.Pro, paid.Plan)
	require.Equal(t, "grace@example.com", paid.Email)
	require.Empty(t, paid.URL)
	require.Len(t, w.rawObject(t, http.MethodGet, "/v1/subscriptions?customer="+paid.Customer, "")["data"], 1)

	// The tenant's id is in all three places.
	session := w.rawObject(t, http.MethodGet, "/v1/checkout/sessions/"+open.ID, "")
	require.Equal(t, id.String(), session["client_reference_id"])
	require.Equal(t, id.String(), session["metadata"].(map[string]any)["tenant_id"])
	sub := w.rawObject(t, http.MethodGet, "/v1/subscriptions/"+paid.Subscription, "")
	require.Equal(t, id.String(), sub["metadata"].(map[string]any)["tenant_id"])
}

func TestCreateCheckoutTwice(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	r := request(tenant.NewID(), "pro", "")
	first, err := w.client.CreateCheckout(t.Context(), r)
	require.NoError(t, err)
	second, err := w.client.CreateCheckout(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, first.ID, second.ID, "a double click")
	r.Attempt = "2"
	third, err := w.client.CreateCheckout(t.Context(), r)
	require.NoError(t, err)
	require.NotEqual(t, first.ID, third.ID)
}

func TestCreateCheckoutNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	good := request(tenant.NewID(), "pro", "")
	for want, spoil := range map[string]func(*stripebill.CheckoutRequest){
		"no tenant":               func(r *stripebill.CheckoutRequest) { r.Tenant = tenant.ID{} },
		`plan "platinum"`:         func(r *stripebill.CheckoutRequest) { r.Plan = "platinum" },
		`plan "pro:usage"`:        func(r *stripebill.CheckoutRequest) { r.Plan = "pro:usage" },
		`plan ""`:                 func(r *stripebill.CheckoutRequest) { r.Plan = "" },
		"SuccessURL":              func(r *stripebill.CheckoutRequest) { r.SuccessURL = "/welcome" },
		"CancelURL":               func(r *stripebill.CheckoutRequest) { r.CancelURL = "javascript:alert(1)" },
		`Email "ada"`:             func(r *stripebill.CheckoutRequest) { r.Email = "ada" },
		`Email "a@b\nBcc: x@y.z"`: func(r *stripebill.CheckoutRequest) { r.Email = "a@b\nBcc: x@y.z" },
		`Customer "sub_1"`:        func(r *stripebill.CheckoutRequest) { r.Customer = "sub_1" },
	} {
		r := good
		spoil(&r)
		_, err := w.client.CreateCheckout(t.Context(), r)
		require.ErrorContains(t, err, want)
	}
}

func TestCheckoutOfStrangers(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	for _, id := range []string{"", "cs_test_unknown", "sub_1", "cs_/../customers", "cs_\x00", "cs_" + strings.Repeat("a", 1000)} {
		_, err := w.client.Checkout(t.Context(), id)
		require.ErrorIs(t, err, stripebill.ErrNotFound, "%.30q", id)
	}
	flat := w.rawObject(t, http.MethodGet, "/v1/prices?lookup_keys[]=mcpsaas:pro", "")["data"].([]any)[0].(map[string]any)["id"].(string)
	foreign := w.rawObject(t, http.MethodPost, "/v1/checkout/sessions", "mode=subscription&success_url=https://x.example&line_items[0][price]="+flat)
	_, err := w.client.Checkout(t.Context(), foreign["id"].(string))
	require.ErrorIs(t, err, stripebill.ErrNotFound, "a session of another product in the same account")
}

func TestPortalURL(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	_, paid := w.buy(t, "pro")
	link, err := w.client.PortalURL(t.Context(), paid.Customer, "https://shop.example/account")
	require.NoError(t, err)
	page, err := http.Get(link)
	require.NoError(t, err)
	require.NoError(t, page.Body.Close())
	require.Equal(t, 200, page.StatusCode)
	done, err := http.PostForm(link, url.Values{"subscription": {paid.Subscription}, "action": {"cancel"}})
	require.NoError(t, err)
	require.NoError(t, done.Body.Close())
	require.True(t, w.fetch(t, "customer.subscription.updated", paid.Subscription).Subscription.CancelAtPeriodEnd)

	_, err = w.client.PortalURL(t.Context(), "cus_unknown", "https://shop.example")
	require.ErrorIs(t, err, stripebill.ErrNotFound)
	_, err = w.client.PortalURL(t.Context(), "sub_1", "https://shop.example")
	require.ErrorIs(t, err, stripebill.ErrNotFound)
	_, err = w.client.PortalURL(t.Context(), paid.Customer, "account")
	require.ErrorContains(t, err, "return URL")
}

// TestCancelSubscription bills the last usage, and does nothing twice.
func TestCancelSubscription(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	target := w.sellPro(t)
	got, err := stripebill.NewReporter(w.client, nil).Report(t.Context(), delivery(target, 7, start))
	require.NoError(t, err)
	require.Empty(t, got.Reason)
	sub := w.rawObject(t, http.MethodGet, "/v1/subscriptions?customer="+target.Customer, "")["data"].([]any)[0].(map[string]any)["id"].(string)
	w.stripe.Advance(24 * time.Hour)
	for range 2 {
		require.NoError(t, w.client.CancelSubscription(t.Context(), sub))
	}
	require.EqualValues(t, 7, w.stripe.Billed(target.Customer))
	require.ErrorIs(t, w.client.CancelSubscription(t.Context(), "sub_unknown"), stripebill.ErrNotFound)
	require.ErrorIs(t, w.client.CancelSubscription(t.Context(), "../customers"), stripebill.ErrNotFound)
}

// TestCreateCheckoutAfterASavedFailure: the next click is not answered with
// the failure of the last. Mutation seen by it: one idempotency key.
func TestCreateCheckoutAfterASavedFailure(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	r := request(tenant.NewID(), "pro", "")
	w.stripe.Inject(stripetest.Fault{Kind: stripetest.Error500Before, Method: "POST", Times: 3})
	_, err := w.client.CreateCheckout(t.Context(), r)
	require.ErrorContains(t, err, "500")
	r.Attempt = "2"
	_, err = w.client.CreateCheckout(t.Context(), r)
	require.NoError(t, err)

	r.Attempt = "3"
	w.stripe.Inject(stripetest.Fault{Kind: stripetest.Error500Before, Method: "POST"})
	_, err = w.client.CreateCheckout(t.Context(), r)
	require.NoError(t, err)
}
