package meteringtest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// LimiterFixture is an empty limiter under test.
type LimiterFixture struct {
	Limiter metering.Limiter

	// Now is the limiter's clock, to the second or better.
	Now func() time.Time

	// Others count on the same as Limiter, as the limiters of other processes
	// do. The random calls are made of Limiter alone, and spread over all.
	Others []metering.Limiter

	// Advance moves the limiter's clock. Nil if it can't be moved: then windows
	// that a test sees the end of are half a second long instead of an hour.
	Advance func(time.Duration)

	// Lose makes the limiter lose all that it has counted, as one that was not
	// asked to keep it does when it restarts. TestSeeder needs it.
	Lose func()

	// Late is how much later than Limit.Resolution a unit may be released: what
	// a metering.Leased has as TTL.
	Late time.Duration

	// Lends is set if the limiter lends to itself, as metering.Leased does, so
	// that blocks can't be asked of it.
	Lends bool

	// Window is the window of the random calls.
	// Defaults to an hour, and 240 ms if the clock can't be moved.
	Window time.Duration

	// Calls is how many random calls are compared with the oracle, of Limiter
	// alone and of all.
	// Defaults to 5,000.
	Calls int
}

// TestLimiter checks that a limiter decides as metering.Limiter says, and
// compares random calls with a count that remembers everything.
func TestLimiter(t *testing.T, newLimiter func(t *testing.T) LimiterFixture) {
	tests := map[string]func(*testing.T, LimiterFixture){
		"admits exactly the limit":             testExact,
		"takes all bounds or none":             testAllOrNone,
		"a call that costs more than a limit":  testTooDear,
		"peek changes nothing":                 testPeek,
		"settle gives back":                    testSettleLess,
		"settle takes more as far as it goes":  testSettleMore,
		"attempts are never given back":        testAttempts,
		"tenants, tools and periods are apart": testApart,
		"periods":                              testPeriod,
		"idempotency key":                      testKey,
		"failed call frees its key":            testKeyFreed,
		"duplicates in flight":                 testKeyHeld,
		"settled amount of a key":              testKeyAmount,
		"calls in flight":                      testSlots,
		"reset":                                testReset,
		"parallel calls":                       testParallel,
		"parallel duplicates":                  testParallelKey,
		"random calls":                         testRandom,
	}
	timed := map[string]func(*testing.T, LimiterFixture){
		"releases a unit when its window ends":       testRelease,
		"gives back to the right window":             testSettleWindow,
		"takes more in the window of the settlement": testSettleMoreWindow,
		"forgets a key when its time is up":          testKeyExpires,
		"retry after":                                testRetryAfter,
		"frees slots that nobody renews":             testSlotsExpire,
	}
	if !newLimiter(t).Lends {
		tests["lends a block"] = testBlock
		tests["gives a block back"] = testBlockReturned
		timed["a block counts until it can't be spent any more"] = testBlockStamp
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, newLimiter(t)) })
	}
	t.Run("in time", func(t *testing.T) {
		for name, test := range timed {
			t.Run(name, func(t *testing.T) {
				t.Parallel() // most of them wait, if the clock can't be moved
				test(t, newLimiter(t))
			})
		}
	})
}

// request asks for units of a limit of 100 an hour, of a new tenant.
func request(units int64, limits ...metering.Limit) metering.Request {
	if len(limits) == 0 {
		limits = []metering.Limit{metering.PerHour(100)}
	}
	r := metering.Request{Tenant: tenant.NewID(), Units: units, ID: tenant.NewID().String()}
	for _, l := range limits {
		r.Bounds = append(r.Bounds, metering.Bound{Limit: l})
	}
	return r
}

func take(t *testing.T, f LimiterFixture, r metering.Request) metering.Decision {
	t.Helper()
	return takeOf(t, f, f.Limiter, r)
}

func takeOf(t *testing.T, f LimiterFixture, limiter metering.Limiter, r metering.Request) metering.Decision {
	t.Helper()
	d, err := limiter.Take(t.Context(), r)
	require.NoError(t, err)
	require.Len(t, d.Limits, len(r.Bounds))
	if f.Lends {
		require.Contains(t, []metering.Source{metering.SourceLimiter, metering.SourceLease, metering.SourceRefusal}, d.Source)
	} else {
		require.Equal(t, metering.SourceLimiter, d.Source)
	}
	require.Equal(t, d.Allowed, d.Refused == -1)
	return d
}

func settle(t *testing.T, f LimiterFixture, d metering.Decision, units int64) int64 {
	t.Helper()
	charged, err := f.Limiter.Settle(t.Context(), d, units)
	require.NoError(t, err)
	return charged
}

// left returns how many units the first bound of r has left.
func left(t *testing.T, f LimiterFixture, r metering.Request) int64 {
	t.Helper()
	left, _ := peek(t, f, r)
	return left
}

func testExact(t *testing.T, f LimiterFixture) {
	for _, weight := range []int64{1, 7, 20} {
		r := request(weight)
		for i := range 100 / weight {
			d := take(t, f, r)
			require.True(t, d.Allowed)
			require.Equal(t, weight, d.Units)
			require.Equal(t, r.ID, d.ID)
			require.False(t, d.Replay)
			if f.Lends && f.Advance == nil { // some may be in a block that is to be returned
				require.LessOrEqual(t, d.Limits[0].Remaining, 100-(i+1)*weight)
			} else {
				require.Equal(t, 100-(i+1)*weight, d.Limits[0].Remaining)
			}
			require.Zero(t, d.Limits[0].RetryAfter)
			require.WithinDuration(t, f.Now(), d.Time, time.Minute)
		}
		d := take(t, f, r)
		require.False(t, d.Allowed)
		require.Zero(t, d.Units)
		require.Equal(t, 0, d.Refused)
		require.Equal(t, 100%weight, d.Limits[0].Remaining)
		require.Greater(t, d.Limits[0].RetryAfter, 59*time.Minute)
		require.LessOrEqual(t, d.Limits[0].RetryAfter, time.Hour+f.Late)
	}
}

// Mutation seen here: units that are taken although a bound has refused.
func testAllOrNone(t *testing.T, f LimiterFixture) {
	r := request(5, metering.PerDay(1_000), metering.PerHour(12), metering.PerMonth(50))
	r.Bounds[2].Start, r.Bounds[2].End = month(f.Now())
	take(t, f, r)
	take(t, f, r)
	d := take(t, f, r)
	require.False(t, d.Allowed)
	require.Equal(t, 1, d.Refused)
	require.Equal(t, []int64{990, 2, 40}, []int64{d.Limits[0].Remaining, d.Limits[1].Remaining, d.Limits[2].Remaining})
	require.Zero(t, d.Limits[0].RetryAfter)
	require.Zero(t, d.Limits[2].RetryAfter)
	require.Equal(t, d.Limits[1].RetryAfter, d.RetryAfter())

	r.Units = 2
	d = take(t, f, r)
	require.True(t, d.Allowed, "the refused call has taken units")
	require.Equal(t, []int64{988, 0, 38}, []int64{d.Limits[0].Remaining, d.Limits[1].Remaining, d.Limits[2].Remaining})
}

func testTooDear(t *testing.T, f LimiterFixture) {
	d := take(t, f, request(101))
	require.False(t, d.Allowed)
	require.Negative(t, d.Limits[0].RetryAfter)
	require.Negative(t, d.RetryAfter())
	require.EqualValues(t, 100, d.Limits[0].Remaining)
}

func testPeek(t *testing.T, f LimiterFixture) {
	r := request(60)
	r.Key, r.KeyTTL = "peeked", time.Hour
	for range 3 {
		d, err := f.Limiter.Peek(t.Context(), r)
		require.NoError(t, err)
		require.True(t, d.Allowed)
		require.EqualValues(t, 40, d.Limits[0].Remaining)
	}
	require.False(t, take(t, f, r).Replay)
	r.Key = ""
	d, err := f.Limiter.Peek(t.Context(), r)
	require.NoError(t, err)
	require.False(t, d.Allowed)
	require.Equal(t, 0, d.Refused)
	require.EqualValues(t, 40, left(t, f, r))
}

func testSettleLess(t *testing.T, f LimiterFixture) {
	r := request(30)
	first, second := take(t, f, r), take(t, f, r)
	require.EqualValues(t, 0, settle(t, f, first, 0))
	require.EqualValues(t, 70, left(t, f, r))
	require.EqualValues(t, 12, settle(t, f, second, 12))
	require.EqualValues(t, 88, left(t, f, r))
	second.Units = 12
	require.EqualValues(t, 12, settle(t, f, second, 12))
	require.EqualValues(t, 88, left(t, f, r))
	require.EqualValues(t, 0, settle(t, f, second, 0))
	require.EqualValues(t, 100, left(t, f, r))
}

func testSettleMore(t *testing.T, f LimiterFixture) {
	r := request(10, metering.PerHour(100), metering.PerDay(40))
	d := take(t, f, r)
	require.EqualValues(t, 25, settle(t, f, d, 25))
	require.EqualValues(t, 75, left(t, f, r))
	d.Units = 25
	require.EqualValues(t, 40, settle(t, f, d, 90), "no further than the smallest limit")
	require.EqualValues(t, 60, left(t, f, r))
}

func testAttempts(t *testing.T, f LimiterFixture) {
	r := request(10, metering.PerHour(100), metering.PerHour(3))
	r.Bounds[1].Attempts = true
	for range 3 {
		d := take(t, f, r)
		require.True(t, d.Allowed)
		settle(t, f, d, 0)
	}
	d := take(t, f, r)
	require.False(t, d.Allowed)
	require.Equal(t, 1, d.Refused)
	require.EqualValues(t, 100, d.Limits[0].Remaining)
}

func testApart(t *testing.T, f LimiterFixture) {
	r := request(100)
	require.True(t, take(t, f, r).Allowed)
	other := r
	other.Tenant = tenant.NewID()
	require.True(t, take(t, f, other).Allowed)
	other = r
	other.Bounds = []metering.Bound{{Limit: r.Bounds[0].Limit, Tool: "search"}}
	require.True(t, take(t, f, other).Allowed)
	other.Bounds = []metering.Bound{{Limit: metering.Per(2*time.Hour, 100)}}
	require.True(t, take(t, f, other).Allowed)
	other.Bounds = []metering.Bound{{Limit: metering.PerMonth(100)}}
	other.Bounds[0].Start, other.Bounds[0].End = month(f.Now())
	require.True(t, take(t, f, other).Allowed)
	require.False(t, take(t, f, r).Allowed)
}

func month(now time.Time) (start, end time.Time) {
	now = now.UTC()
	start = time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	return start, start.AddDate(0, 1, 0)
}

func testPeriod(t *testing.T, f LimiterFixture) {
	r := request(60, metering.PerMonth(100))
	start, end := month(f.Now())
	r.Bounds[0].Start, r.Bounds[0].End = start, end
	d := take(t, f, r)
	require.True(t, d.Allowed)
	refused := take(t, f, r)
	require.False(t, refused.Allowed)
	require.WithinDuration(t, end, refused.Time.Add(refused.RetryAfter()), time.Second)

	next := r
	next.Bounds = []metering.Bound{{Limit: r.Bounds[0].Limit, Start: end, End: end.AddDate(0, 1, 0)}}
	require.True(t, take(t, f, next).Allowed)
	settle(t, f, d, 0)
	require.EqualValues(t, 100, left(t, f, r), "given back to its own period")
	require.EqualValues(t, 40, left(t, f, next), "and to no other")
}

func keyed(units int64) metering.Request {
	r := request(units, metering.PerHour(100), metering.PerHour(50))
	r.Bounds[1].Attempts = true
	r.Key, r.KeyTTL = "0123456789abcdef", time.Hour
	return r
}

// again is the same call sent again: another process would make up another id.
func again(r metering.Request) metering.Request {
	r.ID = tenant.NewID().String()
	return r
}

func testKey(t *testing.T, f LimiterFixture) {
	r := keyed(30)
	first := take(t, f, r)
	require.False(t, first.Replay)
	for i := range 3 {
		d := take(t, f, again(r))
		require.True(t, d.Allowed)
		require.True(t, d.Replay)
		require.Equal(t, first.ID, d.ID)
		require.EqualValues(t, 30, d.Units)
		require.EqualValues(t, 70, d.Limits[0].Remaining)
		require.EqualValues(t, 50-i-2, d.Limits[1].Remaining, "a replay is an attempt")
	}
	other := again(r)
	other.Key = "another"
	require.False(t, take(t, f, other).Replay)
	other = again(r)
	other.Tenant = tenant.NewID()
	require.False(t, take(t, f, other).Replay)
}

func testKeyFreed(t *testing.T, f LimiterFixture) {
	r := keyed(30)
	settle(t, f, take(t, f, r), 0)
	require.EqualValues(t, 100, left(t, f, r))
	second := again(r)
	d := take(t, f, second)
	require.False(t, d.Replay)
	require.Equal(t, second.ID, d.ID)
	require.EqualValues(t, 70, d.Limits[0].Remaining)
}

func testKeyHeld(t *testing.T, f LimiterFixture) {
	// The first fails while the second runs: the second is charged.
	r := keyed(30)
	first := take(t, f, r)
	take(t, f, again(r))
	require.EqualValues(t, 0, settle(t, f, first, 0))
	require.EqualValues(t, 70, left(t, f, r), "the second call relies on the charge")
	require.True(t, take(t, f, again(r)).Replay)

	// Both fail: nobody is charged.
	r = keyed(30)
	first, second := take(t, f, r), take(t, f, again(r))
	settle(t, f, first, 0)
	settle(t, f, second, 0)
	require.EqualValues(t, 100, left(t, f, r))
	require.False(t, take(t, f, again(r)).Replay)

	// The second fails: the first is charged.
	r = keyed(30)
	_, second = take(t, f, r), take(t, f, again(r))
	settle(t, f, second, 0)
	require.EqualValues(t, 70, left(t, f, r))
}

func testKeyAmount(t *testing.T, f LimiterFixture) {
	r := keyed(30)
	first := take(t, f, r)
	require.EqualValues(t, 5, settle(t, f, first, 5))
	require.EqualValues(t, 95, left(t, f, r))
	replay := take(t, f, again(r))
	require.True(t, replay.Replay)
	require.EqualValues(t, 5, replay.Units, "a replay costs what the first call did")

	r = keyed(30)
	first = take(t, f, r)
	take(t, f, again(r))
	require.EqualValues(t, 30, settle(t, f, first, 5), "a duplicate has been told 30")
	require.EqualValues(t, 70, left(t, f, r))
}

func testParallel(t *testing.T, f LimiterFixture) {
	r := request(1)
	var admitted atomic.Int64
	var all sync.WaitGroup
	for range 300 {
		all.Go(func() {
			d, err := f.Limiter.Take(t.Context(), r)
			if err == nil && d.Allowed {
				admitted.Add(1)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 100, admitted.Load())
}

func testParallelKey(t *testing.T, f LimiterFixture) {
	r := keyed(30)
	var charged, replayed atomic.Int64
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			d, err := f.Limiter.Take(t.Context(), again(r))
			switch {
			case err != nil || !d.Allowed:
			case d.Replay:
				replayed.Add(1)
			default:
				charged.Add(1)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, charged.Load())
	require.EqualValues(t, 39, replayed.Load())
	require.EqualValues(t, 70, left(t, f, r))
}
