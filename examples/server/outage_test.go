package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestRedisOutage stops Redis in mid-run: free tenants are refused, paying ones
// served, every answered call is billed, and the monitor sees it at once.
func TestRedisOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.env["REDIS_BUDGET"] = "100ms"
	r := w.serve(nil)
	free, pro := r.tenant(tenant.Free), r.tenant(tenant.Pro)
	call := func(who demoTenant, n int) answer {
		t.Helper()
		a, err := post(t.Context(), r.MCPURL, who.APIKey, "", fmt.Sprintf("%s-%d", who.Plan, n), "search_products", map[string]any{})
		require.NoError(t, err)
		return a
	}
	served := map[tenant.Plan]int64{}
	for n := range 10 {
		for _, who := range []demoTenant{free, pro} {
			require.False(t, call(who, n).isErr)
			served[who.Plan]++
		}
	}
	status, _ := getHealth(t, r)
	require.Equal(t, http.StatusOK, status)

	for name, outage := range map[string]struct{ begin, end func() }{
		"stopped": {w.redis.Stop, w.redis.Start},
		"frozen":  {w.redis.Freeze, w.redis.Thaw},
	} {
		outage.begin()
		began := time.Now()
		for n := range 20 {
			a := call(free, 100+n)
			require.True(t, a.isErr, name)
			require.Contains(t, a.text, "metering_unavailable", name)
			require.NotContains(t, a.text, w.redis.Addr, "no address leaks")
			require.False(t, call(pro, 100+n).isErr, name)
			served[pro.Plan]++
		}
		// The first probe that looks, rather than answering from the last second's
		// result, is red.
		eventually(t, "a probe looks", func() bool {
			status, at := redisCheck(t, r)
			if !at.After(began) {
				return false
			}
			require.Equal(t, "down", status, name)
			return true
		})
		eventually(t, "the monitor's answer is red", func() bool {
			status, health := getHealth(t, r)
			return status == http.StatusServiceUnavailable && health == "degraded"
		})
		res, err := http.Get(r.base + "/readyz")
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, http.StatusOK, res.StatusCode, "an outage that all replicas share takes none out")
		outage.end()
		eventually(t, "health is green again", func() bool {
			status, _ := getHealth(t, r)
			return status == http.StatusOK
		})
		eventually(t, "free tenants are served again", func() bool {
			a := call(free, 1000)
			if !a.isErr {
				served[free.Plan]++
			}
			return !a.isErr
		})
	}
	w.billed(t, free.StripeCustomer, served[free.Plan])
	w.billed(t, pro.StripeCustomer, served[pro.Plan])
	var unmetered int64
	require.NoError(t, w.db.QueryRow(t.Context(), `select count(*) from mcpsaas.usage_events where unmetered and units = 1`).Scan(&unmetered))
	require.LessOrEqual(t, unmetered, int64(40))
	require.Greater(t, unmetered, int64(30), "calls that were let through say so; a few were paid for with units that Redis had lent before")
}

// TestRedisOutageWithUsageInIt is the same where usage waits in that Redis: every
// tenant is refused, and every answered call is billed.
func TestRedisOutageWithUsageInIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.env["REDIS_BUDGET"], w.env["USAGE_SINK"] = "250ms", sinkStream
	r := w.serve(nil)
	plans := []tenant.Plan{tenant.Enterprise, tenant.Pro, tenant.Free} // whose units are few
	served, calls := map[tenant.Plan]int64{}, 0
	call := func(plan tenant.Plan) (a answer) {
		t.Helper()
		calls++
		a, err := post(t.Context(), r.MCPURL, r.tenant(plan).APIKey, "", fmt.Sprint(calls), "search_products", map[string]any{})
		require.NoError(t, err)
		if !a.isErr {
			served[plan]++
		}
		return a
	}
	all := func(ok func(answer) bool) func() bool {
		return func() bool {
			for _, plan := range plans {
				if !ok(call(plan)) {
					return false
				}
			}
			return true
		}
	}
	for _, outage := range []struct{ begin, end func() }{{w.redis.Stop, w.redis.Start}, {w.redis.Freeze, w.redis.Thaw}} {
		eventually(t, "all are served", all(func(a answer) bool { return !a.isErr }))
		outage.begin()
		eventually(t, "all are refused", all(func(a answer) bool {
			require.NotContains(t, a.text, w.redis.Addr, "no address leaks")
			return a.isErr && strings.Contains(a.text, "usage can't be recorded")
		}))
		outage.end()
	}
	eventually(t, "all are served again", all(func(a answer) bool { return !a.isErr }))
	for _, plan := range plans {
		w.billed(t, r.tenant(plan).StripeCustomer, served[plan])
	}
}

// redisCheck asks for health as the operator, and returns what the check of
// Redis saw and when.
func redisCheck(t *testing.T, r *running) (status string, at time.Time) {
	t.Helper()
	res, err := http.Get(r.AdminURL + "/health")
	require.NoError(t, err)
	defer res.Body.Close()
	var body struct {
		Details map[string]struct {
			Status string
			Time   time.Time
		}
	}
	require.NoError(t, json.NewDecoder(res.Body).Decode(&body))
	return body.Details["redis"].Status, body.Details["redis"].Time
}
