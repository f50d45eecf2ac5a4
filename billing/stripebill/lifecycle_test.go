package stripebill_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
	"github.com/stretchr/testify/require"
)

// nothing is a source for which no notice concerns anybody.
type nothing struct{}

func (nothing) Fetch(context.Context, billing.Notice) (billing.Change, error) {
	return billing.Change{}, nil
}

const day = 24 * time.Hour

// TestLifecycle goes through what may become of a subscription, at Stripe alone:
// by the real webhooks, inbox and directory the next call finds the plan and the
// status that follow.
//
// Mutations seen by it: Access.Until always zero, the grace counted from the
// latest open invoice instead of the oldest.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	type step struct {
		what   string
		do     func(t *testing.T, s shop, customer, subscription string)
		plan   tenant.Plan
		status tenant.Status
	}
	post := func(form string) func(*testing.T, shop, string, string) {
		return func(t *testing.T, s shop, _, sub string) {
			s.rawObject(t, http.MethodPost, "/v1/subscriptions/"+sub, form)
		}
	}
	wait := func(d time.Duration) func(*testing.T, shop, string, string) {
		return func(_ *testing.T, s shop, _, _ string) { s.stripe.Advance(d) }
	}
	to := func(from, to string) func(*testing.T, shop, string, string) {
		return func(t *testing.T, s shop, _, sub string) { s.change(t, sub, from, to) }
	}
	cancel := func(t *testing.T, s shop, _, sub string) {
		s.rawObject(t, http.MethodDelete, "/v1/subscriptions/"+sub, "")
	}
	decline := func(t *testing.T, s shop, customer, _ string) {
		require.NoError(t, s.stripe.Decline(customer, true))
	}
	pay := func(t *testing.T, s shop, customer, _ string) {
		require.NoError(t, s.stripe.Decline(customer, false))
		s.stripe.CollectOpen(customer)
	}
	const gone = tenant.DeprovisionScheduled
	for name, tc := range map[string]struct {
		options stripetest.Options
		trial   string // of the subscription, which then has no checkout
		steps   []step
	}{
		"upgrade and downgrade": {steps: []step{
			{"upgrade", to("starter", "pro"), tenant.Pro, tenant.Active},
			{"downgrade", to("pro", "starter"), tenant.Starter, tenant.Active},
			{"a period later", wait(31 * day), tenant.Starter, tenant.Active},
		}},
		"cancelled at the period's end": {steps: []step{
			{"asks for it", post("cancel_at_period_end=true"), tenant.Starter, tenant.Active},
			{"a day before the end", wait(27 * day), tenant.Starter, tenant.Active},
			{"the end", wait(2 * day), tenant.Starter, gone},
		}},
		"cancelled and taken back": {steps: []step{
			{"asks for it", post("cancel_at_period_end=true"), tenant.Starter, tenant.Active},
			{"reactivates", post("cancel_at_period_end=false"), tenant.Starter, tenant.Active},
			{"a period later", wait(31 * day), tenant.Starter, tenant.Active},
		}},
		"deleted": {steps: []step{
			{"deletion", cancel, tenant.Starter, gone},
			{"twice", wait(40 * day), tenant.Starter, gone},
		}},
		"deleted and bought again": {steps: []step{
			{"deletion", cancel, tenant.Starter, gone},
			{"returns", func(t *testing.T, s shop, customer, sub string) {
				id, err := tenant.ParseID(s.rawObject(t, http.MethodGet, "/v1/subscriptions/"+sub, "")["metadata"].(map[string]any)["tenant_id"].(string))
				require.NoError(t, err)
				s.buyAs(t, id, "pro", customer)
			}, tenant.Pro, tenant.Active},
			{"a period later", wait(31 * day), tenant.Pro, tenant.Active},
		}},
		"collection paused": {steps: []step{
			{"pause", post("pause_collection[behavior]=keep_as_draft"), tenant.Starter, tenant.Active},
			{"a period later", wait(31 * day), tenant.Starter, tenant.Active},
			{"resumed", post("pause_collection="), tenant.Starter, tenant.Active},
		}},
		"dunning, paid within the grace": {steps: []step{
			{"the card fails", decline, tenant.Starter, tenant.Active},
			{"the period ends", wait(28 * day), tenant.Starter, tenant.Active},
			{"past due", wait(2 * time.Hour), tenant.Starter, tenant.Active},
			{"six days later", wait(6 * day), tenant.Starter, tenant.Active},
			{"pays", pay, tenant.Starter, tenant.Active},
			{"when the grace would have ended", wait(2 * day), tenant.Starter, tenant.Active},
		}},
		"dunning, paid after the grace": {steps: []step{
			{"the card fails", decline, tenant.Starter, tenant.Active},
			{"the period ends", wait(28 * day), tenant.Starter, tenant.Active},
			{"past due", wait(2 * time.Hour), tenant.Starter, tenant.Active},
			{"a second before the grace ends", wait(7*day - time.Hour - time.Second), tenant.Starter, tenant.Active},
			{"the grace ends, and nothing happens at Stripe", wait(time.Second), tenant.Free, tenant.Active},
			{"a period later the grace isn't renewed", wait(31 * day), tenant.Free, tenant.Active},
			{"pays", pay, tenant.Starter, tenant.Active},
		}},
		"dunning, then unpaid": {
			options: stripetest.Options{Dunning: stripetest.Dunning{Retries: []time.Duration{3 * day, 5 * day}, Then: "unpaid"}},
			steps: []step{
				{"the card fails", decline, tenant.Starter, tenant.Active},
				{"the period ends", wait(28 * day), tenant.Starter, tenant.Active},
				{"past due", wait(2 * time.Hour), tenant.Starter, tenant.Active},
				{"first retry", wait(3 * day), tenant.Starter, tenant.Active},
				{"last retry", wait(5 * day), tenant.Starter, tenant.Suspended},
				{"pays", pay, tenant.Starter, tenant.Active},
			}},
		"dunning, then canceled": {
			options: stripetest.Options{Dunning: stripetest.Dunning{Retries: []time.Duration{3 * day}, Then: "canceled"}},
			steps: []step{
				{"the card fails", decline, tenant.Starter, tenant.Active},
				{"the period ends", wait(28 * day), tenant.Starter, tenant.Active},
				{"past due", wait(2 * time.Hour), tenant.Starter, tenant.Active},
				{"last retry", wait(3 * day), tenant.Starter, gone},
			}},
		"trial that is paid": {trial: "trial_period_days=14", steps: []step{
			{"on trial", wait(day), tenant.Starter, tenant.Active},
			{"trial over", wait(14 * day), tenant.Starter, tenant.Active},
		}},
		"trial without a card": {trial: "trial_period_days=14&trial_settings[end_behavior][missing_payment_method]=pause", steps: []step{
			{"on trial", wait(13 * day), tenant.Starter, tenant.Active},
			{"trial over", wait(2 * day), tenant.Starter, tenant.Suspended},
			{"resumed", func(t *testing.T, s shop, _, sub string) {
				s.rawObject(t, http.MethodPost, "/v1/subscriptions/"+sub+"/resume", "")
			}, tenant.Starter, tenant.Active},
		}},
		"first payment never comes": {trial: "declined", steps: []step{
			{"incomplete", wait(time.Hour), tenant.Starter, tenant.Suspended},
			{"expired", wait(day), tenant.Starter, gone},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openShop(t, &tc.options)
			var id tenant.ID
			var customer, subscription string
			if tc.trial == "" {
				bought, paid := s.buy(t, "starter")
				id, customer, subscription = bought, paid.Customer, paid.Subscription
				s.settle(t)
				require.Equal(t, tenant.Starter, s.nextCall(t, id).Plan)
			} else {
				id = tenant.NewID()
				customer = s.rawObject(t, http.MethodPost, "/v1/customers", "email=ada@example.com")["id"].(string)
				form := tc.trial
				if form == "declined" {
					form = ""
					require.NoError(t, s.stripe.Decline(customer, true))
				}
				subscription = s.rawObject(t, http.MethodPost, "/v1/subscriptions", "customer="+customer+"&metadata[tenant_id]="+id.String()+
					"&items[0][price]="+s.price(t, "mcpsaas:starter")+"&items[1][price]="+s.price(t, "mcpsaas:starter:usage")+"&"+form)["id"].(string)
			}
			for _, step := range tc.steps {
				step.do(t, s, customer, subscription)
				s.settle(t)
				next := s.nextCall(t, id)
				require.Equal(t, step.plan, next.Plan, step.what)
				require.Equal(t, step.status, next.Status, step.what)
			}
		})
	}
}

// TestGraceEnds: the end of a grace is put down once for each time that a
// payment fails, whatever is told how often, and waits without looking like a
// stalled inbox.
//
// Mutation seen by it: Access.Until always zero (also by TestLifecycle).
func TestGraceEnds(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	_, paid := s.buy(t, "pro")
	s.settle(t)
	require.NoError(t, s.stripe.Decline(paid.Customer, true))
	s.stripe.Advance(28 * day)
	s.settle(t)
	s.stripe.Advance(2 * time.Hour)
	s.settle(t)
	for _, e := range s.stripe.Events() {
		_, err := s.stripe.Deliver(t.Context(), e.ID)
		require.NoError(t, err)
		if _, known := map[string]bool{"customer.subscription.updated": true, "invoice.payment_failed": true}[e.Type]; known {
			require.NoError(t, s.ledger.RequeueNotice(t.Context(), e.ID))
		}
	}
	s.settle(t)
	const planned = `select count(*) || ' ' || min(next_at at time zone 'utc')::text from mcpsaas.billing_notices where via = 'schedule'`
	require.Equal(t, "1 2026-03-07 11:00:00", s.text(t, planned))
	stats, err := s.ledger.Stats(t.Context(), tenant.ID{})
	require.NoError(t, err)
	require.Zero(t, stats.PendingNotices)
	require.Zero(t, stats.OldestNotice)
	s.stripe.Advance(6 * day)
	_, err = s.inbox.Pull(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.inbox.Check(t.Context()))
	s.stripe.Advance(day)
	require.ErrorContains(t, s.inbox.Check(t.Context()), "stalled", "no worker does what is due")
}
