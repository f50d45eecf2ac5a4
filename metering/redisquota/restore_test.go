package redisquota_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// counted returns how many units a bound counts.
func counted(t testing.TB, l *redisquota.Limiter, id tenant.ID, b metering.Bound) int64 {
	t.Helper()
	d, err := l.Peek(t.Context(), metering.Request{Tenant: id, Bounds: []metering.Bound{b}})
	require.NoError(t, err)
	return b.Units - d.Limits[0].Remaining - b.Weight(0) // a look at attempts is one
}

func month(t testing.TB, now time.Time) metering.Bound {
	t.Helper()
	start := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	return metering.Bound{Limit: metering.PerMonth(1_000_000), Start: start, End: start.AddDate(0, 1, 0)}
}

// What is counted afterwards leaves a window when it would have, give or take the
// length of a run as for everything else, wherever between other calls it belongs.
//
// Mutations seen here: units put at the present count too long; units put into the
// run before them leave too early; a run that is drawn out to a later use keeps its
// first units too long.
func TestRestoredUnitsLeaveInTime(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		window time.Duration
		units  int64
	}{
		{"runs", time.Minute, 1_000_000},
		{"exact", 10 * time.Second, 60},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			limiter, clock, _, advance := newMiniredis(t)
			rnd := rand.New(rand.NewPCG(4, 7))
			b := metering.Bound{Limit: metering.Per(test.window, test.units)}
			type use struct {
				at    time.Time
				units int64
			}
			for range 5 {
				id := tenant.NewID()
				var used []use // that the limiter knows of
				var late []metering.Use
				var last int64
				for range calls(4_000) / 10 {
					advance(time.Duration(rnd.Int64N(int64(test.window/40))) + time.Millisecond)
					now, units := clock.Now().Truncate(time.Millisecond), 1+rnd.Int64N(3)
					switch rnd.IntN(8) {
					case 0, 1: // told later
						late = append(late, metering.Use{Bound: b, Time: now.Truncate(100 * time.Millisecond), Units: units})
					case 2:
						if len(late) == 0 {
							continue
						}
						r := metering.Restoration{Entries: metering.Entries{Tenant: id, Journal: "j", First: last + 1, Last: last + int64(len(late))}, Uses: late}
						got, err := limiter.Restore(t.Context(), r)
						require.NoError(t, err)
						last += int64(len(late))
						require.Equal(t, last, got)
						for _, u := range late {
							used = append(used, use{u.Time, u.Units})
						}
						late = nil
					default:
						d, err := limiter.Take(t.Context(), metering.Request{Tenant: id, Units: units, Bounds: []metering.Bound{b}})
						require.NoError(t, err)
						if d.Allowed {
							used = append(used, use{now, units})
						}
					}
					var least, most int64
					for _, u := range used {
						if u.at.After(now.Add(-b.Window)) {
							least += u.units
						}
						if u.at.After(now.Add(-b.Window - b.Resolution())) {
							most += u.units
						}
					}
					got := counted(t, limiter, id, b)
					require.GreaterOrEqual(t, got, min(least, b.Units), "released early")
					require.LessOrEqual(t, got, most, "released late")
				}
			}
		})
	}
}

// Whatever of a journal is told again, in other pieces, by another process: each
// entry counts once.
//
// Mutation seen here: without the mark, told twice counts twice.
func TestRestoredOnce(t *testing.T) {
	t.Parallel()
	both := four(t, devtest.SharedRedis(t))[:2]
	id, now := tenant.NewID(), time.Now().UTC()
	hour, month := metering.Bound{Limit: metering.PerHour(1_000)}, month(t, now)
	entries := func(first, last int64) (r metering.Restoration) {
		r.Entries = metering.Entries{Tenant: id, Journal: "j", First: first, Last: last}
		for range last - first + 1 {
			for _, b := range []metering.Bound{hour, month} {
				r.Uses = append(r.Uses, metering.Use{Bound: b, Time: now.Truncate(time.Second), Units: 10})
			}
		}
		return r
	}
	for i, told := range []struct{ first, last, known, units int64 }{
		{1, 3, 3, 30}, {1, 3, 3, 30}, {1, 2, 3, 30}, {2, 5, 3, 30}, {4, 5, 5, 50}, {7, 7, 7, 60}, {6, 6, 7, 60},
	} {
		last, err := both[i%2].Restore(t.Context(), entries(told.first, told.last))
		require.NoError(t, err)
		require.Equal(t, told.known, last, "step %d", i)
		require.Equal(t, told.units, counted(t, both[0], id, hour), "step %d", i)
		require.Equal(t, told.units, counted(t, both[0], id, month), "step %d", i)
	}
	other := entries(1, 1)
	other.Journal = "k"
	_, err := both[0].Restore(t.Context(), other)
	require.NoError(t, err)
	require.EqualValues(t, 70, counted(t, both[0], id, hour), "another journal has numbers of its own")

	d, err := both[0].Take(t.Context(), metering.Request{Tenant: id, Units: 20, Bounds: []metering.Bound{hour, month}})
	require.NoError(t, err)
	e := metering.Entries{Tenant: id, Journal: "j", First: 8, Last: 8}
	for i := range 3 {
		last, err := both[i%2].SettleLate(t.Context(), e, d, 5, "")
		require.NoError(t, err)
		require.EqualValues(t, 8, last)
		require.EqualValues(t, 75, counted(t, both[0], id, hour))
		require.EqualValues(t, 75, counted(t, both[0], id, month))
	}
}

// A call that was let through with an idempotency key is counted unless the key
// has been paid for, and is remembered.
//
// Mutation seen here: without the look at the key, 20 more are counted.
func TestRestoredKey(t *testing.T) {
	t.Parallel()
	limiter, _ := newLimiter(t, devtest.SharedRedis(t))
	id, now := tenant.NewID(), time.Now().UTC()
	hour := metering.Bound{Limit: metering.PerHour(1_000)}
	attempts := metering.Bound{Limit: metering.PerHour(2_000), Attempts: true}
	r := metering.Request{Tenant: id, Units: 20, Bounds: []metering.Bound{hour, attempts}, Key: "key", KeyTTL: time.Hour, ID: "event"}
	let := func(number int64) metering.Restoration {
		return metering.Restoration{
			Entries: metering.Entries{Tenant: id, Journal: "j", First: number, Last: number},
			Uses:    []metering.Use{{Bound: hour, Time: now, Units: 20}, {Bound: attempts, Time: now, Units: 1}},
			Key:     r.Key, KeyTTL: r.KeyTTL, ID: r.ID, Units: r.Units,
		}
	}
	for number := range int64(3) {
		_, err := limiter.Restore(t.Context(), let(number+1))
		require.NoError(t, err)
		require.EqualValues(t, 20, counted(t, limiter, id, hour))
		require.Equal(t, number+1, counted(t, limiter, id, attempts))
	}
	d, err := limiter.Take(t.Context(), r)
	require.NoError(t, err)
	require.True(t, d.Replay)
	require.Equal(t, "event", d.ID)
	require.EqualValues(t, 20, d.Units)
	_, err = limiter.Settle(t.Context(), d, 0) // the others rely on it
	require.NoError(t, err)
	require.EqualValues(t, 20, counted(t, limiter, id, hour))
}

// A counter of a period that was lost gets what the ledger knows of before, and
// that once, however late the ledger learns of it and whoever tells.
//
// Mutations seen here: seeding by adding doubles; without "before" in settle.lua, a
// call from before the loss that is given back is missing in the end.
func TestSeed(t *testing.T) {
	t.Parallel()
	url := devtest.SharedRedis(t)
	both := four(t, url)[:2]
	_, client := newLimiter(t, url)
	id, b := tenant.NewID(), month(t, time.Now().UTC())
	take := func(units int64) metering.Decision {
		t.Helper()
		d, err := both[0].Take(t.Context(), metering.Request{Tenant: id, Units: units, Bounds: []metering.Bound{b}})
		require.NoError(t, err)
		require.True(t, d.Allowed)
		return d
	}
	old := take(20)
	old.Time = old.Time.Add(-time.Second) // before the loss, for sure
	require.NoError(t, client.FlushDB(t.Context()).Err())
	first := take(5)
	since, final, err := both[0].Since(t.Context(), id, b)
	require.NoError(t, err)
	require.False(t, final)
	require.Equal(t, first.Time, since)
	for i, seed := range []struct{ units, counted int64 }{{0, 5}, {100, 105}, {100, 105}, {90, 105}, {130, 135}} {
		require.NoError(t, both[i%2].Seed(t.Context(), id, b, since, seed.units, false))
		require.Equal(t, seed.counted, counted(t, both[0], id, b), "step %d", i)
	}
	_, err = both[1].Settle(t.Context(), old, 0) // was never in this counter
	require.NoError(t, err)
	require.NoError(t, both[0].Seed(t.Context(), id, b, since, 130, false))
	require.EqualValues(t, 135, counted(t, both[0], id, b))

	require.NoError(t, both[0].Seed(t.Context(), id, b, since.Add(-time.Hour), 900, true), "of another beginning")
	require.EqualValues(t, 135, counted(t, both[0], id, b))
	require.NoError(t, both[0].Seed(t.Context(), id, b, since, 130, true))
	since, final, err = both[1].Since(t.Context(), id, b)
	require.NoError(t, err)
	require.True(t, final)
	require.Equal(t, first.Time, since)

	// What came before is not added a second time by a journal.
	restore := func(number int64, at time.Time) {
		_, err := both[0].Restore(t.Context(), metering.Restoration{
			Entries: metering.Entries{Tenant: id, Journal: "j", First: number, Last: number},
			Uses:    []metering.Use{{Bound: b, Time: at, Units: 7}}, Ledger: true,
		})
		require.NoError(t, err)
	}
	restore(1, since.Add(-time.Millisecond))
	require.EqualValues(t, 135, counted(t, both[0], id, b))
	restore(2, since)
	require.EqualValues(t, 142, counted(t, both[0], id, b))

	// Nor if the journal is told of first.
	require.NoError(t, client.FlushDB(t.Context()).Err())
	restore(3, time.Now().Add(-time.Second))
	take(5)
	since, _, err = both[0].Since(t.Context(), id, b)
	require.NoError(t, err)
	require.NoError(t, both[0].Seed(t.Context(), id, b, since, 149, false))
	require.EqualValues(t, 154, counted(t, both[0], id, b))

	// Of a counter whose beginning nobody knows, the ledger says all.
	require.NoError(t, client.Del(t.Context(), client.Keys(t.Context(), "*#since").Val()...).Err())
	since, _, err = both[0].Since(t.Context(), id, b)
	require.NoError(t, err)
	require.NoError(t, both[0].Seed(t.Context(), id, b, since, 160, false))
	require.EqualValues(t, 160, counted(t, both[0], id, b))
}
