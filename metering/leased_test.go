package metering_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func runLeased(t testing.TB, limiter metering.Limiter, opts *metering.LeasedOptions) *metering.Leased {
	t.Helper()
	leased, err := metering.NewLeased(limiter, opts)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- leased.Run(ctx) }()
	require.Eventually(t, leased.Runs, time.Minute, time.Millisecond)
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return leased
}

// distant is a limiter far away: time passes before it reads its clock and after.
type distant struct {
	metering.Limiter
	pass func()
}

func (l distant) Take(ctx context.Context, r metering.Request) (metering.Decision, error) {
	l.pass()
	defer l.pass()
	return l.Limiter.Take(ctx, r)
}

func (l distant) Settle(ctx context.Context, d metering.Decision, units int64) (int64, error) {
	l.pass()
	defer l.pass()
	return l.Limiter.Settle(ctx, d, units)
}

func TestLeasedLimiter(t *testing.T) {
	t.Parallel()
	meteringtest.TestLimiter(t, func(t *testing.T) meteringtest.LimiterFixture {
		var memory metering.Limiter
		memory, clock := meteringtest.NewLimiter()
		if strings.HasSuffix(t.Name(), "/random_calls") { // others look at moments
			memory = distant{memory, func() {
				if rand.IntN(30) == 0 {
					clock.Advance(rand.N(500 * time.Millisecond))
				}
			}}
		}
		f := meteringtest.LimiterFixture{Now: clock.Now, Advance: clock.Advance, Calls: 20_000, Lends: true, Late: 40 * time.Millisecond, Window: time.Minute}
		if os.Getenv("SOAK") != "" {
			f.Calls = 100_000
		}
		for i := range 4 {
			leased := runLeased(t, memory, &metering.LeasedOptions{MinUnits: 1, TTL: f.Late, Now: clock.Now})
			if f.Limiter = leased; i < 3 {
				f.Others = append(f.Others, leased)
			}
		}
		return f
	})
}

// A refusal that is repeated names the limit that refuses still.
func TestLeasedRefusalOfTwo(t *testing.T) {
	t.Parallel()
	memory, clock := meteringtest.NewLimiter()
	leased := runLeased(t, memory, &metering.LeasedOptions{Now: clock.Now})
	take := func() metering.Decision {
		d, err := leased.Take(t.Context(), metering.Request{Tenant: agent, Units: 10, Bounds: []metering.Bound{
			{Limit: metering.Per(time.Second, 10)}, {Limit: metering.PerHour(10)},
		}})
		require.NoError(t, err)
		return d
	}
	require.True(t, take().Allowed)
	clock.Advance(600 * time.Millisecond)
	d := take()
	require.Equal(t, 0, d.Refused)
	require.InDelta(t, 400*time.Millisecond, d.Limits[0].RetryAfter, float64(time.Millisecond))
	clock.Advance(500 * time.Millisecond)
	d = take()
	require.Equal(t, metering.SourceRefusal, d.Source)
	require.Equal(t, 1, d.Refused)
	require.Zero(t, d.Limits[0].RetryAfter)
	require.Greater(t, d.RetryAfter(), 59*time.Minute)
}

// A refused agent that calls in a loop costs one question a second, and another
// plan is asked for at once. Mutation seen here: refusals that are found by the
// window without the limit's units.
func TestLeasedRefusals(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	leased := runLeased(t, limiter, &metering.LeasedOptions{Now: clock.Now})
	take := func(limit metering.Limit, units int64) metering.Decision {
		d, err := leased.Take(t.Context(), metering.Request{Tenant: agent, Units: units, Bounds: []metering.Bound{{Limit: limit}}})
		require.NoError(t, err)
		return d
	}
	small := metering.PerHour(100)
	full := take(small, 90)
	limiter.asked.Store(0)
	for range 10 { // seconds
		for range 100 {
			d := take(small, 20)
			require.False(t, d.Allowed)
			require.Equal(t, 0, d.Refused)
			clock.Advance(10 * time.Millisecond)
		}
	}
	require.EqualValues(t, 10, limiter.asked.Load())
	require.False(t, take(small, 20).Allowed)
	require.True(t, take(small, 1).Allowed, "a cheaper call was refused")

	// A larger plan, and units that are given back.
	require.True(t, take(metering.PerHour(200), 20).Allowed)
	_, err := leased.Settle(t.Context(), full, 0)
	require.NoError(t, err)
	require.True(t, take(small, 20).Allowed)
}

// How long a refused call has to wait depends on what it costs.
func TestLeasedRefusalsByWeight(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	leased := runLeased(t, limiter, &metering.LeasedOptions{Now: clock.Now})
	limit := metering.PerHour(100)
	take := func(units int64) metering.Decision {
		d, err := leased.Take(t.Context(), metering.Request{Tenant: agent, Units: units, Bounds: []metering.Bound{{Limit: limit}}})
		require.NoError(t, err)
		return d
	}
	take(50)
	clock.Advance(10 * time.Minute)
	take(50)
	for range 2 {
		require.Equal(t, 50*time.Minute, take(1).RetryAfter())
		require.Equal(t, time.Hour, take(60).RetryAfter())
		require.Equal(t, 50*time.Minute, take(2).RetryAfter())
		require.Negative(t, take(101).RetryAfter())
	}
	require.EqualValues(t, 2+4, limiter.asked.Load())

	// One that costs something else each time is told to wait for all.
	for units := int64(3); units < 50; units++ {
		require.False(t, take(units).Allowed)
	}
	require.EqualValues(t, 2+8, limiter.asked.Load())
	require.Equal(t, time.Hour+limit.Resolution()+200*time.Millisecond, take(30).RetryAfter())
}

// An agent that sends a new idempotency key with each call is refused as one
// that sends none; a call that was paid for before is not.
//
// Mutations seen here: keys that are asked for without end, and replays that
// count as new ones.
func TestLeasedRefusedKeys(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	leased := runLeased(t, limiter, &metering.LeasedOptions{Now: clock.Now})
	take := func(key string) metering.Decision {
		d, err := leased.Take(t.Context(), metering.Request{
			Tenant: agent, Units: 20, ID: key, Key: key, KeyTTL: time.Hour,
			Bounds: []metering.Bound{{Limit: metering.PerHour(110)}},
		})
		require.NoError(t, err)
		return d
	}
	for i := range 5 {
		require.True(t, take(fmt.Sprint("paid ", i)).Allowed)
	}
	limiter.asked.Store(0)
	for second := range 10 {
		for i := range 100 {
			require.False(t, take(fmt.Sprint("new ", second, i)).Allowed)
			clock.Advance(10 * time.Millisecond)
		}
	}
	require.LessOrEqual(t, limiter.asked.Load(), int64(10*5+1))

	clock.Advance(time.Second)
	require.False(t, take("new").Allowed)
	for i := range 100 {
		d := take(fmt.Sprint("paid ", i%5))
		require.True(t, d.Allowed, "a call that was paid for is refused")
		require.True(t, d.Replay)
	}
}

// A block serves its own plan and period only, until it is over; what is left of
// it is returned. Mutations seen here: a block that is not returned, and
// one that has no end.
func TestLeasedBlocks(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	leased := runLeased(t, limiter, &metering.LeasedOptions{Now: clock.Now})
	request := func(limit metering.Limit) metering.Request {
		return metering.Request{Tenant: agent, Units: 1, Bounds: []metering.Bound{{Limit: limit}}}
	}
	take := func(limit metering.Limit) metering.Source {
		d, err := leased.Take(t.Context(), request(limit))
		require.NoError(t, err)
		require.True(t, d.Allowed)
		return d.Source
	}
	pro, starter := metering.PerHour(10_000), metering.PerHour(5_000)
	for range 1_000 {
		take(pro)
	}
	require.Less(t, limiter.asked.Load(), int64(30))
	for take(pro) != metering.SourceLease {
	}
	require.Equal(t, metering.SourceLimiter, take(starter), "a block of the old plan has served the new one")
	d, err := leased.Take(t.Context(), metering.Request{Tenant: agent, Units: 1, Bounds: request(pro).Bounds, Key: "key", KeyTTL: time.Hour})
	require.NoError(t, err)
	require.Equal(t, metering.SourceLimiter, d.Source, "a key must be asked for")
	clock.Advance(200 * time.Millisecond)
	require.Eventually(t, func() bool {
		before, err := leased.Peek(t.Context(), request(pro))
		require.NoError(t, err)
		d, err := limiter.Limiter.Peek(t.Context(), request(pro))
		require.NoError(t, err)
		return d.Limits[0].Remaining == before.Limits[0].Remaining && d.Limits[0].Remaining > 8_980
	}, time.Minute, time.Millisecond, "what was left of a block was not returned")
	require.Equal(t, metering.SourceLimiter, take(pro), "a block was spent after its end")
}

var agent = tenant.NewID()
