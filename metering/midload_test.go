package metering_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// pair is a Redis with an append-only file, and what may take its place.
type pair struct {
	t       *testing.T
	servers [2]*devtest.RedisServer
	clients [2]*redis.Client
	present atomic.Int64 // which one clients reach
}

func newPair(t *testing.T) *pair {
	p := &pair{t: t}
	for i := range p.servers {
		p.servers[i] = devtest.DurableRedis(t)
		p.clients[i] = redis.NewClient(&redis.Options{Addr: p.servers[i].Addr})
		t.Cleanup(func() { p.clients[i].Close() })
	}
	return p
}

// client reaches the present one, wherever that is.
func (p *pair) client() *redis.Client {
	return redis.NewClient(&redis.Options{
		Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", p.servers[p.present.Load()].Addr)
		},
		ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1, ReadTimeout: 10 * time.Second, PoolSize: 32,
	})
}

// failOver hands over to the other one, which has the data and not the scripts, and
// kills the first.
func (p *pair) failOver() {
	ctx, t := p.t.Context(), p.t
	host, port, err := net.SplitHostPort(p.servers[0].Addr)
	require.NoError(t, err)
	offset := func(i int, field string) string {
		info, err := p.clients[i].InfoMap(ctx, "replication").Result()
		require.NoError(t, err)
		return info["Replication"][field]
	}
	require.NoError(t, p.clients[1].Do(ctx, "replicaof", host, port).Err())
	require.Eventually(t, func() bool { return offset(1, "master_link_status") == "up" }, time.Minute, 10*time.Millisecond)
	require.NoError(t, p.clients[0].Do(ctx, "client", "pause", 60_000, "write").Err())
	require.Eventually(t, func() bool {
		return offset(0, "master_repl_offset") == offset(1, "slave_repl_offset")
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, p.clients[1].Do(ctx, "replicaof", "no", "one").Err())
	require.NoError(t, p.clients[1].ScriptFlush(ctx).Err())
	p.servers[0].Kill()
	p.present.Store(1)
}

// Redis hangs, dies, refuses and is replaced in mid-load. No call waits for it as a
// client by its defaults does (20 s when it hangs), and afterwards limits count what
// the events say, to the unit.
//
// Mutations seen here: see journal_test.go and broken_test.go.
func TestRedisInMidLoad(t *testing.T) {
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
			b := &bench{limiter: limiter, sink: &meteringtest.Sink{}}
			b.meter, err = metering.New(limiter, b.sink, journaled(t, t.TempDir(), metering.Options{Budget: 100 * time.Millisecond, Plans: plentyPlans()}))
			require.NoError(t, err)
			run(t, b.meter)
			tenants := []tenant.Tenant{newTenant(tenant.Free), newTenant(tenant.Starter), newTenant(tenant.Pro)}

			var load sync.WaitGroup
			var made, longest atomic.Int64
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
						ctx := tenant.NewContext(context.WithoutCancel(t.Context()), tenants[i%len(tenants)])
						began := time.Now()
						_, _ = invoke(ctx, guarded(metering.WithMetering(b.meter, "report", []handler{ok, ok, fails, charges(7)}[i/len(tenants)%4])), "report", nil)
						for took := int64(time.Since(began)); ; {
							if was := longest.Load(); took <= was || longest.CompareAndSwap(was, took) {
								break
							}
						}
						made.Add(1)
					}
				})
			}
			more := func(count func() int64, n int64) {
				t.Helper()
				before := count()
				require.Eventually(t, func() bool { return count() >= before+n }, time.Minute, time.Millisecond)
			}
			admitted := func() int64 { s := b.meter.Stats(); return s.Admitted - s.Unmetered }
			more(admitted, 200)
			outage.begin(p)
			if name != "failing over" {
				more(func() int64 { return b.meter.Stats().Unmetered }, 100)
			}
			outage.end(p)
			more(admitted, 200)
			endLoad()
			t.Logf("%d calls, the longest took %v", made.Load(), time.Duration(longest.Load()))
			require.Less(t, time.Duration(longest.Load()), 15*time.Second)

			require.Eventually(t, func() bool { return b.meter.Check(t.Context()) == nil && !b.meter.Waits() }, time.Minute, time.Millisecond)
			require.Zero(t, b.meter.Stats().Unjournaled)
			require.Zero(t, b.meter.Stats().InDoubt)
			b.requireAgreement(t, tenants...)
		})
	}
}
