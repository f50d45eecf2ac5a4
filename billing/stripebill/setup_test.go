package stripebill_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
	"github.com/stretchr/testify/require"
)

// start is where the clock of these tests begins: a time at which a month
// ends on a day that the next month doesn't have.
var start = time.Date(2026, 1, 31, 10, 0, 0, 0, time.UTC)

var catalog = stripebill.Catalog{Plans: []stripebill.CatalogPlan{
	{Plan: "free", Name: "Free"},
	{Plan: "pro", Name: "Pro", Amount: 4900, Unit: "0.1"},
}}

// world is a client with a shop on an emulated account.
type world struct {
	stripe *stripetest.Server
	client *stripebill.Client
	source *stripebill.Source
}

func setup(t *testing.T, opts *stripetest.Options) world {
	t.Helper()
	return setupAs(t, opts, stripebill.Options{})
}

func setupAs(t *testing.T, opts *stripetest.Options, client stripebill.Options) world {
	t.Helper()
	var o stripetest.Options
	if opts != nil {
		o = *opts
	}
	if o.Now == nil {
		o.Now = func() time.Time { return start }
	}
	stripe := stripetest.NewServer(&o)
	t.Cleanup(stripe.Close)
	client.APIBase, client.Now = stripe.URL, stripe.Now
	c, err := stripebill.New(stripe.SecretKey, &client)
	require.NoError(t, err)
	return world{stripe: stripe, client: c, source: stripebill.NewSource(c, nil)}
}

// buy lets a new tenant check out and pay.
func (w world) buy(t *testing.T, plan tenant.Plan) (tenant.ID, stripebill.Checkout) {
	t.Helper()
	id := tenant.NewID()
	return id, w.buyAs(t, id, plan, "")
}

func (w world) buyAs(t *testing.T, id tenant.ID, plan tenant.Plan, customer string) stripebill.Checkout {
	t.Helper()
	open, err := w.client.CreateCheckout(t.Context(), request(id, plan, customer))
	require.NoError(t, err)
	require.NoError(t, w.stripe.Pay(open.ID))
	paid, err := w.client.Checkout(t.Context(), open.ID)
	require.NoError(t, err)
	return paid
}

func request(id tenant.ID, plan tenant.Plan, customer string) stripebill.CheckoutRequest {
	r := stripebill.CheckoutRequest{
		Tenant: id, Plan: plan, Customer: customer,
		SuccessURL: "https://shop.example/welcome?session_id={CHECKOUT_SESSION_ID}",
		CancelURL:  "https://shop.example/pricing",
	}
	if customer == "" {
		r.Email = "ada@example.com"
	}
	return r
}

// fetch asks the source about an object as a webhook of that type would.
func (w world) fetch(t *testing.T, kind, object string) billing.Change {
	t.Helper()
	change, err := w.source.Fetch(t.Context(), billing.Notice{ID: "evt_1", Type: kind, ObjectID: object})
	require.NoError(t, err)
	return change
}

// sellPro makes the catalog and one paying tenant, and returns its meter
// target.
func (w world) sellPro(t *testing.T) billing.Target {
	t.Helper()
	_, err := w.client.EnsureCatalog(t.Context(), catalog)
	require.NoError(t, err)
	_, paid := w.buy(t, "pro")
	change := w.fetch(t, "customer.subscription.created", paid.Subscription)
	require.Len(t, change.Subscription.Targets, 1)
	return change.Subscription.Targets[0]
}

// sellLegacy is sellPro with usage records.
func (w world) sellLegacy(t *testing.T) billing.Target {
	t.Helper()
	legacy := catalog
	legacy.UsageRecords = true
	_, err := w.client.EnsureCatalog(t.Context(), legacy)
	require.NoError(t, err)
	_, paid := w.buy(t, "pro")
	change := w.fetch(t, "customer.subscription.created", paid.Subscription)
	require.Len(t, change.Subscription.Targets, 1)
	return change.Subscription.Targets[0]
}

// sellAdditive is sellLegacy with billing thresholds.
func (w world) sellAdditive(t *testing.T) billing.Target {
	t.Helper()
	target := w.sellLegacy(t)
	sub := w.rawObject(t, http.MethodGet, "/v1/subscription_items/"+target.Item, "")["subscription"].(string)
	w.rawObject(t, http.MethodPost, "/v1/subscriptions/"+sub, "billing_thresholds[amount_gte]=99999999")
	target = w.fetch(t, "customer.subscription.updated", sub).Subscription.Targets[0]
	require.True(t, target.Additive)
	return target
}

// raw sends a request of the API without any library.
func (w world) raw(t *testing.T, method, path string, form string) *http.Response {
	t.Helper()
	return rawRequest(t, w.stripe, method, path, form, nil)
}
