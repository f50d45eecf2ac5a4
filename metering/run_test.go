package metering_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// run runs a meter until the function that it returns is called, or until the
// test ends.
func run(t testing.TB, m *metering.Meter) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	require.Eventually(t, m.Lends, time.Minute, time.Millisecond)
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return stop
}

func TestRunOnce(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	b := newBenchOn(t, limiter, clock, nil)
	stop := run(t, b.meter)
	require.ErrorContains(t, b.meter.Run(t.Context()), "it is running already")
	stop()
	run(t, b.meter)
}

// A meter that runs asks seldom for a large plan, and returns what is left when
// it ends; quota and bill agree to the unit.
func TestMeterLeases(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	b := newBenchOn(t, limiter, clock, nil)
	search := metering.WithMetering(b.meter, "search", ok)
	calls := func(plan tenant.Plan, n int) (asked int64) {
		b.tenant = newTenant(plan)
		before := limiter.asked.Load()
		for range n {
			_, err := invoke(b.ctx(t), search, "search", nil)
			require.NoError(t, err)
		}
		return limiter.asked.Load() - before
	}
	require.EqualValues(t, 500, calls(tenant.Pro, 500), "leased although nobody returns what is left")
	stop := run(t, b.meter)
	require.EqualValues(t, 500, calls(tenant.Starter, 500), "a plan that may see each unit")
	require.Less(t, calls(tenant.Pro, 500), int64(50))
	stop()
	b.requireCharged(t, 500)
	before, err := limiter.Peek(t.Context(), metering.Request{Tenant: b.tenant.ID, Bounds: []metering.Bound{{Limit: metering.PerHour(10_000)}}})
	require.NoError(t, err)
	require.EqualValues(t, 9_500, before.Limits[0].Remaining, "what was left of blocks was not returned")
	_, err = invoke(b.ctx(t), search, "search", nil)
	require.NoError(t, err, "a meter that doesn't run any more serves")
	b.requireCharged(t, 501)
}

// Leases can be switched off, and are what they are for a limiter alone.
func TestMeterLeasesOptions(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	b := newBenchOn(t, limiter, clock, &metering.Options{Leases: metering.LeasedOptions{MinUnits: metering.MaxUnits}})
	run(t, b.meter)
	b.tenant = newTenant(tenant.Pro)
	for range 100 {
		_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "search", ok), "search", nil)
		require.NoError(t, err)
	}
	require.EqualValues(t, 100, limiter.asked.Load())

	_, err := metering.New(limiter, &meteringtest.Sink{}, &metering.Options{Leases: metering.LeasedOptions{TTL: time.Microsecond}})
	require.ErrorContains(t, err, "Leases.TTL: 1µs is not a number of milliseconds within 10ms and 10s")
	leased, err := metering.NewLeased(limiter, nil)
	require.NoError(t, err)
	_, err = metering.New(leased, &meteringtest.Sink{}, nil)
	require.ErrorContains(t, err, "limiter is a Leased")
}

// What a tenant may do changes with its plan at the next call, in both
// directions, whatever the meter holds or remembers of the old one.
//
// Mutations seen here: blocks and refusals that are found without the units of
// their limits.
func TestPlanChange(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	b := newBenchOn(t, limiter, clock, &metering.Options{Plans: map[tenant.Plan]metering.Plan{
		"small":  {Limits: []metering.Limit{metering.PerHour(100)}},
		"medium": {Limits: []metering.Limit{metering.PerHour(4_000)}},
		"large":  {Limits: []metering.Limit{metering.PerHour(10_000)}},
	}})
	run(t, b.meter)
	search := metering.WithMetering(b.meter, "search", ok)
	id := newTenant("small").ID
	try := func(plan tenant.Plan) error {
		b.tenant = newTenant(plan)
		b.tenant.ID = id
		_, err := invoke(b.ctx(t), search, "search", nil)
		return err
	}
	admitted := func(plan tenant.Plan) (n int64) {
		for try(plan) == nil {
			n++
		}
		return n
	}
	require.EqualValues(t, 100, admitted("small"))
	require.NoError(t, try("large"), "the refusal of the old plan")
	for range 3_889 {
		require.NoError(t, try("large"))
	}
	// A block of the large plan is in hand. Of the medium one ten units are left.
	require.EqualValues(t, 10, admitted("medium"))
	require.ErrorIs(t, try("small"), metering.ErrQuotaExceeded)
	require.EqualValues(t, 6_000, admitted("large"))
	require.ErrorIs(t, try("medium"), metering.ErrQuotaExceeded)
	b.tenant.Plan = "large"
	b.requireCharged(t, 10_000)
}

// The block of a process that died counts as used until it can't have been spent
// any more, and a window longer; then all of it is back.
func TestCrashedBlock(t *testing.T) {
	t.Parallel()
	memory, clock := meteringtest.NewLimiter()
	dead := &limiterFunc{Limiter: memory, settle: func(context.Context, metering.Decision, int64) (int64, error) {
		return 0, errors.New("the process is gone")
	}}
	leased := runLeased(t, dead, &metering.LeasedOptions{Now: clock.Now})
	limit := metering.PerMinute(10_000)
	r := metering.Request{Tenant: tenant.NewID(), Units: 1, Bounds: []metering.Bound{{Limit: limit}}}
	spent := int64(0)
	for leases := 0; leases < 10; spent++ {
		d, err := leased.Take(t.Context(), r)
		require.NoError(t, err)
		if d.Source == metering.SourceLease {
			leases++
		}
	}
	left := func() int64 {
		d, err := memory.Peek(t.Context(), metering.Request{Tenant: r.Tenant, Bounds: r.Bounds})
		require.NoError(t, err)
		return d.Limits[0].Remaining
	}
	held := 10_000 - spent - left()
	require.Positive(t, held, "nothing was held")
	require.LessOrEqual(t, held, int64(200), "more than a fiftieth")
	clock.Advance(time.Minute + 199*time.Millisecond)
	require.LessOrEqual(t, left(), 10_000-held, "it might have been spent less than a window ago")
	clock.Advance(limit.Resolution() + time.Millisecond)
	require.EqualValues(t, 10_000, left())
}
