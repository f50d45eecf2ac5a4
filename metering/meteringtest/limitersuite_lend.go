package meteringtest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
)

func testSlots(t *testing.T, f LimiterFixture) {
	r := request(20, metering.PerHour(1_000), metering.Concurrent(3))
	requireSlots := func(free int64) {
		t.Helper()
		nothing := r
		nothing.Units = 0
		d, err := f.Limiter.Peek(t.Context(), nothing)
		require.NoError(t, err)
		require.Equal(t, free > 0, d.Allowed)
		require.Equal(t, max(0, free-1), d.Limits[1].Remaining, "a call of no units takes a slot, and a look tells of it as taken")
	}
	var running []metering.Decision
	for i := range int64(3) {
		requireSlots(3 - i)
		d := take(t, f, r)
		require.True(t, d.Allowed)
		require.NotEmpty(t, d.Slot)
		require.EqualValues(t, 2-i, d.Limits[1].Remaining, "a call takes one slot, whatever it costs")
		running = append(running, d)
	}
	requireSlots(0)
	d := take(t, f, r)
	require.False(t, d.Allowed)
	require.Equal(t, 1, d.Refused)
	require.Positive(t, d.RetryAfter())
	require.EqualValues(t, 940, d.Limits[0].Remaining, "the refused call has taken units")

	// A call that ends frees its own slot, once, whatever it is charged.
	settle(t, f, running[0], 20)
	settle(t, f, running[0], 20)
	running[0] = take(t, f, r)
	require.True(t, running[0].Allowed)
	require.False(t, take(t, f, r).Allowed, "a call that ended twice has freed two slots")
	settle(t, f, running[1], 0)
	require.EqualValues(t, 940, left(t, f, r))

	// A replay runs as well.
	r.Key, r.KeyTTL = "0123456789abcdef", time.Hour
	first := take(t, f, r)
	require.True(t, first.Allowed)
	require.False(t, take(t, f, again(r)).Allowed)
	settle(t, f, running[2], 20)
	second := take(t, f, again(r))
	require.True(t, second.Replay)
	require.NotEqual(t, first.Slot, second.Slot)
	settle(t, f, first, 20)
	require.True(t, take(t, f, again(r)).Allowed)
	require.False(t, take(t, f, again(r)).Allowed)
}

func testBlock(t *testing.T, f LimiterFixture) {
	r := request(1, metering.PerHour(1_000), metering.PerHour(400))
	r.Bounds[1].Attempts = true
	d := lend(t, f, r, 80, 20)
	require.Equal(t, metering.Block{ID: d.Block.ID, Units: 80, Calls: 20, Hold: 200 * time.Millisecond}, d.Block)
	require.NotEmpty(t, d.Block.ID)
	require.EqualValues(t, 1, d.Units)
	require.Equal(t, []int64{919, 379}, []int64{d.Limits[0].Remaining, d.Limits[1].Remaining})

	// No more than an eighth of what is left, of any bound.
	d = lend(t, f, r, 500, 500)
	require.EqualValues(t, 918/8, d.Block.Units)
	require.EqualValues(t, 378/8, d.Block.Calls)

	small := request(1, metering.PerHour(8))
	require.Zero(t, lend(t, f, small, 100, 100).Block)
	require.EqualValues(t, 7, left(t, f, small))

	slots := request(1, metering.PerHour(1_000), metering.Concurrent(100))
	require.Zero(t, lend(t, f, slots, 100, 100).Block, "a slot belongs to one call")
}

func testBlockReturned(t *testing.T, f LimiterFixture) {
	r := request(1, metering.PerHour(1_000), metering.PerHour(400), metering.PerMonth(10_000))
	r.Bounds[1].Attempts = true
	r.Bounds[2].Start, r.Bounds[2].End = month(f.Now())
	d := lend(t, f, r, 80, 20)
	d.Block.Units, d.Block.Calls = 50, 15
	for range 2 { // it is given back once, by whomever
		settle(t, f, d, 1)
		d.Block.Units, d.Block.Calls = 60, 18
	}
	r.Units = 0
	after, err := f.Limiter.Peek(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, []int64{969, 393, 9_969}, []int64{after.Limits[0].Remaining, after.Limits[1].Remaining, after.Limits[2].Remaining})
}

func testReset(t *testing.T, f LimiterFixture) {
	resetter, ok := f.Limiter.(metering.Resetter)
	require.True(t, ok)
	r := request(100, metering.PerHour(100), metering.PerMonth(100), metering.PerHour(1), metering.Concurrent(3))
	r.Bounds[1].Start, r.Bounds[1].End = month(f.Now())
	r.Bounds[2].Attempts = true
	r.Bounds[2].Units, r.Units = 2, 50
	before := []metering.Decision{take(t, f, r), take(t, f, r)}
	require.True(t, before[1].Allowed)
	require.False(t, take(t, f, r).Allowed)
	require.NoError(t, resetter.Reset(t.Context(), r))
	settle(t, f, before[0], 0) // what it had taken is not there any more
	f.pass(t, 2*time.Millisecond)
	r.Units = 100
	d := take(t, f, r)
	require.True(t, d.Allowed)
	require.EqualValues(t, 0, d.Limits[0].Remaining)
	settle(t, f, before[1], 0) // and now others have taken it
	for i := range 2 {
		one := r
		one.Units, one.Bounds = 1, r.Bounds[i:i+1]
		require.False(t, take(t, f, one).Allowed, "units that were taken after the reset were given back")
	}
}
