package metering_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Redis has the counters and the usage, and hangs, dies, refuses and is replaced in
// mid-load. While it is known to be away no call runs that is to be charged, all else
// is served without it, and afterwards the events say what answers were given, to
// the unit: none that nobody got is billed, and none is given for nothing.
//
// Mutations seen here: see redisquota; without the question before a call, tools run
// whose answers are withheld.
func TestStreamInMidLoad(t *testing.T) {
	t.Parallel()
	const workers = 6
	for name, outage := range map[string]struct{ begin, end func(*pair) }{
		"frozen":       {func(p *pair) { p.servers[0].Freeze() }, func(p *pair) { p.servers[0].Thaw() }},
		"killed":       {func(p *pair) { p.servers[0].Kill() }, func(p *pair) { p.servers[0].Start() }},
		"refusing":     {func(p *pair) { p.servers[0].Stop() }, func(p *pair) { p.servers[0].Start() }},
		"failing over": {func(p *pair) { p.failOver() }, func(*pair) {}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			client := p.client()
			t.Cleanup(func() { client.Close() })
			limiter, err := redisquota.New(client, nil)
			require.NoError(t, err)
			sink, err := redisquota.NewStream(client, &redisquota.StreamOptions{Budget: 100 * time.Millisecond, FlushInterval: time.Millisecond})
			require.NoError(t, err)
			plenty := []metering.Limit{metering.PerHour(metering.MaxUnits)}
			meter, err := metering.New(limiter, sink, journaled(t, t.TempDir(), metering.Options{
				Budget: 100 * time.Millisecond,
				Tools:  map[string]metering.Tool{"report": {Units: 20}, "help": {Free: true}},
				Plans: map[tenant.Plan]metering.Plan{
					tenant.Free: {Limits: plenty}, tenant.Pro: {Limits: plenty, OnOutage: metering.Allow}, tenant.Enterprise: {},
				},
			}))
			require.NoError(t, err)
			run(t, meter)
			tenants := []tenant.Tenant{newTenant(tenant.Free), newTenant(tenant.Pro), newTenant(tenant.Enterprise)}
			var answered [3]atomic.Int64 // units of the answers that each has got
			var ran, served atomic.Int64
			call := func(who int, tool string, h handler, units int64) error {
				counted := func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
					if tool == "report" {
						ran.Add(1)
					}
					return h(ctx, req, in)
				}
				_, err := invoke(tenant.NewContext(context.WithoutCancel(t.Context()), tenants[who]), metering.WithMetering(meter, tool, counted), tool, nil)
				if err == nil {
					answered[who].Add(units)
					served.Add(units)
				}
				return err
			}

			var load sync.WaitGroup
			stop := make(chan struct{})
			endLoad := sync.OnceFunc(func() { close(stop); load.Wait() })
			defer endLoad()
			for worker := range workers {
				load.Go(func() {
					for i := worker; ; i++ {
						select {
						case <-stop:
							return
						case <-time.After(time.Millisecond):
						}
						switch who := i % len(tenants); i / len(tenants) % 4 {
						case 0:
							_ = call(who, "report", ok, 20)
						case 1:
							_ = call(who, "report", charges(7), 7)
						case 2:
							_ = call(who, "report", fails, 0)
						case 3:
							_ = call(who, "help", ok, 0)
						}
					}
				})
			}
			more := func() {
				before := served.Load()
				require.Eventually(t, func() bool { return served.Load() >= before+2_000 }, time.Minute, time.Millisecond)
			}
			more()
			outage.begin(p)
			if name != "failing over" {
				asked, cancel := context.WithTimeout(t.Context(), 4*time.Second) // longer than a question from before takes
				require.Error(t, sink.Check(asked))
				cancel()
				endCalls := ran.Load() + workers // those that were let in before
				for range 100 {
					for who := range tenants {
						require.ErrorIs(t, call(who, "report", ok, 20), metering.ErrNotRecorded)
						require.NoError(t, call(who, "help", ok, 0))
					}
				}
				require.LessOrEqual(t, ran.Load(), endCalls)
			}
			outage.end(p)
			more()
			endLoad()

			store := &meteringtest.Store{}
			ctx, cancel := context.WithCancel(t.Context())
			carried := make(chan error, 1)
			go func() { carried <- sink.Run(ctx, store) }()
			require.Eventually(t, func() bool { return sink.Flush(t.Context()) == nil }, time.Minute, 10*time.Millisecond)
			cancel()
			require.NoError(t, <-carried)
			for who, tenant := range tenants {
				var units int64
				for _, e := range store.Events() {
					if e.Tenant == tenant.ID {
						units += e.Units
					}
				}
				require.Equal(t, answered[who].Load(), units, "of plan %s", tenant.Plan)
			}
		})
	}
}
