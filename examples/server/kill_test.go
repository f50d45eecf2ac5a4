package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestKill kills the server with -9 twice in the middle of 1,000 calls; with SOAK
// of 15,000, of which 10,000 are acknowledged before the second. A call that got
// no answer is made again under its idempotency key, as a client does. In the end
// every call has exactly one usage event with its price, and Stripe's total is the
// sum, to the unit, wherever usage waits.
//
// Mutation that it saw: recording the event in a goroutine, after the answer.
// That a dead process's spool is adopted, and that a call made again is charged
// once, is what packages usage and metering test.
func TestKill(t *testing.T) {
	t.Parallel()
	for _, sink := range []string{sinkSpool, sinkStream} {
		t.Run(sink, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.env["USAGE_SINK"] = sink
			kill(t, w)
		})
	}
}

func kill(t *testing.T, w *world) {
	const workers = 8
	calls := 1_000
	if devtest.Soak() {
		calls = 15_000
	}
	price := func(n int) (string, int64) {
		if n%50 == 0 {
			return "generate_report", 20
		}
		return "search_products", 1
	}
	queue := make(chan int, calls)
	want := map[tenant.Plan]int64{}
	plan := func(n int) tenant.Plan {
		if n%4 == 0 {
			return tenant.Pro // 10,000 units an hour
		}
		return tenant.Enterprise
	}
	for n := range calls {
		queue <- n
		_, units := price(n)
		want[plan(n)] += units
	}
	var (
		mu       sync.Mutex
		answered = map[string]bool{}
		reissued int
	)
	r := w.spawn()
	for _, stopAt := range []int{calls / 3, 2 * calls / 3, calls} {
		var wg sync.WaitGroup
		enough := make(chan struct{})
		var once sync.Once
		for range workers {
			wg.Go(func() {
				for {
					var n int
					select {
					case n = <-queue:
					default:
						return
					}
					id := fmt.Sprintf("call-%d", n)
					tool, _ := price(n)
					body, _ := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": map[string]any{
						"name": tool, "arguments": map[string]any{}, "_meta": map[string]any{metering.MetaIdempotencyKey: id},
					}})
					a, err := postRaw(context.Background(), r.MCPURL, r.tenant(plan(n)).APIKey, "", body)
					if err != nil { // the server is gone: ask again when it is back
						queue <- n
						mu.Lock()
						reissued++
						mu.Unlock()
						return
					}
					if a.status != 200 || a.isErr || a.id != id {
						t.Errorf("call %s: status %d, %s", id, a.status, a.text)
						return
					}
					mu.Lock()
					answered[id] = true
					reached := len(answered) >= stopAt
					mu.Unlock()
					if reached {
						once.Do(func() { close(enough) })
					}
				}
			})
		}
		if stopAt < calls {
			<-enough
			r.kill() // in mid-flight: the workers go on calling
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		if stopAt < calls {
			r = w.spawn()
		}
	}
	require.Len(t, answered, calls)
	t.Logf("%d calls were cut off and made again", reissued)

	for plan, units := range want {
		w.billed(t, r.tenant(plan).StripeCustomer, units)
	}
	require.NoError(t, r.stop(), "an orderly stop")

	rows, err := w.db.Query(t.Context(), `
		select request_id, sum(units)::bigint, count(*) filter (where units > 0)
		from mcpsaas.usage_events where request_id <> '' group by request_id`)
	require.NoError(t, err)
	type line struct {
		Key          string
		Units, Count int64
	}
	lines, err := pgx.CollectRows(rows, pgx.RowToStructByPos[line])
	require.NoError(t, err)
	require.Len(t, lines, calls)
	for _, l := range lines {
		var n int
		_, err := fmt.Sscanf(l.Key, "call-%d", &n)
		require.NoError(t, err)
		_, units := price(n)
		require.Equal(t, units, l.Units, l.Key)
		require.EqualValues(t, 1, l.Count, l.Key)
	}
}

// TestTakeover kills the server while it works on a notice of Stripe, of a
// subscription and of units that were paid for, and while it reports usage: the next one takes over what the dead one held, soon enough
// for those who wait for it.
//
// Mutation that it saw: the leases of billing's and onboarding's defaults, by
// which the demo isn't made, and usage waits for two minutes.
func TestTakeover(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	held := func(what, sql string) {
		t.Helper()
		eventually(t, what, func() bool {
			var n int
			err := w.db.QueryRow(t.Context(), sql).Scan(&n)
			return err == nil && n > 0 // no table yet: no row yet
		})
	}
	// What a notice says is never taken from the notice.
	w.stripe.Inject(stripetest.Fault{Kind: stripetest.Slow, Method: http.MethodGet, Path: "/v1/subscriptions", Delay: time.Hour})
	kill, _, _ := w.launch(w.demoFile())
	held("a notice is worked on", `select count(*) from mcpsaas.billing_notices where state = 'working'`)
	kill()
	w.stripe.Heal()
	r := w.spawn()

	w.stripe.Inject(stripetest.Fault{Kind: stripetest.Slow, Path: "/v1/billing/meter_events", Delay: time.Hour})
	pro := r.tenant(tenant.Pro)
	a, err := post(t.Context(), r.MCPURL, pro.APIKey, "", "1", "search_products", map[string]any{})
	require.NoError(t, err)
	require.False(t, a.isErr, a.text)
	held("usage is being reported", `select count(*) from mcpsaas.usage_batches where state = 'sending'`)
	r.kill()
	w.stripe.Heal()
	r = w.spawn()
	w.billed(t, pro.StripeCustomer, 1)

	w.stripe.Inject(stripetest.Fault{Kind: stripetest.Slow, Path: "/v1/charges", Delay: time.Hour})
	checkout, status := buyPack(t, r, r.tenant(tenant.Pro).APIKey, "units-100k", "")
	require.Equal(t, http.StatusOK, status)
	require.NoError(t, w.stripe.Pay(checkout.Session))
	held("a payment is looked at", `select count(*) from mcpsaas.billing_notices where state = 'working'`)
	r.kill()
	w.stripe.Heal()
	r = w.spawn()
	eventually(t, "the units are there", func() bool { return len(toldGrants(t, r, r.tenant(tenant.Pro).APIKey)) == 1 })
}
