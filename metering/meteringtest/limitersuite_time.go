package meteringtest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// hour is as long as a window that a test sees the end of: an hour, if that can be
// had.
func (f LimiterFixture) hour() time.Duration {
	if f.Advance == nil {
		return 480 * time.Millisecond
	}
	return time.Hour
}

// peek looks at the first bound of r, and at the clock.
func peek(t *testing.T, f LimiterFixture, r metering.Request) (left int64, now time.Time) {
	t.Helper()
	r.Units, r.Key = 0, ""
	d, err := f.Limiter.Peek(t.Context(), r)
	require.NoError(t, err)
	return d.Limits[0].Remaining, d.Time
}

// await moves the clock on to a moment and asks just before it and when it has come,
// or asks again and again until it has. Ask returns when it was answered, by the
// limiter's clock: what it may expect depends on that alone, not on when it asked.
func (f LimiterFixture) await(t *testing.T, moment time.Time, ask func() time.Time) {
	t.Helper()
	if f.Advance == nil {
		for ask().Before(moment) {
			<-time.After(time.Millisecond)
		}
		return
	}
	_, now := peek(t, f, request(1))
	f.Advance(moment.Add(-time.Millisecond).Sub(now))
	require.True(t, ask().Before(moment))
	f.Advance(time.Millisecond)
	require.False(t, ask().Before(moment))
}

// pass lets time pass.
func (f LimiterFixture) pass(t *testing.T, d time.Duration) {
	t.Helper()
	r := request(1)
	_, now := peek(t, f, r)
	f.await(t, now.Add(d), func() time.Time {
		_, now := peek(t, f, r)
		return now
	})
}

// inTime tries until the machine was fast enough to have seen what the test is for.
func inTime(t *testing.T, try func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !try(); {
		require.True(t, time.Now().Before(deadline), "the machine is too slow for windows this short")
	}
}

// requireReleased takes r again and again: it must be refused until a moment, and
// admitted from then on.
func requireReleased(t *testing.T, f LimiterFixture, r metering.Request, moment time.Time) {
	t.Helper()
	require.False(t, released(t, f, r, moment).Before(moment), "units were released before they had left the window")
}

// released takes r again and again until it is admitted, which it must be from a
// moment on, and returns when it was.
func released(t *testing.T, f LimiterFixture, r metering.Request, moment time.Time) (at time.Time) {
	t.Helper()
	ask := func() time.Time {
		if !at.IsZero() {
			_, now := peek(t, f, r)
			return now
		}
		d := take(t, f, r)
		if d.Allowed {
			at = d.Time
		}
		return d.Time
	}
	f.await(t, moment, ask)
	if at.IsZero() && f.Late > 0 {
		f.await(t, moment.Add(f.Late), ask)
	}
	require.False(t, at.IsZero(), "units were released late")
	return at
}

func testRelease(t *testing.T, f LimiterFixture) {
	r := request(100, metering.Per(f.hour(), 100))
	first := take(t, f, r)
	require.True(t, first.Allowed)
	requireReleased(t, f, r, first.Time.Add(f.hour()))
}

func testSettleWindow(t *testing.T, f LimiterFixture) {
	inTime(t, func() bool {
		hour := f.hour()
		r := request(40, metering.Per(hour, 100))
		first := take(t, f, r)
		f.pass(t, hour*5/6)
		second := take(t, f, r)
		settle(t, f, first, 0)
		before, _ := peek(t, f, r)
		f.pass(t, hour/3) // the first call is out of the window, the second is not
		after, now := peek(t, f, r)
		if !second.Allowed || !now.Before(second.Time.Add(hour)) {
			return false
		}
		require.EqualValues(t, 60, before)
		require.EqualValues(t, 60, after, "units were given back to another call's window")
		f.pass(t, hour)
		third := take(t, f, r)
		require.True(t, third.Allowed)
		settle(t, f, second, 0)
		after, now = peek(t, f, r)
		if !now.Before(third.Time.Add(hour)) {
			return false
		}
		require.EqualValues(t, 60, after, "units that had left the window were given back")
		return true
	})
}

// Mutations seen here: units that are taken in addition count from when the call
// began, or the others from when they were.
func testSettleMoreWindow(t *testing.T, f LimiterFixture) {
	inTime(t, func() bool {
		limit := metering.Per(f.hour(), 100)
		r := request(10, limit)
		first := take(t, f, r)
		f.pass(t, limit.Window*5/6)
		_, settled := peek(t, f, r)
		charged := settle(t, f, first, 40)
		_, latest := peek(t, f, r)
		if !settled.Before(first.Time.Add(limit.Window)) {
			return false
		}
		require.EqualValues(t, 40, charged)
		late := limit.Resolution() + f.Late
		seen := false
		f.await(t, settled.Add(limit.Window), func() time.Time {
			left, now := peek(t, f, r)
			if now.Before(settled.Add(limit.Window)) {
				require.LessOrEqual(t, left, int64(70), "units were released before they had left the window")
				if now.Sub(first.Time) >= limit.Window+late {
					require.EqualValues(t, 70, left, "units were released late")
					seen = true
				}
			}
			return now
		})
		f.pass(t, late+latest.Sub(settled))
		left, _ := peek(t, f, r)
		require.EqualValues(t, 100, left, "units were released late")
		return seen
	})
}

// Mutations seen here: a key that is remembered for a tenth longer, and shorter.
func testKeyExpires(t *testing.T, f LimiterFixture) {
	inTime(t, func() bool {
		r := keyed(30)
		r.KeyTTL = f.hour()
		// It is remembered from some moment of the call on, not from the one of its answer.
		_, before := peek(t, f, request(1))
		take(t, f, r)
		_, after := peek(t, f, request(1))
		first, last, replayed := before.Add(r.KeyTTL), after.Add(r.KeyTTL), 0
		for _, moment := range []time.Time{first.Add(-r.KeyTTL / 60), last.Add(r.KeyTTL / 60)} {
			f.await(t, moment, func() time.Time {
				d, err := f.Limiter.Peek(t.Context(), again(r))
				require.NoError(t, err)
				if d.Replay {
					replayed++
				}
				if d.Time.Before(first.Add(-time.Millisecond)) {
					require.True(t, d.Replay, "a key was forgotten early")
				}
				return d.Time
			})
		}
		require.False(t, take(t, f, again(r)).Replay, "a key was remembered too long")
		return replayed > 0
	})
}

func testRetryAfter(t *testing.T, f LimiterFixture) {
	// Exact to the millisecond for a limit that is remembered call by call.
	hour := f.hour()
	inTime(t, func() bool {
		r := request(20, metering.Per(hour, 60))
		first := take(t, f, r)
		for range 2 {
			f.pass(t, hour*7/60)
			take(t, f, r)
		}
		f.pass(t, hour*7/60)
		d := take(t, f, r)
		if !d.Time.Before(first.Time.Add(hour)) {
			return false
		}
		require.False(t, d.Allowed)
		require.Equal(t, first.Time.Add(hour), d.Time.Add(d.RetryAfter()))
		requireReleased(t, f, r, first.Time.Add(hour))
		return true
	})

	// Sufficient for every other.
	inTime(t, func() bool {
		r := request(300, metering.Per(hour, 1_000))
		for range 3 {
			take(t, f, r)
			f.pass(t, hour/180)
		}
		d := take(t, f, r)
		if d.Allowed && f.Advance == nil {
			return false
		}
		require.False(t, d.Allowed)
		released(t, f, r, d.Time.Add(d.RetryAfter()))
		return true
	})
}

// Mutation seen here: slots that never expire.
func testSlotsExpire(t *testing.T, f LimiterFixture) {
	renewer, ok := f.Limiter.(metering.Renewer)
	require.True(t, ok)
	hold := 30 * time.Second
	if f.Advance == nil {
		hold = time.Second
	}
	inTime(t, func() bool {
		r := request(1, metering.Limit{Units: 2, Hold: hold})
		crashed, alive := take(t, f, r), take(t, f, r)
		require.True(t, crashed.Allowed)
		f.pass(t, hold*2/3)
		_, renewed := peek(t, f, r)
		require.NoError(t, renewer.Renew(t.Context(), alive))
		if !renewed.Before(alive.Time.Add(hold)) {
			return false
		}
		requireReleased(t, f, r, crashed.Time.Add(hold))
		f.pass(t, hold/30) // past the end of both, and what a refusal may be remembered for
		d := take(t, f, r)

		// It frees its slot; the one that crashed must not free another's.
		settle(t, f, alive, 1)
		next := take(t, f, r)
		settle(t, f, crashed, 1)
		last := take(t, f, r)
		if !last.Time.Before(renewed.Add(hold)) {
			return false
		}
		require.True(t, alive.Allowed)
		require.False(t, d.Allowed, "the slot that was renewed has expired")
		require.True(t, next.Allowed)
		require.False(t, last.Allowed)
		return true
	})
}

// Units of a block that are spent at the last moment must stay in the window
// for its whole length. Mutation seen here: a block that counts from when it
// was lent.
func testBlockStamp(t *testing.T, f LimiterFixture) {
	limit := metering.Per(f.hour()/60, 1_000)
	if f.Advance == nil {
		limit.Window = f.hour()
	}
	r := request(1, limit)
	lent := lend(t, f, r, 100, 0)
	require.EqualValues(t, 100, lent.Block.Units)
	end := lent.Time.Add(lent.Block.Hold + limit.Window) // if they are spent at the last moment
	f.await(t, end, func() time.Time {
		left, now := peek(t, f, r)
		if now.Before(end) {
			require.LessOrEqual(t, left, int64(900), "units were released before they had left the window")
		}
		return now
	})
	f.pass(t, limit.Resolution())
	left, _ := peek(t, f, r)
	require.EqualValues(t, 1_000, left, "units were released late")

	// Units of calls beside the block are given back to where they were.
	inTime(t, func() bool {
		r := request(1, limit)
		lent := lend(t, f, r, 100, 0)
		r.Units = 30
		f.pass(t, lent.Block.Hold/2)
		d := take(t, f, r)
		f.pass(t, 2*limit.Resolution())
		take(t, f, r)
		settle(t, f, d, 0)
		left, now := peek(t, f, r)
		if !now.Before(lent.Time.Add(limit.Window)) {
			return false
		}
		require.EqualValues(t, 1_000-101-30, left)
		return true
	})
}

// lend asks for a block beside a call of one unit.
func lend(t *testing.T, f LimiterFixture, r metering.Request, units, calls int64) metering.Decision {
	t.Helper()
	r.Block = metering.Block{ID: tenant.NewID().String(), Units: units, Calls: calls, Hold: 200 * time.Millisecond}
	d := take(t, f, r)
	require.True(t, d.Allowed)
	return d
}
