package meteringtest

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
)

// testRandom makes random calls, of weights 1 to 20, gives some of them back,
// whole or in part, and compares each decision with all that was admitted.
//
// Mutations seen here, in the limiters: an entry that counts by its first call,
// units that are given back to a later entry or after they have left, entries
// that are lost when the string is rewritten or skipped when they expire, and
// runs of twice the resolution.
func testRandom(t *testing.T, f LimiterFixture) {
	if f.Calls == 0 {
		f.Calls = 5_000
	}
	window := time.Hour
	if f.Advance == nil {
		if window = f.Window; window == 0 {
			window = 240 * time.Millisecond
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	// A limit that is remembered call by call, and two that are not.
	for _, limits := range [][]metering.Limit{
		{metering.Per(window, 60)},
		{metering.Per(window, 700), metering.Per(3*window, 1_200)},
	} {
		o := &oracle{t: t, f: f, r: request(1, limits...)}
		for range f.Calls / 2 {
			o.step(random, window)
		}
		require.NotZero(t, o.refused, "the limits were never reached")
		require.NotZero(t, o.admitted)
		if f.Lends && len(limits) > 1 {
			require.NotZero(t, o.leased, "no call was served by a block")
		}
	}
}

// oracle remembers every admitted call.
type oracle struct {
	t        *testing.T
	f        LimiterFixture
	r        metering.Request
	calls    []oracleCall // those of the longest window, in order of time
	refused  int
	admitted int
	leased   int
}

type oracleCall struct {
	decision metering.Decision
	real     int64 // what the call is charged now
	held     int64 // what the limiter may still count for it
}

func (o *oracle) step(random *rand.Rand, window time.Duration) {
	if o.f.Advance != nil {
		switch n := random.IntN(40); {
		case o.f.Lends && n < 36:
			o.f.Advance(time.Duration(random.Int64N(int64(o.f.Late / 4)))) // calls that a block may serve
		case n == 0 || o.f.Lends && n == 36:
			o.f.Advance(time.Duration(random.Int64N(int64(2 * window)))) // idle
		default:
			o.f.Advance(time.Duration(random.Int64N(int64(window / 120))))
		}
	}
	if n := len(o.calls); n > 0 && random.IntN(5) == 0 {
		o.settle(&o.calls[n-1-random.IntN(min(n, 40))], random)
	}
	o.r.Units = 1 + random.Int64N(20)
	d := take(o.t, o.f, o.r)
	if d.Allowed {
		o.admitted++
		if d.Source == metering.SourceLease {
			o.leased++
		}
		o.calls = append(o.calls, oracleCall{d, d.Units, d.Units})
	} else {
		o.refused++
	}
	if d.Source == metering.SourceRefusal {
		return // asked a moment ago; by which clock it would be compared is open
	}
	o.forget(d.Time)
	for i, b := range o.r.Bounds {
		var inside, late int64
		for _, c := range o.calls {
			age := d.Time.Sub(c.decision.Time)
			if age < b.Window {
				inside += c.real
			}
			if age < b.Window+b.Resolution()+o.f.Late {
				late += c.held
			}
		}
		require.LessOrEqual(o.t, inside, b.Units, "over-admitted: a window holds more than the limit")
		if d.Allowed {
			require.LessOrEqual(o.t, d.Limits[i].Remaining, b.Units-inside, "more left than the window has room for")
			if !o.f.Lends { // else some are in a block that is to be returned
				require.GreaterOrEqual(o.t, d.Limits[i].Remaining, b.Units-late, "units were released late")
			}
		}
		if d.Refused == i {
			require.Greater(o.t, late+o.r.Units, b.Units, "refused although the limit had room: units were released late")
		}
	}
}

// settle gives back a part of an earlier call, or all of it.
func (o *oracle) settle(c *oracleCall, random *rand.Rand) {
	if c.real == 0 {
		return
	}
	units := random.Int64N(c.real)
	if random.IntN(2) == 0 {
		units = 0
	}
	d := c.decision
	d.Units = c.real
	require.Equal(o.t, units, settle(o.t, o.f, d, units))
	peek := o.r
	peek.Units = 0
	after, err := o.f.Limiter.Peek(o.t.Context(), peek)
	require.NoError(o.t, err)
	c.real = units
	// Units may stay where the window had moved past the call: they leave with
	// the run of calls that they are remembered with.
	// So they may beside blocks, whose entries overlap.
	if !o.f.Lends && after.Time.Sub(d.Time) < o.r.Bounds[0].Window {
		c.held = units
	}
}

// forget drops what no window reaches any more.
func (o *oracle) forget(now time.Time) {
	longest := o.r.Bounds[len(o.r.Bounds)-1]
	for len(o.calls) > 0 && now.Sub(o.calls[0].decision.Time) > longest.Window+2*longest.Resolution()+o.f.Late {
		o.calls = o.calls[1:]
	}
}
