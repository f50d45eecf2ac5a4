package stripetest_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v76"
)

// TestMeterEventAdjustments: an event can be taken back within 24 hours, once;
// its identifier stays used. Mutation seen by it: the limit of 24 hours.
func TestMeterEventAdjustments(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	api := official(s)
	o := newShop(t, s, false)
	for _, id := range []string{"one", "two"} {
		status, out, _ := call(t, s, http.MethodPost, "/v1/billing/meter_events", o.use("7", id, start), nil)
		require.Equal(t, 200, status, "%v", out)
	}
	cancel := func(id string) error {
		a, err := api.BillingMeterEventAdjustments.New(&stripe.BillingMeterEventAdjustmentParams{
			EventName: stripe.String("calls"), Type: stripe.String("cancel"), Cancel: &stripe.BillingMeterEventAdjustmentCancelParams{Identifier: &id}})
		if err == nil {
			require.Equal(t, id, a.Cancel.Identifier)
			require.Equal(t, stripe.BillingMeterEventAdjustmentStatusPending, a.Status)
		}
		return err
	}
	require.ErrorContains(t, cancel("unknown"), "identifier")
	s.Advance(24*time.Hour - time.Second)
	require.NoError(t, cancel("one"))
	require.ErrorContains(t, cancel("one"), "already")
	require.EqualValues(t, 7, s.UsageTotal(o.customer, "calls"))
	status, _, _ := call(t, s, http.MethodPost, "/v1/billing/meter_events", o.use("7", "one", start), nil)
	require.Equal(t, 400, status, "used")
	s.Advance(time.Second)
	require.Error(t, cancel("two"), "too late")
	require.EqualValues(t, 7, s.UsageTotal(o.customer, "calls"))
}

// TestEntitlements follow the subscriptions, and are told of when they change.
func TestEntitlements(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	api := official(s)
	o := newShop(t, s, false)
	feature, err := api.EntitlementsFeatures.New(&stripe.EntitlementsFeatureParams{LookupKey: stripe.String("sso"), Name: stripe.String("Single sign-on")})
	require.NoError(t, err)
	status, _, _ := call(t, s, http.MethodPost, "/v1/entitlements/features", url.Values{"lookup_key": {"sso"}, "name": {"x"}}, nil)
	require.Equal(t, 400, status, "the lookup key is taken")
	attached := create(t, s, "/v1/products/"+o.product+"/features", url.Values{"entitlement_feature": {feature.ID}})
	active := func() (keys []string) {
		list := api.EntitlementsActiveEntitlements.List(&stripe.EntitlementsActiveEntitlementListParams{Customer: &o.customer})
		for list.Next() {
			keys = append(keys, list.EntitlementsActiveEntitlement().LookupKey)
		}
		require.NoError(t, list.Err())
		return keys
	}
	told := func() (n int) {
		for _, e := range s.Events() {
			if e.Type == "entitlements.active_entitlement_summary.updated" {
				n++
			}
		}
		return n
	}
	require.Equal(t, []string{"sso"}, active())
	require.Equal(t, 1, told())
	_, err = api.Subscriptions.Cancel(o.subscription, nil)
	require.NoError(t, err)
	require.Empty(t, active())
	require.Equal(t, 2, told())
	status, _, _ = call(t, s, http.MethodDelete, "/v1/products/"+o.product+"/features/"+attached, nil, nil)
	require.Equal(t, 200, status)
	require.Equal(t, 2, told(), "nobody had it")
	require.Empty(t, read(t, s, "/v1/products/"+o.product+"/features")["data"])
	create(t, s, "/v1/entitlements/features/"+feature.ID, url.Values{"name": {"SSO"}, "active": {"false"}})
	require.Equal(t, "SSO", read(t, s, "/v1/entitlements/features/"+feature.ID)["name"])
	require.Len(t, read(t, s, "/v1/entitlements/features?lookup_key=sso")["data"], 1)
}

func TestPortalConfigurations(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	api := official(s)
	o := newShop(t, s, false)
	config, err := api.BillingPortalConfigurations.New(&stripe.BillingPortalConfigurationParams{
		BusinessProfile:  &stripe.BillingPortalConfigurationBusinessProfileParams{Headline: stripe.String("Shop")},
		DefaultReturnURL: stripe.String("https://shop.example/account"),
		Features: &stripe.BillingPortalConfigurationFeaturesParams{
			InvoiceHistory: &stripe.BillingPortalConfigurationFeaturesInvoiceHistoryParams{Enabled: stripe.Bool(true)}},
	})
	require.NoError(t, err)
	require.True(t, config.Active)
	require.True(t, config.Features.InvoiceHistory.Enabled)
	require.False(t, config.Features.SubscriptionCancel.Enabled)
	config, err = api.BillingPortalConfigurations.Update(config.ID, &stripe.BillingPortalConfigurationParams{Active: stripe.Bool(false)})
	require.NoError(t, err)
	require.False(t, config.Active)
	require.Equal(t, "Shop", config.BusinessProfile.Headline)

	session, err := api.BillingPortalSessions.New(&stripe.BillingPortalSessionParams{Customer: &o.customer, Configuration: &config.ID})
	require.NoError(t, err)
	require.Equal(t, "https://shop.example/account", session.ReturnURL)
	session, err = api.BillingPortalSessions.New(&stripe.BillingPortalSessionParams{Customer: &o.customer})
	require.NoError(t, err)
	require.NotEqual(t, config.ID, session.Configuration.ID, "the account's default")
	_, err = api.BillingPortalSessions.New(&stripe.BillingPortalSessionParams{Customer: &o.customer, Configuration: stripe.String("bpc_unknown")})
	require.ErrorContains(t, err, "No such configuration")
	require.Len(t, read(t, s, "/v1/billing_portal/configurations?active=true")["data"], 1)
	require.Equal(t, config.ID, read(t, s, "/v1/billing_portal/configurations/"+config.ID)["id"])
}

// TestInvoicesByHand: what is pending goes onto the next invoice of its
// subscription, or onto one that is made for it.
func TestInvoicesByHand(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	api := official(s)
	o := newShop(t, s, false)
	late := create(t, s, "/v1/invoiceitems", url.Values{"customer": {o.customer}, "amount": {"700"}, "currency": {"usd"}, "description": {"Late usage"}})
	status, _, _ := call(t, s, http.MethodPost, "/v1/invoiceitems", url.Values{"customer": {o.customer}, "currency": {"usd"}}, nil)
	require.Equal(t, 400, status, "no amount")
	draft, err := api.Invoices.New(&stripe.InvoiceParams{Customer: &o.customer, PendingInvoiceItemsBehavior: stripe.String("include")})
	require.NoError(t, err)
	require.EqualValues(t, 700, draft.Total)
	require.Equal(t, draft.ID, read(t, s, "/v1/invoiceitems/"+late)["invoice"])
	s.Advance(24 * time.Hour)
	require.Equal(t, "draft", read(t, s, "/v1/invoices/"+draft.ID)["status"], "it doesn't advance by itself")
	status, _, _ = call(t, s, http.MethodPost, "/v1/invoices/"+draft.ID+"/pay", nil, nil)
	require.Equal(t, 400, status, "a draft")
	final, err := api.Invoices.FinalizeInvoice(draft.ID, nil)
	require.NoError(t, err)
	require.Equal(t, stripe.InvoiceStatusPaid, final.Status)
	status, _, _ = call(t, s, http.MethodDelete, "/v1/invoiceitems/"+late, nil, nil)
	require.Equal(t, 400, status, "its invoice is final")
	require.Equal(t, []string{"invoice.created", "invoice.finalized", "invoice.paid"}, types(s, draft.ID))
	lines := read(t, s, "/v1/invoices/"+draft.ID+"/lines")["data"].([]any)
	require.Equal(t, "Late usage", lines[0].(map[string]any)["description"])

	// On the subscription's next invoice, or taken back before.
	kept := create(t, s, "/v1/invoiceitems", url.Values{"customer": {o.customer}, "subscription": {o.subscription}, "quantity": {"7"}, "unit_amount_decimal": {"0.1"}, "currency": {"usd"}})
	gone := create(t, s, "/v1/invoiceitems", url.Values{"customer": {o.customer}, "amount": {"1"}, "currency": {"usd"}})
	call(t, s, http.MethodDelete, "/v1/invoiceitems/"+gone, nil, nil)
	require.Len(t, read(t, s, "/v1/invoiceitems?pending=true&customer="+o.customer)["data"], 1)
	s.Advance(30 * 24 * time.Hour)
	sub := read(t, s, "/v1/subscriptions/"+o.subscription)
	require.Equal(t, []float64{1, 0, 4900}, amounts(t, s, sub["latest_invoice"].(string)), "0.7 of a cent is one")
	require.Equal(t, sub["latest_invoice"], read(t, s, "/v1/invoiceitems/"+kept)["invoice"])

	require.NoError(t, s.Decline(o.customer, true))
	create(t, s, "/v1/invoiceitems", url.Values{"customer": {o.customer}, "amount": {"5"}, "currency": {"usd"}})
	open := create(t, s, "/v1/invoices", url.Values{"customer": {o.customer}, "pending_invoice_items_behavior": {"include"}})
	create(t, s, "/v1/invoices/"+open+"/finalize", nil)
	create(t, s, "/v1/invoices/"+open+"/void", nil)
	require.Equal(t, "void", read(t, s, "/v1/invoices/"+open)["status"])
}

// TestVersions: Stripe refuses one that it can't read.
func TestVersions(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	for version, want := range map[string]int{"2023-10-16": 200, "2026-08-26.dahlia": 200, "latest": 400} {
		status, _, _ := call(t, s, http.MethodGet, "/v1/balance", nil, http.Header{"Stripe-Version": {version}})
		require.Equal(t, want, status, version)
	}
	o := newShop(t, s, false)
	s.SetAPIVersion("2026-08-26.dahlia")
	create(t, s, "/v1/subscriptions/"+o.subscription, url.Values{"description": {"x"}})
	events := read(t, s, "/v1/events?type=customer.subscription.updated")["data"].([]any)
	last := events[0].(map[string]any)
	require.Equal(t, "2026-08-26.dahlia", last["api_version"])
	require.NotContains(t, last["data"].(map[string]any)["object"], "current_period_end")
}
