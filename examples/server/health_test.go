package main

import (
	"fmt"
	"net/http"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// redisMemory bounds what Redis may hold; 0 is no bound.
func (w *world) redisMemory(t *testing.T, bytes string) func() {
	return func() {
		t.Helper()
		client, err := redisquota.NewClient(w.redis.URL)
		require.NoError(t, err)
		defer client.Close()
		require.NoError(t, client.ConfigSet(t.Context(), "maxmemory", bytes).Err())
	}
}

// TestSilentFailures breaks what no answer of the server would tell of, one
// thing after the other: each turns health red at the next probe, and green
// again when it is mended.
//
// Mutations that it saw: an isolation check with an interval of minutes, and
// each check that is left out of buildHealth.
func TestSilentFailures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	super := w.superPool(t)
	r := w.serve(nil)
	pro := r.tenant(tenant.Pro)
	sql := func(statement string) func() {
		return func() {
			t.Helper()
			_, err := super.Exec(t.Context(), statement)
			require.NoError(t, err, statement)
		}
	}
	const policies = `do $$ declare p name; begin
	for p in select polname from pg_policy where polrelid = 'products'::regclass loop
		execute format('alter policy %%I on products rename to %s', %s);
	end loop; end $$`
	usage := func() {
		w.stripe.Inject(stripetest.Fault{Kind: stripetest.Unavailable, Path: "/v1/billing/meter_events", Times: -1})
		a, err := post(t.Context(), r.MCPURL, pro.APIKey, "", "1", "search_products", map[string]any{})
		require.NoError(t, err)
		require.False(t, a.isErr, a.text)
		eventually(t, "the call is in a batch", func() bool {
			tag, err := super.Exec(t.Context(), `update mcpsaas.usage_batches set sealed_at = now() - interval '1 minute' where state <> 'confirmed'`)
			require.NoError(t, err)
			return tag.RowsAffected() > 0
		})
	}
	for _, silent := range []struct {
		what          string
		breaks, mends func()
		status        string
	}{
		{"policies off", sql(`alter table products disable row level security`), sql(`alter table products enable row level security`), "down"},
		{"policies not forced", sql(`alter table products no force row level security`), sql(`alter table products force row level security`), "down"},
		{"policies not ours", sql(fmt.Sprintf(policies, `%s_`, `p, p`)), sql(fmt.Sprintf(policies, `%I`, `p, rtrim(p, '_')`)), "down"},
		{"table without policies", sql(`create table forgotten (tenant_id uuid); grant select on forgotten to app_user`), sql(`drop table forgotten`), "down"},
		{"usage doesn't reach Stripe", usage, w.stripe.Heal, "degraded"},
		{"Stripe has counted otherwise", sql(`
			insert into mcpsaas.billing_drift (tenant_id, target_id, window_from, window_to, confirmed, provider, drift, found_at, checked_at)
			select tenant_id, id, now(), now() + interval '1 hour', 5, 6, 1, now(), now() from mcpsaas.billing_targets limit 1`),
			sql(`delete from mcpsaas.billing_drift`), "degraded"},
		{"batch parked", sql(`update mcpsaas.usage_batches set state = 'parked'`),
			sql(`update mcpsaas.usage_batches set state = 'confirmed'`), "degraded"},
		{"notice given up", sql(`
			insert into mcpsaas.billing_notices (id, type, created, object_id, customer, api_version, live, payload, lane, next_at, received_at, state)
			values ('evt_dead', '', now(), '', '', '', false, '', '', now(), now(), 'dead')`),
			sql(`delete from mcpsaas.billing_notices where id = 'evt_dead'`), "degraded"},
		{"tenant not provisioned", sql(`update mcpsaas.tenant_lifecycle set state = 'failed' where tenant = '` + pro.ID.String() + `'`),
			sql(`update mcpsaas.tenant_lifecycle set state = 'active'`), "degraded"},
		{"counters not written", w.redisMemory(t, "1"), w.redisMemory(t, "0"), "degraded"},
	} {
		silent.breaks()
		eventually(t, silent.what, func() bool {
			code, status := getHealth(t, r)
			return code == http.StatusServiceUnavailable && status == silent.status
		})
		if metric := map[string]string{
			"usage doesn't reach Stripe":   `mcp_billing_count{of="open"} [1-9]`,
			"Stripe has counted otherwise": `mcp_billing_drift_units [1-9]`,
			"batch parked":                 `mcp_billing_count{of="parked"} [1-9]`,
			"notice given up":              `mcp_billing_count{of="webhooks_dead"} [1-9]`,
		}[silent.what]; metric != "" {
			eventually(t, metric, func() bool { return regexp.MustCompile(metric).MatchString(adminGet(t, r, "/metrics")) })
		}
		silent.mends()
		eventually(t, silent.what+": mended", func() bool {
			code, _ := getHealth(t, r)
			return code == http.StatusOK
		})
	}
}

// TestStartWithoutStripe starts a server that has run before while Stripe is
// away: its tenants are served, health says what is wrong, and what is sold is
// seen to when Stripe is back.
//
// Mutation that it saw: a start that fails without the catalog.
func TestStartWithoutStripe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.spawn()
	require.NoError(t, r.stop())
	w.stripe.Inject(stripetest.Fault{Kind: stripetest.Unavailable, Times: -1})
	r = w.serve(nil)
	pro := r.tenant(tenant.Pro)
	a, err := post(t.Context(), r.MCPURL, pro.APIKey, "", "1", "search_products", map[string]any{})
	require.NoError(t, err)
	require.False(t, a.isErr, a.text)
	code, status := getHealth(t, r)
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Equal(t, "degraded", status)
	w.stripe.Heal()
	eventually(t, "green", func() bool {
		code, _ := getHealth(t, r)
		return code == http.StatusOK
	})
	w.billed(t, pro.StripeCustomer, 1)
}
