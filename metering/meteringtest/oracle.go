package meteringtest

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
)

// testRandom makes random calls, of weights 1 to 20, gives some of them back,
// whole or in part, takes more for others when they are settled, and compares each
// decision with all that was admitted.
//
// Mutations seen here, in the limiters: an entry that counts by its first call,
// units that are given back to a later entry or after they have left, or taken
// in addition as of the time of the call, entries
// that are lost when the string is rewritten or skipped when they expire, and
// runs of twice the resolution; in those that lend, blocks that count from when
// they were lent, and a refusal for want of a block that has just been returned.
func testRandom(t *testing.T, f LimiterFixture) {
	if f.Calls == 0 {
		f.Calls = 5_000
	}
	window := f.Window
	if window == 0 {
		if window = time.Hour; f.Advance == nil {
			window = 240 * time.Millisecond
		}
	}
	many := int64(1) // times as many units
	if f.Lends && f.Advance == nil {
		many = 10 // calls follow one another so fast that else hardly any is left for blocks
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	var extra int64
	// A limit that is remembered call by call, and two that are not.
	for _, limits := range [][]metering.Limit{
		{metering.Per(window, 60)},
		{metering.Per(window, 700*many), metering.Per(3*window, 1_200*many)},
	} {
		fleets := [][]metering.Limiter{{f.Limiter}}
		if len(f.Others) > 0 {
			fleets = append(fleets, append(slices.Clone(f.Others), f.Limiter))
		}
		for _, limiters := range fleets {
			o := &oracle{t: t, f: f, random: random, limiters: limiters, r: request(1, limits...), window: window}
			for i := range f.Calls / 2 {
				o.step()
				if i%(f.Calls/20) == 0 {
					o.requireBack(f.Limiter)
				}
			}
			t.Logf("limiters: %d, calls: %d admitted, %d of them from blocks; %d refused, %d of them without asking and %d for what others held",
				len(limiters), o.admitted, o.leased, o.refused, o.repeated, o.elsewhere)
			require.NotZero(t, o.refused, "the limits were never reached")
			require.NotZero(t, o.admitted)
			extra += o.extra
			if f.Lends && len(limits) > 1 {
				require.NotZero(t, o.leased, "no call was served by a block")
			}
		}
	}
	require.NotZero(t, extra, "nothing was taken in addition")
}

// oracle remembers every admitted call.
type oracle struct {
	t        *testing.T
	f        LimiterFixture
	random   *rand.Rand
	limiters []metering.Limiter
	r        metering.Request
	window   time.Duration
	calls    []oracleCall // those of the longest window, about in order of time
	lent     time.Time    // when the last block was
	now      time.Time    // about the limiter's: what is repeated is ahead of it by as much as the answer was late
	full     time.Time    // the last refusal, or the beginning
	taken    time.Time    // the last units in addition

	admitted, leased             int
	extra                        int64 // units that were taken by Settle
	refused, repeated, elsewhere int
}

type oracleCall struct {
	by       metering.Limiter
	decision metering.Decision
	real     int64 // what the call is charged now
	beside   bool  // a block that was lent before could still be spent
	more     bool  // units were taken in addition, which another one is for

	// unsure is how much later than at decision.Time they may have been taken.
	unsure time.Duration

	// What each bound may count for it: within its window, and for as long
	// after it as it may be late.
	within, after []int64
}

func (o *oracle) step() {
	o.pause()
	if n := len(o.calls); n > 0 {
		switch c := &o.calls[n-1-o.random.IntN(min(n, 40))]; o.random.IntN(20) {
		case 0, 1, 2, 3:
			o.settle(c)
		case 4:
			o.settleMore(c)
		}
	}
	o.r.Units = 1 + o.random.Int64N(20)
	if o.f.Advance == nil && o.now.Sub(o.full) > o.window {
		o.r.Units = o.r.Bounds[0].Units / 2 // a busy machine would never get to the limit by small steps
	}
	by := o.limiters[o.random.IntN(len(o.limiters))]
	d := takeOf(o.t, o.f, by, o.r)
	if o.full.IsZero() {
		o.full = d.Time
	}
	if d.Allowed {
		o.admitted++
		if d.Source == metering.SourceLease {
			o.leased++
		}
		c := oracleCall{by: by, decision: d, real: d.Units}
		c.beside = o.f.Lends && d.Block.Hold == 0 && d.Source == metering.SourceLimiter && d.Time.Sub(o.lent) <= o.f.Late
		if d.Block.Hold > 0 {
			o.lent = d.Time
		}
		for range o.r.Bounds {
			c.within, c.after = append(c.within, d.Units), append(c.after, d.Units)
		}
		o.calls = append(o.calls, c)
	}
	if d.Source != metering.SourceRefusal && d.Time.After(o.now) {
		o.now = d.Time
	}
	o.forget(o.now)
	for i, b := range o.r.Bounds {
		inside, most := o.count(i, o.now)
		require.LessOrEqual(o.t, inside, b.Units, "over-admitted: a window holds more than the limit")
		// Beside a block one doesn't see what others take, or what Settle does.
		if d.Allowed && (d.Source == metering.SourceLimiter || len(o.limiters) == 1 && d.Time.Sub(o.taken) > o.f.Late) {
			require.LessOrEqual(o.t, d.Limits[i].Remaining, b.Units-inside, "more left than the window has room for")
			if !o.f.Lends { // else some are in blocks that are to be returned
				require.GreaterOrEqual(o.t, d.Limits[i].Remaining, b.Units-most, "units were released late")
			}
		}
	}
	if !d.Allowed {
		o.refuse(by, d)
	}
}

// refuse checks that a refusal was right, and for as long as it said.
func (o *oracle) refuse(by metering.Limiter, d metering.Decision) {
	o.refused++
	o.full = d.Time
	if d.Source == metering.SourceRefusal {
		o.repeated++
	}
	b := o.r.Bounds[d.Refused]
	_, most := o.count(d.Refused, d.Time)
	if most+o.r.Units > b.Units {
		// What was repeated may have been asked before a cheaper call was admitted.
		if o.f.Advance != nil && len(o.limiters) == 1 && d.Source == metering.SourceLimiter && o.random.IntN(40) == 0 {
			o.f.Advance(d.RetryAfter())
			peek, err := by.Peek(o.t.Context(), o.r)
			require.NoError(o.t, err)
			require.True(o.t, peek.Allowed, "refused although the time that it asked to wait is over")
		}
		return
	}
	require.True(o.t, o.f.Lends && len(o.limiters) > 1, "refused although the limit had room: units were released late")
	// Others hold the rest, for as long as blocks last.
	if o.elsewhere++; o.elsewhere <= 20 || o.elsewhere%500 == 0 {
		o.requireBack(by)
	}
}

// requireBack waits until blocks are over, and checks that all that they held is
// back.
func (o *oracle) requireBack(by metering.Limiter) {
	if o.f.Advance != nil {
		o.f.Advance(o.f.Late)
	}
	r := o.r
	r.Units = 0
	require.EventuallyWithT(o.t, func(t *assert.CollectT) {
		d, err := by.Peek(o.t.Context(), r)
		require.NoError(t, err)
		for i, b := range r.Bounds {
			inside, most := o.count(i, d.Time)
			require.LessOrEqual(t, d.Limits[i].Remaining, b.Units-inside, "more left than the window has room for")
			require.GreaterOrEqual(t, d.Limits[i].Remaining, b.Units-most, "units were released late")
		}
	}, time.Minute, 2*time.Millisecond)
}

// count returns what a bound must and what it may count at a time.
func (o *oracle) count(i int, at time.Time) (inside, most int64) {
	b := o.r.Bounds[i]
	for _, c := range o.calls {
		switch age := at.Sub(c.decision.Time); {
		case age < b.Window:
			inside += c.real
			most += c.within[i]
		case age < b.Window+b.Resolution()+o.f.Late+c.unsure:
			most += c.after[i]
		}
	}
	return inside, most
}

// pause moves the clock, if it can be moved.
func (o *oracle) pause() {
	if o.f.Advance == nil {
		return
	}
	switch n := o.random.IntN(40); {
	case o.f.Lends && n < 36:
		o.f.Advance(time.Duration(o.random.Int64N(int64(o.f.Late / 4)))) // calls that a block may serve
	case n == 0 || o.f.Lends && n == 36: // idle
		if o.f.Lends { // what is left of a block is not given back where its window ends meanwhile
			o.requireBack(o.f.Limiter)
		}
		o.f.Advance(time.Duration(o.random.Int64N(int64(2 * o.window))))
	default:
		o.f.Advance(time.Duration(o.random.Int64N(int64(o.window / 120))))
	}
}

// settle gives back a part of an earlier call, or all of it.
func (o *oracle) settle(c *oracleCall) {
	if c.real == 0 || c.more {
		return
	}
	units := o.random.Int64N(c.real)
	if o.random.IntN(2) == 0 {
		units = 0
	}
	d := c.decision
	d.Units = c.real
	charged, err := c.by.Settle(o.t.Context(), d, units)
	require.NoError(o.t, err)
	require.Equal(o.t, units, charged)
	peek := o.r
	peek.Units = 0
	after, err := c.by.Peek(o.t.Context(), peek)
	require.NoError(o.t, err)
	c.real = units
	for i, b := range o.r.Bounds {
		// Units may stay where the window had moved past the call: they leave
		// with the run of calls that they are remembered with.
		if after.Time.Sub(d.Time) >= b.Window-o.f.Late {
			continue
		}
		// Beside a block they may be taken from the run before, as far as that
		// has any. That one leaves first, so they count once more from then on.
		if !c.beside {
			c.within[i] = units
		}
		if !o.f.Lends {
			c.after[i] = units
		}
	}
}

// settleMore takes units for an earlier call in addition, which count from now on.
func (o *oracle) settleMore(c *oracleCall) {
	if c.real == 0 || c.more {
		return
	}
	peek := o.r
	peek.Units = 0
	before, err := c.by.Peek(o.t.Context(), peek)
	require.NoError(o.t, err)
	d, want := c.decision, c.real+1+o.random.Int64N(20)
	d.Units = c.real
	charged, err := c.by.Settle(o.t.Context(), d, want)
	require.NoError(o.t, err)
	after, err := c.by.Peek(o.t.Context(), peek)
	require.NoError(o.t, err)
	more := charged - c.real
	require.GreaterOrEqual(o.t, more, int64(0))
	require.LessOrEqual(o.t, charged, want)
	if charged < want && !o.f.Lends { // else others may hold the rest
		full := false
		for i, b := range o.r.Bounds {
			_, most := o.count(i, before.Time)
			full = full || more >= b.Units-most
		}
		require.True(o.t, full, "fewer units than every limit had room for")
	}
	c.more = true
	extra := oracleCall{by: c.by, real: more, more: true, unsure: after.Time.Sub(before.Time)}
	extra.decision.Time = before.Time
	for range o.r.Bounds {
		extra.within, extra.after = append(extra.within, more), append(extra.after, more)
	}
	o.calls = append(o.calls, extra)
	o.extra, o.taken = o.extra+more, after.Time
	if after.Time.After(o.now) { // what they took the place of has left by then
		o.now = after.Time
	}
}

// forget drops what no window reaches any more.
func (o *oracle) forget(now time.Time) {
	longest := o.r.Bounds[len(o.r.Bounds)-1]
	for len(o.calls) > 0 && now.Sub(o.calls[0].decision.Time)-o.calls[0].unsure > longest.Window+2*longest.Resolution()+2*o.f.Late {
		o.calls = o.calls[1:]
	}
}
