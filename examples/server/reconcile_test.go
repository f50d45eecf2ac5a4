package main

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestKilledInRedisOutage: the server is killed while Redis is away. The next one
// tells Redis what the first has let through, to the unit.
//
// Mutation seen here: without a journal, Redis counts what it counted before.
func TestKilledInRedisOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.env["REDIS_BUDGET"] = "250ms"
	r := w.spawn()
	who := r.tenant(tenant.Starter) // whose limits are too small for leases
	calls := func(n int) {
		t.Helper()
		for range n {
			a, err := post(t.Context(), r.MCPURL, who.APIKey, "", "", "search_products", map[string]any{})
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, a.status)
			require.False(t, a.isErr, a.text)
		}
	}
	client, err := redisquota.NewClient(w.redis.URL)
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	limiter, err := redisquota.New(client, nil)
	require.NoError(t, err)
	counted := func() int64 {
		d, err := limiter.Peek(t.Context(), metering.Request{Tenant: who.ID, Bounds: []metering.Bound{{Limit: metering.PerHour(1_000)}}})
		if err != nil {
			return -1
		}
		return 1_000 - d.Limits[0].Remaining
	}
	calls(10)
	require.EqualValues(t, 10, counted())
	w.redis.Kill()
	calls(25)
	r.kill()
	w.redis.Start()
	require.EqualValues(t, 10, counted(), "its append-only file has it")

	r = w.spawn()
	who = r.tenant(tenant.Starter) // with the key that works now
	eventually(t, "Redis has been told", func() bool { return counted() == 35 })
	calls(5)
	w.billed(t, who.StripeCustomer, 40)
	require.EqualValues(t, 40, counted())
	var unmetered int64
	require.NoError(t, w.db.QueryRow(t.Context(), `select count(*) from mcpsaas.usage_events where unmetered and tenant_id = $1`, who.ID).Scan(&unmetered))
	require.EqualValues(t, 25, unmetered)
}
