package main

import (
	"fmt"
	"net/http"
	"regexp"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestBillingSignals breaks what each metric of billing watches: it shows, health
// turns red, and both are as before when it is mended. What is old after minutes
// or hours is made older in the database.
func TestBillingSignals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.serve(nil)
	pro := r.tenant(tenant.Pro)
	super := w.superPool(t)
	run := func(sql string, args ...any) (rows int64) {
		t.Helper()
		tag, err := super.Exec(t.Context(), sql, args...)
		require.NoError(t, err, sql)
		return tag.RowsAffected()
	}
	// until repeats what makes a row older: it may not be there yet.
	until := func(sql string, args ...any) func() {
		return func() {
			t.Helper()
			eventually(t, sql, func() bool { return run(sql, args...) > 0 })
		}
	}
	call := func() {
		t.Helper()
		a, err := post(t.Context(), r.MCPURL, pro.APIKey, "", "1", "search_products", map[string]any{})
		require.NoError(t, err)
		require.False(t, a.isErr, a.text)
	}
	faulty := func(kind stripetest.FaultKind) func() {
		return func() {
			t.Helper()
			w.stripe.Inject(stripetest.Fault{Kind: kind, Endpoint: "POST /v1/billing/meter_events", Times: -1})
			call()
		}
	}
	all := func(steps ...func()) func() {
		return func() {
			for _, step := range steps {
				step()
			}
		}
	}
	requeue := func() {
		t.Helper()
		w.stripe.Heal()
		for _, batch := range w.batches(t, `state = 'rejected'`) {
			_, err := w.command("billing", "requeue", batch, "-actor", "ann", "-reason", "mended")
			require.NoError(t, err)
		}
	}
	var holder pgx.Tx // of the lock of whoever seals the tenant's usage
	hold := func() {
		t.Helper()
		var err error
		holder, err = super.Begin(t.Context())
		require.NoError(t, err)
		_, err = holder.Exec(t.Context(), `select pg_advisory_xact_lock(822001, hashtext($1::text))`, pro.ID.String())
		require.NoError(t, err)
	}
	var subscription string
	require.NoError(t, super.QueryRow(t.Context(), `select id from mcpsaas.billing_subscriptions where tenant_id = $1`, pro.ID).Scan(&subscription))
	const count, ageOf = `mcp_billing_count{of="%s"} `, `mcp_billing_age_seconds{of="%s"} `

	eventually(t, "what was ever done shows", func() bool {
		page := adminGet(t, r, "/metrics")
		return shows(page, fmt.Sprintf(ageOf, "last_webhook"), true) && shows(page, fmt.Sprintf(ageOf, "last_reconcile"), true)
	})
	for _, signal := range []struct {
		what          string
		breaks, mends func()
		metrics       []string
	}{
		{"the key is refused", faulty(stripetest.Unauthorized), w.stripe.Heal, []string{`mcp_billing_unauthorized `}},
		{"usage is refused", faulty(stripetest.Refused), requeue, []string{fmt.Sprintf(count, "rejected")}},
		{"answers are lost", all(faulty(stripetest.Error500After),
			until(`update mcpsaas.usage_batches set sealed_at = sealed_at - interval '1 hour' where state = 'unknown'`)), w.stripe.Heal,
			[]string{fmt.Sprintf(count, "unknown"), fmt.Sprintf(count, "open"), fmt.Sprintf(ageOf, "unconfirmed")}},
		{"usage gets into no batch", all(hold, call,
			until(`update mcpsaas.usage_events set recorded_at = recorded_at - interval '1 hour' where due`)),
			func() { require.NoError(t, holder.Rollback(t.Context())) },
			[]string{fmt.Sprintf(count, "unsealed"), fmt.Sprintf(ageOf, "unsealed")}},
		{"a billing period is about to end", all(faulty(stripetest.Unavailable),
			until(`update mcpsaas.usage_batches set period_end = now() + interval '5 minutes' where state in ('sealed', 'unknown') and attempt > 0`)),
			w.stripe.Heal, []string{fmt.Sprintf(count, "at_risk")}},
		{"notices can't be worked on", func() {
			w.stripe.Inject(stripetest.Fault{Kind: stripetest.Unavailable, Endpoint: "GET /v1/subscriptions/{id}", Times: -1})
			require.NoError(t, w.stripe.SetStatus(subscription, "active"))
			until(`update mcpsaas.billing_notices set received_at = received_at - interval '1 hour' where state in ('new', 'working') and via <> 'schedule'`)()
		}, w.stripe.Heal, []string{fmt.Sprintf(count, "webhooks_pending"), fmt.Sprintf(ageOf, "inbox")}},
		{"Stripe has counted otherwise", until(`
			insert into mcpsaas.billing_drift (tenant_id, target_id, window_from, window_to, confirmed, provider, drift, found_at, checked_at)
			select tenant_id, id, now(), now() + interval '1 hour', 5, 6, 1, now(), now() from mcpsaas.billing_targets where tenant_id = $1`, pro.ID),
			until(`delete from mcpsaas.billing_drift`), []string{fmt.Sprintf(count, "drifting"), `mcp_billing_drift_units `}},
	} {
		signal.breaks()
		eventually(t, signal.what+": health", func() bool {
			code, status := getHealth(t, r)
			return code == http.StatusServiceUnavailable && status == "degraded"
		})
		for _, metric := range signal.metrics {
			eventually(t, signal.what+": "+metric, func() bool { return shows(adminGet(t, r, "/metrics"), metric, true) })
		}
		signal.mends()
		eventually(t, signal.what+": mended", func() bool {
			// Who waits before the next attempt, waits no longer.
			run(`update mcpsaas.usage_batches set next_at = now() where state in ('sealed', 'unknown') and next_at > now()`)
			run(`update mcpsaas.billing_notices set next_at = now() where state = 'new' and via <> 'schedule' and next_at > now()`)
			code, _ := getHealth(t, r)
			page := adminGet(t, r, "/metrics")
			for _, metric := range signal.metrics {
				if !shows(page, metric, false) {
					return false
				}
			}
			return code == http.StatusOK
		})
	}
	page := adminGet(t, r, "/metrics")
	require.True(t, shows(page, fmt.Sprintf(ageOf, "last_answer"), true))
	w.billed(t, pro.StripeCustomer, w.produced(t, pro.StripeCustomer))
}

// shows looks for a metric that is above zero, or is zero.
func shows(page, metric string, above bool) bool {
	value := `0(\n|$)`
	if above {
		value = `([1-9]|0\.\d*[1-9])`
	}
	return regexp.MustCompile(regexp.QuoteMeta(metric) + value).MatchString(page)
}

// batches are the ids of those that a condition holds for.
func (w *world) batches(t testing.TB, condition string) []string {
	t.Helper()
	rows, err := w.db.Query(t.Context(), `select id::text from mcpsaas.usage_batches where `+condition)
	require.NoError(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return ids
}
