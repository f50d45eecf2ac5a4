package metering_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var errBroken = errors.New("the connection broke")

// breaker breaks connections at the worst moments.
type breaker struct {
	address string
	rate    atomic.Int64 // of a thousand questions, how many meet it

	asked, done, underWay atomic.Int64 // broke before Redis was asked, after it answered, and what reached Redis later

	mu   sync.Mutex
	held []func() // that let questions under way arrive
}

func (b *breaker) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, b.address)
	return &breakingConn{Conn: conn, breaker: b}, err
}

// arrive lets all that is under way reach Redis, and waits until it has answered.
func (b *breaker) arrive() {
	b.mu.Lock()
	held := b.held
	b.held = nil
	b.mu.Unlock()
	for _, arrive := range held {
		arrive()
	}
}

type breakingConn struct {
	net.Conn
	breaker *breaker
	broken  atomic.Bool
}

func (c *breakingConn) Write(question []byte) (int, error) {
	b := c.breaker
	if c.broken.Load() {
		return 0, errBroken
	}
	if rand.Int64N(1000) >= b.rate.Load() {
		return c.Conn.Write(question)
	}
	c.broken.Store(true)
	ask := func() {
		defer c.Conn.Close()
		if _, err := c.Conn.Write(question); err == nil {
			_, _ = io.ReadAtLeast(c.Conn, make([]byte, 1), 1)
		}
	}
	switch rand.IntN(3) {
	case 0:
		b.asked.Add(1)
		c.Conn.Close()
	case 1:
		b.done.Add(1)
		ask()
	default:
		b.underWay.Add(1)
		question = append([]byte(nil), question...)
		b.mu.Lock()
		b.held = append(b.held, ask)
		b.mu.Unlock()
	}
	return len(question), nil
}

func (c *breakingConn) Read(p []byte) (int, error) {
	if c.broken.Load() {
		return 0, errBroken
	}
	return c.Conn.Read(p)
}

// Close leaves a question that is under way alone.
func (c *breakingConn) Close() error {
	if c.broken.Load() {
		return nil
	}
	return c.Conn.Close()
}

// plentyPlans has limits that nobody uses up: all that is let through fits into them.
func plentyPlans() map[tenant.Plan]metering.Plan {
	limits := []metering.Limit{metering.PerHour(10_000_000), metering.PerMonth(10_000_000)}
	return map[tenant.Plan]metering.Plan{
		tenant.Free:    {Limits: limits, OnOutage: metering.Deny},
		tenant.Starter: {Limits: limits, OnOutage: metering.Allow, Tools: map[string][]metering.Limit{"report": limits}},
		tenant.Pro:     {Limits: limits, OnOutage: metering.Share},
	}
}

// Connections break before Redis has read a question, after it has carried it out,
// and while it is on its way, so that it arrives when nobody believes in it any
// more. Each call counts once all the same: limits agree with events to the unit,
// then, and still when everything has arrived.
//
// Mutations seen here: without Withdraw, or the receipt of a settlement, what was
// carried out counts twice; without the look at the receipt in take.lua or
// settle.lua, what arrives late does.
func TestBrokenConnections(t *testing.T) {
	t.Parallel()
	server := devtest.Redis(t)
	weather := &breaker{address: server.Addr}
	client := redis.NewClient(&redis.Options{
		Dialer: weather.dial, ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1, ReadTimeout: 10 * time.Second, PoolSize: 32,
	})
	t.Cleanup(func() { client.Close() })
	limiter, err := redisquota.New(client, nil)
	require.NoError(t, err)
	b := &bench{limiter: limiter, sink: &meteringtest.Sink{}}
	b.meter, err = metering.New(limiter, b.sink, journaled(t, t.TempDir(), metering.Options{Plans: plentyPlans()}))
	require.NoError(t, err)
	stop := run(t, b.meter)
	tenants := []tenant.Tenant{newTenant(tenant.Free), newTenant(tenant.Starter), newTenant(tenant.Starter), newTenant(tenant.Pro)}
	endings := []handler{ok, ok, ok, fails, panics, charges(3), charges(25), charges(0)}

	weather.rate.Store(50)
	var load sync.WaitGroup
	for worker := range 8 {
		load.Go(func() {
			rnd := rand.New(rand.NewPCG(5, uint64(worker)))
			for n := range 500 {
				ctx := tenant.NewContext(t.Context(), tenants[rnd.IntN(len(tenants))])
				tool := []string{"search", "report"}[rnd.IntN(2)]
				var meta mcp.Meta
				h := endings[rnd.IntN(len(endings))]
				if rnd.IntN(3) == 0 {
					meta, h = withKey(fmt.Sprint(worker, n/2)), endings[rnd.IntN(5)]
				}
				_, _ = invoke(ctx, guarded(metering.WithMetering(b.meter, tool, h)), tool, meta)
				if rnd.IntN(500) == 0 {
					weather.arrive()
				}
			}
		})
	}
	load.Wait()
	weather.rate.Store(0)
	require.Eventually(t, func() bool { return b.meter.Check(t.Context()) == nil && !b.meter.Waits() }, time.Minute, time.Millisecond)
	t.Logf("broken: %d before Redis was asked, %d after it was, %d between", weather.asked.Load(), weather.done.Load(), weather.underWay.Load())
	b.requireAgreement(t, tenants...)
	weather.arrive()
	b.requireAgreement(t, tenants...)
	stop()
	b.requireAgreement(t, tenants...)
	require.Zero(t, b.meter.Stats().InDoubt)
	require.Zero(t, b.meter.Stats().Unjournaled)
}
