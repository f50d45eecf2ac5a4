package metering_test

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var errAway = errors.New("connection refused")

// breakable is a limiter that can be taken away, and counts what it is asked.
type breakable struct {
	limiterFunc
	away  atomic.Bool
	asked atomic.Int64
}

func newBreakable() (*breakable, *meteringtest.Clock) {
	memory, clock := meteringtest.NewLimiter()
	l := &breakable{}
	l.Limiter = memory
	l.take = func(ctx context.Context, r metering.Request) (metering.Decision, error) {
		l.asked.Add(1)
		if l.away.Load() {
			return metering.Decision{}, errAway
		}
		return memory.Take(ctx, r)
	}
	l.settle = func(ctx context.Context, d metering.Decision, units int64) (int64, error) {
		l.asked.Add(1)
		if l.away.Load() {
			return 0, errAway
		}
		return memory.Settle(ctx, d, units)
	}
	return l, clock
}

func (l *breakable) Peek(ctx context.Context, r metering.Request) (metering.Decision, error) {
	if l.away.Load() {
		return metering.Decision{}, errAway
	}
	return l.Limiter.Peek(ctx, r)
}

func (l *breakable) Check(context.Context) error {
	if l.away.Load() {
		return errAway
	}
	return nil
}

func TestOutagePolicy(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	b := newBenchOn(t, limiter, clock, nil)
	report := metering.WithMetering(b.meter, "report", ok)
	limiter.away.Store(true)

	_, err := invoke(b.ctx(t), report, "report", nil)
	require.ErrorIs(t, err, metering.ErrUnavailable)
	require.NotErrorIs(t, err, metering.ErrQuotaExceeded)
	require.EqualError(t, err, "metering_unavailable: report can't be metered for plan free at the moment; retry in 1s")
	require.Equal(t, usage.Denied, b.sink.Events()[0].Outcome)

	b.tenant = newTenant(tenant.Starter)
	for range 50 {
		_, err := invoke(b.ctx(t), report, "report", nil)
		require.NoError(t, err)
	}
	_, err = invoke(b.ctx(t), report, "report", nil)
	require.ErrorIs(t, err, metering.ErrQuotaExceeded, "open is not unlimited")
	require.EqualValues(t, 1_000, b.sink.Units(b.tenant.ID))
	for _, e := range b.sink.Events() {
		require.Equal(t, e.Units > 0, e.Unmetered)
	}
	stats := b.meter.Stats()
	require.EqualValues(t, 50, stats.Unmetered)
	require.EqualValues(t, 1, stats.Unavailable)
	require.True(t, stats.BreakerOpen)

	_, err = invoke(b.ctx(t), metering.WithMetering(b.meter, "help", ok), "help", nil)
	require.NoError(t, err, "free tools do not need the limiter")
}

// Mutation seen here: a breaker that never opens asks 20 times.
func TestBreaker(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	var log strings.Builder
	b := newBenchOn(t, limiter, clock, &metering.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	search := metering.WithMetering(b.meter, "search", ok)
	try := func() error {
		_, err := invoke(b.ctx(t), search, "search", nil)
		return err
	}
	limiter.away.Store(true)
	for range 20 {
		require.ErrorIs(t, try(), metering.ErrUnavailable)
	}
	require.EqualValues(t, 5, limiter.asked.Load(), "asked although it is away")
	clock.Advance(time.Second)
	for range 3 {
		require.ErrorIs(t, try(), metering.ErrUnavailable)
	}
	require.EqualValues(t, 6, limiter.asked.Load(), "one probe a second")

	limiter.away.Store(false)
	require.ErrorIs(t, try(), metering.ErrUnavailable, "the next probe is due in a second")
	clock.Advance(time.Second)
	require.NoError(t, try())
	require.NoError(t, try())
	require.False(t, b.meter.Stats().BreakerOpen)
	require.Equal(t, 1, strings.Count(log.String(), "limiter is away"))
	require.Equal(t, 1, strings.Count(log.String(), "limiter is back\" away=2s"))
}

func TestCheckClosesTheBreaker(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	b := newBenchOn(t, limiter, clock, nil)
	search := metering.WithMetering(b.meter, "search", ok)
	require.NoError(t, b.meter.Check(t.Context()))
	limiter.away.Store(true)
	for range 5 {
		_, err := invoke(b.ctx(t), search, "search", nil)
		require.Error(t, err)
	}
	require.ErrorIs(t, b.meter.Check(t.Context()), errAway)
	limiter.away.Store(false)
	require.NoError(t, b.meter.Check(t.Context()))
	_, err := invoke(b.ctx(t), search, "search", nil)
	require.NoError(t, err)
}

func TestUnitsNotGivenBack(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	b := newBenchOn(t, limiter, clock, nil)
	report := metering.WithMetering(b.meter, "report", func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
		limiter.away.Store(true)
		return fails(ctx, req, in)
	})
	_, err := invoke(b.ctx(t), report, "report", nil)
	require.Error(t, err)
	require.EqualValues(t, 1, b.meter.Stats().SettleFailed)
	require.Zero(t, b.sink.Units(b.tenant.ID), "never billed for what was not done")
	limiter.away.Store(false)
}

// A limiter that fails every other question does not make Allow a plan without
// limits: what it lets through is bounded in any window, for each process.
//
// Mutations seen here: counts that begin anew with each answer, and keys that do
// not; units that were let
// through and not given back once the limiter had answered; a Reset of the limiter
// alone.
func TestFlapping(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	var failsNext atomic.Bool
	limiter.take = func(_ context.Context, r metering.Request) (metering.Decision, error) {
		if failsNext.Swap(false) {
			return metering.Decision{}, errAway
		}
		return metering.Decision{Allowed: true, ID: r.ID, Units: r.Units, Refused: -1, Time: clock.Now(), Request: r,
			Source: metering.SourceLimiter, Limits: make([]metering.LimitState, len(r.Bounds))}, nil
	}
	b := newBenchOn(t, struct {
		*breakable
		metering.Resetter
	}{limiter, limiter.Limiter.(*metering.Memory)}, clock, nil)
	b.tenant = newTenant(tenant.Starter) // 1,000 an hour
	// letThrough returns how many calls of 20 units of an hour's many get through.
	letThrough := func(h handler) (n int64) {
		before := b.meter.Stats().Unmetered
		for range 100 {
			failsNext.Store(true)
			_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "report", h), "report", nil)
			if errors.Is(err, metering.ErrQuotaExceeded) {
				require.ErrorContains(t, err, "hour")
			}
			_, err = invoke(b.ctx(t), metering.WithMetering(b.meter, "report", ok), "report", nil)
			require.NoError(t, err, "the limiter has admitted it")
		}
		return b.meter.Stats().Unmetered - before
	}
	// Calls that fail once the limiter has answered another.
	failsLater := func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
		_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "report", ok), "report", nil)
		require.NoError(t, err)
		return fails(ctx, req, in)
	}
	require.EqualValues(t, 100, letThrough(failsLater), "units that were let through and not used were not given back")
	require.EqualValues(t, 50, letThrough(ok))
	clock.Advance(59 * time.Minute)
	require.EqualValues(t, 0, letThrough(ok))
	clock.Advance(2*time.Minute + time.Millisecond)
	require.EqualValues(t, 50, letThrough(ok))
	require.NoError(t, b.meter.Reset(t.Context(), b.tenant))
	require.EqualValues(t, 50, letThrough(ok))
	require.False(t, b.meter.Stats().BreakerOpen)

	// Keys are as many as calls, and the limiter's own as soon as it answers.
	b.tenant = newTenant(tenant.Starter)
	for i := range 10 {
		failsNext.Store(true)
		_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "report", ok), "report", withKey(strconv.Itoa(i)))
		require.NoError(t, err)
		require.Equal(t, 1, b.meter.LocalKeys())
		_, err = invoke(b.ctx(t), metering.WithMetering(b.meter, "report", ok), "report", nil)
		require.NoError(t, err)
	}
}

// A caller that gives up is no reason to think that the limiter is away.
//
// Mutation seen here: counted as failures, ten impatient callers open the breaker.
func TestCallerGone(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	b := newBenchOn(t, limiter, clock, nil)
	limiter.take = func(ctx context.Context, r metering.Request) (metering.Decision, error) {
		return metering.Decision{}, ctx.Err()
	}
	ctx, cancel := context.WithCancel(b.ctx(t))
	cancel()
	for range 10 {
		_, err := invoke(ctx, metering.WithMetering(b.meter, "search", ok), "search", nil)
		require.ErrorIs(t, err, context.Canceled)
	}
	require.False(t, b.meter.Stats().BreakerOpen)
	require.Zero(t, b.meter.Stats().Unavailable)
}

// onRedis is a bench on a Redis of its own. The budget is larger than a server
// would have it: the machine of a test may be slow, and that is no outage.
func onRedis(t testing.TB, budget time.Duration) (*bench, *devtest.RedisServer) {
	t.Helper()
	server := devtest.Redis(t)
	client, err := redisquota.NewClient(server.URL)
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	limiter, err := redisquota.New(client, nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return limiter.Check(t.Context()) == nil }, time.Minute, 10*time.Millisecond)
	sink := &meteringtest.Sink{}
	meter, err := metering.New(limiter, sink, &metering.Options{
		Tools:  map[string]metering.Tool{"search": {Units: 1}, "report": {Units: 20}},
		Budget: budget,
	})
	require.NoError(t, err)
	return &bench{meter: meter, limiter: limiter, sink: sink, tenant: newTenant(tenant.Free)}, server
}

func TestRedisAway(t *testing.T) {
	t.Parallel()
	outages := map[string]struct{ begin, end func(*devtest.RedisServer) }{
		"stopped": {(*devtest.RedisServer).Stop, (*devtest.RedisServer).Start},
		"frozen":  {(*devtest.RedisServer).Freeze, (*devtest.RedisServer).Thaw},
	}
	for name, outage := range outages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, server := onRedis(t, 500*time.Millisecond)
			report := metering.WithMetering(b.meter, "report", ok)
			free, pro := b.tenant, newTenant(tenant.Pro)
			calls := func(who tenant.Tenant, n int) (served int) {
				for range n {
					_, err := invoke(tenant.NewContext(t.Context(), who), report, "report", nil)
					if err == nil {
						served++
					}
				}
				return served
			}
			require.Equal(t, 2, calls(free, 2))
			require.Equal(t, 2, calls(pro, 2))

			outage.begin(server)
			require.Zero(t, calls(free, 10))
			require.Equal(t, 10, calls(pro, 10))
			short, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			require.Error(t, b.meter.Check(short))

			outage.end(server)
			require.Eventually(t, func() bool { return b.meter.Check(t.Context()) == nil }, time.Minute, 10*time.Millisecond)
			require.Eventually(t, func() bool { // what a frozen Redis took late is given back
				limits, err := b.meter.Remaining(tenant.NewContext(t.Context(), free))
				return err == nil && limits[0].Remaining >= 60
			}, time.Minute, 10*time.Millisecond)
			require.Equal(t, 2, calls(free, 2))
			require.Equal(t, 2, calls(pro, 2))
			var unmetered int
			for _, e := range b.sink.Events() {
				if e.Unmetered {
					unmetered++
					require.Equal(t, pro.ID, e.Tenant)
					require.EqualValues(t, 20, e.Units)
				}
			}
			require.Equal(t, 10, unmetered)
			require.EqualValues(t, 14*20, b.sink.Units(pro.ID), "every answered call is billed")
			require.EqualValues(t, 4*20, b.sink.Units(free.ID))
		})
	}
}
