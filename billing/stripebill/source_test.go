package stripebill_test

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
	"github.com/stretchr/testify/require"
)

// TestFetchCheckout: a paid checkout asks for its tenant, in the layouts of
// both API versions.
func TestFetchCheckout(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2023-10-16", "2025-03-31.basil", "2026-08-26.dahlia"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			w := setupAs(t, &stripetest.Options{APIVersion: version}, stripebill.Options{APIVersion: version})
			_, err := w.client.EnsureCatalog(t.Context(), catalog)
			require.NoError(t, err)
			id, paid := w.buy(t, "pro")

			got := w.fetch(t, "checkout.session.completed", paid.ID)
			require.Equal(t, id, got.Tenant)
			require.Equal(t, paid.ID, got.Checkout)
			require.Equal(t, paid.Customer, got.Customer)
			require.Equal(t, "ada@example.com", got.Email)
			require.False(t, got.FlushUsage)
			sub := *got.Subscription
			require.Len(t, sub.Targets, 1)
			target := sub.Targets[0]
			sub.Targets = nil
			require.Equal(t, billing.Subscription{
				ID: paid.Subscription, Customer: paid.Customer, Status: billing.Active, Plan: "pro",
				PeriodStart: start, PeriodEnd: time.Date(2026, 2, 28, 10, 0, 0, 0, time.UTC),
			}, sub)
			require.True(t, strings.HasPrefix(target.MeterID, "mtr_"))
			require.True(t, strings.HasPrefix(target.Item, "si_"))
			target.MeterID, target.Item = "", ""
			require.Equal(t, billing.Target{
				Tenant: id, Provider: "stripe", Mode: billing.ModeMeter, Customer: paid.Customer, Meter: "mcpsaas_units",
			}, target)
		})
	}
}

// TestFetchIsTheSameForEveryNotice: what Stripe says of a tenant doesn't
// depend on which message asks.
func TestFetchIsTheSameForEveryNotice(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	_, paid := w.buy(t, "pro")
	want := w.fetch(t, "customer.subscription.created", paid.Subscription)
	require.NotNil(t, want.Subscription)
	events := w.stripe.Events()
	rand.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	asked := 0
	for _, e := range events {
		if !strings.Contains(string(e.Payload), paid.Customer) {
			continue
		}
		got := w.fetch(t, e.Type, e.ObjectID)
		if got.Tenant.IsZero() {
			continue
		}
		asked++
		require.Equal(t, want.Subscription, got.Subscription, e.Type)
		require.Equal(t, want.Customer, got.Customer, e.Type)
	}
	require.GreaterOrEqual(t, asked, 4)
}

func TestFetchUnpaidCheckout(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	id := tenant.NewID()
	open, err := w.client.CreateCheckout(t.Context(), request(id, "pro", ""))
	require.NoError(t, err)
	require.Zero(t, w.fetch(t, "checkout.session.completed", open.ID), "still open")

	require.NoError(t, w.stripe.PayLater(open.ID))
	require.Zero(t, w.fetch(t, "checkout.session.completed", open.ID), "complete, but not paid")

	require.NoError(t, w.stripe.Settle(open.ID, true))
	require.Equal(t, id, w.fetch(t, "checkout.session.async_payment_succeeded", open.ID).Tenant)
	require.Equal(t, id, w.fetch(t, "checkout.session.completed", open.ID).Tenant, "late, but true by now")
}

func TestFetchFreePlan(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	id, paid := w.buy(t, "free")
	require.Equal(t, "no_payment_required", paid.PaymentStatus)
	require.True(t, paid.Paid())
	got := w.fetch(t, "checkout.session.completed", paid.ID)
	require.Equal(t, id, got.Tenant)
	require.Equal(t, tenant.Free, got.Subscription.Plan)
	require.Empty(t, got.Subscription.Targets, "nothing is metered for money")
}

// TestFetchTheTenantsCurrentSubscription: a late message about a subscription
// that was replaced doesn't end the one that replaced it. Mutation seen by it:
// the notice's own subscription always taken.
func TestFetchTheTenantsCurrentSubscription(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	id, old := w.buy(t, "free")
	w.stripe.Advance(time.Hour)
	upgraded := w.buyAs(t, id, "pro", old.Customer)
	require.Equal(t, old.Customer, upgraded.Customer)
	require.NoError(t, w.client.CancelSubscription(t.Context(), old.Subscription))

	for _, kind := range []string{"customer.subscription.deleted", "customer.subscription.updated"} {
		got := w.fetch(t, kind, old.Subscription)
		require.Equal(t, upgraded.Subscription, got.Subscription.ID)
		require.Equal(t, tenant.Pro, got.Subscription.Plan)
		require.Equal(t, billing.Active, got.Subscription.Status)
	}

	// Once the last one has ended, the tenant has none.
	require.NoError(t, w.client.CancelSubscription(t.Context(), upgraded.Subscription))
	got := w.fetch(t, "customer.subscription.deleted", old.Subscription)
	require.Equal(t, billing.Canceled, got.Subscription.Status)
	require.Equal(t, w.stripe.Now(), got.Subscription.EndedAt)
	require.Equal(t, upgraded.Subscription, got.Subscription.ID, "the newest")
}

func TestFetchStatuses(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	_, paid := w.buy(t, "pro")
	status := func() *billing.Subscription {
		return w.fetch(t, "customer.subscription.updated", paid.Subscription).Subscription
	}

	require.NoError(t, w.stripe.Decline(paid.Customer, true))
	w.stripe.Advance(28*24*time.Hour + 2*time.Hour) // the draft is final an hour after the period's end
	due := status()
	require.Equal(t, billing.PastDue, due.Status)
	require.Equal(t, time.Date(2026, 2, 28, 11, 0, 0, 0, time.UTC), due.PastDueSince)
	require.Equal(t, time.Date(2026, 3, 31, 10, 0, 0, 0, time.UTC), due.PeriodEnd, "the anchor's day again")

	require.NoError(t, w.stripe.Decline(paid.Customer, false))
	w.stripe.CollectOpen(paid.Customer)
	require.Equal(t, billing.Active, status().Status)
	require.Zero(t, status().PastDueSince)

	for _, s := range []billing.SubscriptionStatus{billing.Unpaid, billing.Paused, billing.Trialing} {
		require.NoError(t, w.stripe.SetStatus(paid.Subscription, string(s)))
		require.Equal(t, s, status().Status)
	}
	require.NoError(t, w.stripe.SetStatus(paid.Subscription, "active"))
	w.rawObject(t, http.MethodPost, "/v1/subscriptions/"+paid.Subscription, "pause_collection[behavior]=keep_as_draft&cancel_at_period_end=true")
	require.True(t, status().CollectionPaused)
	require.True(t, status().CancelAtPeriodEnd)
}

func TestFetchFirstPaymentThatNeverComes(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	flat := w.rawObject(t, http.MethodGet, "/v1/prices?lookup_keys[]=mcpsaas:pro", "")["data"].([]any)[0].(map[string]any)["id"].(string)
	customer := w.rawObject(t, http.MethodPost, "/v1/customers", "email=ada@example.com")["id"].(string)
	require.NoError(t, w.stripe.Decline(customer, true))
	sub := w.rawObject(t, http.MethodPost, "/v1/subscriptions", "customer="+customer+"&items[0][price]="+flat+"&metadata[tenant_id]="+tenant.NewID().String())["id"].(string)
	require.Equal(t, billing.Incomplete, w.fetch(t, "customer.subscription.created", sub).Subscription.Status)
	w.stripe.Advance(23 * time.Hour)
	require.Equal(t, billing.IncompleteExpired, w.fetch(t, "customer.subscription.updated", sub).Subscription.Status)
}

// TestFetchInvoice: only the draft at a period's end asks for a flush.
func TestFetchInvoice(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2023-10-16", "2025-03-31.basil"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			w := setupAs(t, &stripetest.Options{APIVersion: version}, stripebill.Options{APIVersion: version})
			_, err := w.client.EnsureCatalog(t.Context(), catalog)
			require.NoError(t, err)
			id, paid := w.buy(t, "pro")
			w.stripe.Advance(28*24*time.Hour + time.Minute)
			var invoices []string
			for _, e := range w.stripe.Events() {
				if e.Type == "invoice.created" {
					invoices = append(invoices, e.ObjectID)
				}
			}
			require.Len(t, invoices, 2)
			first, cycle := w.fetch(t, "invoice.created", invoices[0]), w.fetch(t, "invoice.created", invoices[1])
			require.Equal(t, id, first.Tenant)
			require.False(t, first.FlushUsage)
			require.Equal(t, id, cycle.Tenant)
			require.True(t, cycle.FlushUsage)
			require.Equal(t, paid.Subscription, cycle.Subscription.ID)
			require.Equal(t, time.Date(2026, 2, 28, 10, 0, 0, 0, time.UTC), cycle.Subscription.PeriodStart)

			w.stripe.Advance(2 * time.Hour)
			require.False(t, w.fetch(t, "invoice.created", invoices[1]).FlushUsage, "final by now")
		})
	}
}

// TestFetchBothModesWhileMigrating: usage goes to the meter and to the legacy
// item, but never to a metered item that belongs to something else.
func TestFetchBothModesWhileMigrating(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	_, paid := w.buy(t, "pro")
	product := w.rawObject(t, http.MethodPost, "/v1/products", "name=Other")["id"].(string)
	price := func(mark string) string {
		form := "currency=usd&unit_amount=1&recurring[interval]=month&recurring[usage_type]=metered&product=" + product + mark
		return w.rawObject(t, http.MethodPost, "/v1/prices", form)["id"].(string)
	}
	add := func(price string) {
		w.rawObject(t, http.MethodPost, "/v1/subscriptions/"+paid.Subscription, "items[0][price]="+price)
	}
	modes := func() (out []billing.Mode) {
		for _, target := range w.fetch(t, "customer.subscription.updated", paid.Subscription).Subscription.Targets {
			out = append(out, target.Mode)
		}
		return out
	}
	add(price(""))
	require.Equal(t, []billing.Mode{billing.ModeMeter}, modes(), "somebody else's storage price")
	add(price("&metadata[namespace]=mcpsaas"))
	require.Equal(t, []billing.Mode{billing.ModeMeter, billing.ModeUsageRecord}, modes())
	add(price("&metadata[namespace]=mcpsaas"))
	_, err := w.source.Fetch(t.Context(), billing.Notice{Type: "customer.subscription.updated", ObjectID: paid.Subscription})
	require.ErrorIs(t, err, stripebill.ErrAmbiguous)
}

// TestFetchAfterAPriceWasReplaced: those who pay the old price, which has lost
// its lookup key, still are on their plan.
func TestFetchAfterAPriceWasReplaced(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	id, paid := w.buy(t, "pro")
	dearer := catalog
	dearer.Plans = []stripebill.CatalogPlan{{Plan: "pro", Name: "Pro", Amount: 5900, Unit: "0.2"}}
	changes, err := w.client.EnsureCatalog(t.Context(), dearer)
	require.NoError(t, err)
	require.Len(t, changes, 2)

	got := w.fetch(t, "customer.subscription.updated", paid.Subscription)
	require.Equal(t, id, got.Tenant)
	require.Equal(t, tenant.Pro, got.Subscription.Plan)
	require.Len(t, got.Subscription.Targets, 1)
}

func TestFetchPlansOfAnotherCatalog(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	product := w.rawObject(t, http.MethodPost, "/v1/products", "name=Other")["id"].(string)
	yearly := w.rawObject(t, http.MethodPost, "/v1/prices", "currency=usd&unit_amount=49000&recurring[interval]=year&lookup_key=pro_yearly&product="+product)["id"].(string)
	customer := w.rawObject(t, http.MethodPost, "/v1/customers", "email=ada@example.com")["id"].(string)
	id := tenant.NewID()
	sub := w.rawObject(t, http.MethodPost, "/v1/subscriptions", "customer="+customer+"&items[0][price]="+yearly+"&metadata[tenant_id]="+id.String())["id"].(string)
	notice := billing.Notice{Type: "customer.subscription.created", ObjectID: sub}

	_, err := w.source.Fetch(t.Context(), notice)
	require.ErrorIs(t, err, stripebill.ErrAmbiguous)
	require.ErrorContains(t, err, "lookup key")

	known := stripebill.NewSource(w.client, &stripebill.SourceOptions{Plans: map[string]tenant.Plan{"pro_yearly": "pro"}})
	got, err := known.Fetch(t.Context(), notice)
	require.NoError(t, err)
	require.Equal(t, tenant.Pro, got.Subscription.Plan)
	require.Equal(t, start.AddDate(1, 0, 0), got.Subscription.PeriodEnd)
}

// TestFetchTenantFromElsewhere: the customer's metadata names the tenant where
// the subscription's doesn't; where neither does, the customer is told, for a
// table may know it.
func TestFetchTenantFromElsewhere(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	flat := w.rawObject(t, http.MethodGet, "/v1/prices?lookup_keys[]=mcpsaas:pro", "")["data"].([]any)[0].(map[string]any)["id"].(string)
	customer := w.rawObject(t, http.MethodPost, "/v1/customers", "email=ada@example.com")["id"].(string)
	sub := w.rawObject(t, http.MethodPost, "/v1/subscriptions", "customer="+customer+"&items[0][price]="+flat)["id"].(string)

	got := w.fetch(t, "customer.subscription.created", sub)
	require.True(t, got.Tenant.IsZero())
	require.Equal(t, customer, got.Customer)
	require.Equal(t, tenant.Pro, got.Subscription.Plan)

	id := tenant.NewID()
	w.rawObject(t, http.MethodPost, "/v1/customers/"+customer, "metadata[tenant_id]="+id.String())
	got = w.fetch(t, "customer.subscription.created", sub)
	require.Equal(t, id, got.Tenant)
	require.Equal(t, "ada@example.com", got.Email)

	// A subscription to something else that this account sells.
	product := w.rawObject(t, http.MethodPost, "/v1/products", "name=Other")["id"].(string)
	other := w.rawObject(t, http.MethodPost, "/v1/prices", "currency=usd&unit_amount=1&recurring[interval]=month&product="+product)["id"].(string)
	foreign := w.rawObject(t, http.MethodPost, "/v1/subscriptions", "customer="+customer+"&items[0][price]="+other)["id"].(string)
	require.Zero(t, w.fetch(t, "customer.subscription.created", foreign))
	require.Equal(t, sub, w.fetch(t, "customer.subscription.updated", sub).Subscription.ID, "the foreign one is newer, but not ours")
}

// tries returns how often a permanent error is to be tried.
func tries(t *testing.T, err error) int {
	t.Helper()
	permanent, ok := errors.AsType[*billing.PermanentError](err)
	require.True(t, ok)
	return permanent.Tries
}

func TestFetchWhatNobodyShouldTrust(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	flat := w.rawObject(t, http.MethodGet, "/v1/prices?lookup_keys[]=mcpsaas:pro", "")["data"].([]any)[0].(map[string]any)["id"].(string)
	session := func(form string) string {
		id := w.rawObject(t, http.MethodPost, "/v1/checkout/sessions",
			"mode=subscription&success_url=https://x.example&line_items[0][price]="+flat+"&"+form)["id"].(string)
		require.NoError(t, w.stripe.Pay(id))
		return id
	}
	victim := tenant.NewID()
	fetch := func(kind, id string) (billing.Change, error) {
		return w.source.Fetch(t.Context(), billing.Notice{Type: kind, ObjectID: id})
	}

	// As from a payment link, where the buyer writes the reference.
	got, err := fetch("checkout.session.completed", session("client_reference_id="+victim.String()))
	require.NoError(t, err)
	require.True(t, got.Tenant.IsZero())

	_, err = fetch("checkout.session.completed", session("client_reference_id="+victim.String()+"&metadata[tenant_id]="+tenant.NewID().String()))
	require.ErrorIs(t, err, stripebill.ErrAmbiguous)
	require.Equal(t, 0, tries(t, err))

	_, err = fetch("checkout.session.completed", session("metadata[tenant_id]=x%22%3B+DROP+TABLE+tenants%3B+--"))
	require.ErrorIs(t, err, tenant.ErrInvalidID)
	require.Equal(t, 0, tries(t, err))

	for _, id := range []string{"", "sub_", "sub_unknown", "sub_1/../../customers", "cs_1", "sub_" + strings.Repeat("x", 300)} {
		_, err := fetch("customer.subscription.updated", id)
		require.ErrorIs(t, err, stripebill.ErrNotFound, "%.40q", id)
		require.Equal(t, 5, tries(t, err), "a webhook may overtake its object")
	}
	for _, kind := range []string{"charge.succeeded", "invoice.upcoming", "customer.updated", "checkout.session.expired", "v1.billing.meter.error_report_triggered", ""} {
		got, err := fetch(kind, "whatever")
		require.NoError(t, err, kind)
		require.Zero(t, got, kind)
	}
}

// TestFetchFailures: an answer that isn't Stripe's must not read as "concerns
// nobody", or a paid checkout is lost. Mutation seen by it: the object's id
// not compared.
func TestFetchFailures(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.sellPro(t)
	_, paid := w.buy(t, "pro")
	for _, kind := range []stripetest.FaultKind{stripetest.Foreign, stripetest.Redirected, stripetest.Truncated, stripetest.Empty,
		stripetest.DropBefore, stripetest.BadGateway, stripetest.Unavailable, stripetest.RateLimited, stripetest.Unauthorized} {
		for skip := range 3 { // session, subscription, list
			w.stripe.Inject(stripetest.Fault{Kind: kind, Skip: skip})
			got, err := w.source.Fetch(t.Context(), billing.Notice{Type: "checkout.session.completed", ObjectID: paid.ID})
			require.Error(t, err, "kind %d, request %d", kind, skip)
			_, permanent := errors.AsType[*billing.PermanentError](err)
			require.False(t, permanent, "kind %d", kind)
			require.Zero(t, got)
			w.stripe.Heal()
		}
	}
	require.NotNil(t, w.fetch(t, "checkout.session.completed", paid.ID).Subscription)
}
