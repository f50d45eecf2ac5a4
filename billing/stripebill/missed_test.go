package stripebill_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
	"github.com/stretchr/testify/require"
)

// TestMissedWebhooks: what Stripe could not deliver, and what it never tried to
// because no endpoint was registered, is pulled and applied, once; and health
// tells that webhooks don't arrive until one does.
//
// Mutations seen by it: a pull's mark saved though it failed, no hourly pull of
// everything, a webhook after a pull ignored as a repetition.
func TestMissedWebhooks(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	pull := func(want int) {
		t.Helper()
		fresh, err := s.inbox.Pull(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, fresh)
		require.NoError(t, s.inbox.Drain(t.Context()))
	}
	id, paid := s.buy(t, "starter")
	s.settle(t)
	require.Equal(t, tenant.Starter, s.nextCall(t, id).Plan)
	pull(0) // the first asks for all: it is all there
	require.NoError(t, s.inbox.Check(t.Context()))

	// All webhooks are lost.
	s.stripe.DisturbWebhooks(func(stripetest.Event) stripetest.Fate { return stripetest.Lost })
	s.stripe.Advance(20 * time.Minute)
	s.change(t, paid.Subscription, "starter", "pro")
	s.settle(t)
	require.Equal(t, tenant.Starter, s.nextCall(t, id).Plan)
	s.stripe.Advance(15 * time.Minute)
	s.stripe.Inject(stripetest.Fault{Kind: stripetest.Error500Before, Method: "GET", Path: "/v1/events"})
	_, err := s.inbox.Pull(t.Context())
	require.ErrorContains(t, err, "list events")
	pull(1)
	require.Equal(t, tenant.Pro, s.nextCall(t, id).Plan)
	pull(0)
	require.NoError(t, s.inbox.Check(t.Context()))
	s.stripe.Advance(16 * time.Minute)
	pull(0)
	require.ErrorContains(t, s.inbox.Check(t.Context()), "webhooks don't arrive: for 16m0s")

	// Stripe's own repetition arrives at last.
	events := s.stripe.Events()
	last := events[slices.IndexFunc(events, func(e stripetest.Event) bool { return e.Type == "customer.subscription.updated" })]
	status, err := s.stripe.Deliver(t.Context(), last.ID)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.NoError(t, s.inbox.Check(t.Context()))
	require.NoError(t, s.inbox.Drain(t.Context()))

	// Nobody is registered: Stripe has nothing undelivered to tell of.
	s.stripe.DisturbWebhooks(nil)
	s.stripe.SetWebhookURL("")
	s.change(t, paid.Subscription, "pro", "starter")
	pull(0)
	s.stripe.Advance(time.Hour)
	pull(1)
	require.Equal(t, tenant.Starter, s.nextCall(t, id).Plan)

	// Nobody asks.
	s.stripe.Advance(18 * time.Minute)
	require.ErrorContains(t, s.inbox.Check(t.Context()), "not asked for missed notices for 18m0s")
}

// TestMissedPages: more events than a page has, and none of types that nobody
// wants.
func TestMissedPages(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	_, err := w.client.EnsureCatalog(t.Context(), catalog)
	require.NoError(t, err)
	_, paid := w.buy(t, "pro")
	for i := range 120 {
		w.rawObject(t, http.MethodPost, "/v1/subscriptions/"+paid.Subscription, "description=n"+strings.Repeat("x", i))
	}
	seen := map[string]bool{}
	require.NoError(t, w.source.Missed(t.Context(), time.Time{}, true, func(n billing.Notice) error {
		require.False(t, seen[n.ID])
		require.False(t, strings.HasPrefix(n.Type, "price.") || strings.HasPrefix(n.Type, "product."), n.Type)
		seen[n.ID] = true
		return nil
	}))
	require.Greater(t, len(seen), 120)
	n := 0
	require.NoError(t, w.source.Missed(t.Context(), start.Add(time.Second), true, func(billing.Notice) error { n++; return nil }))
	require.Zero(t, n)
	require.ErrorContains(t, w.source.Missed(t.Context(), time.Time{}, true, func(billing.Notice) error { return http.ErrAbortHandler }), "abort")
}

// TestAnyWebhook: a change of plan arrives by webhooks of every layout: full and
// thin, of any API version, signed with the secret of before or after a roll.
//
// Mutation seen by it: types of thin events not recognised.
func TestAnyWebhook(t *testing.T) {
	t.Parallel()
	for _, version := range []string{
		"2023-10-16", "2024-04-10", "2024-06-20", "2024-09-30.acacia", "2025-02-24.acacia",
		"2025-03-31.basil", "2025-09-30.clover", "2026-03-25.dahlia", "2026-10-28.endive",
	} {
		for _, thin := range []bool{false, true} {
			name := version + " full"
			if thin {
				name = version + " thin"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := openShop(t, &stripetest.Options{APIVersion: version, ThinWebhooks: thin})
				id, paid := s.buy(t, "starter")
				s.settle(t)
				require.Equal(t, tenant.Starter, s.nextCall(t, id).Plan)

				// The roll begins: Stripe signs with both, we know the old one.
				rolled := s.stripe.RollWebhookSecret(time.Hour)
				s.change(t, paid.Subscription, "starter", "pro")
				s.settle(t)
				require.Equal(t, tenant.Pro, s.nextCall(t, id).Plan)

				// We know both, Stripe signs with the new one alone.
				var err error
				s.hook, err = stripebill.NewWebhook(s.inbox, []string{rolled, s.stripe.WebhookSecret},
					&stripebill.WebhookOptions{Now: func() time.Time { return start }})
				require.NoError(t, err)
				s.front.Config.Handler = s.hook
				s.stripe.Advance(2 * time.Hour)
				s.change(t, paid.Subscription, "pro", "starter")
				s.settle(t)
				require.Equal(t, tenant.Starter, s.nextCall(t, id).Plan)
				require.Equal(t, "0", s.text(t, `select count(*)::text from mcpsaas.billing_notices where state not in ('applied', 'ignored')`))
				stored := s.text(t, `select string_agg(distinct split_part(type, '.', 1), ' ') from mcpsaas.billing_notices`)
				require.Equal(t, thin, strings.HasPrefix(stored, "v1"), stored)
			})
		}
	}
}
