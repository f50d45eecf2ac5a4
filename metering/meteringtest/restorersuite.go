package meteringtest

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestRestorer checks that a limiter is told afterwards of what it could not be
// asked, as metering.Restorer says. What it does about receipts is not looked at:
// that takes a connection that loses answers.
func TestRestorer(t *testing.T, newLimiter func(t *testing.T) LimiterFixture) {
	tests := map[string]func(*testing.T, LimiterFixture){
		"entries count once": testRestoredOnce,
		"a settlement once":  testSettledLate,
		"idempotency key":    testRestoredKey,
		"units leave in time": func(t *testing.T, f LimiterFixture) {
			testRestoredInTime(t, f, metering.Per(time.Minute, 1_000_000))
		},
		"few units leave in time": func(t *testing.T, f LimiterFixture) {
			testRestoredInTime(t, f, metering.Per(10*time.Second, 60))
		},
	}
	t.Run("restore", func(t *testing.T) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, newLimiter(t))
			})
		}
	})
}

// restorers are all limiters of a fixture.
func restorers(t *testing.T, f LimiterFixture) (all []metering.Restorer) {
	t.Helper()
	for _, l := range append([]metering.Limiter{f.Limiter}, f.Others...) {
		r, ok := l.(metering.Restorer)
		require.True(t, ok, "%T is no Restorer", l)
		all = append(all, r)
	}
	return all
}

// entry is the n-th of a journal.
func entry(id tenant.ID, n int64) metering.Entries {
	return metering.Entries{Tenant: id, Journal: "j", First: n, Last: n}
}

// counted returns how many units a bound counts.
func counted(t *testing.T, f LimiterFixture, id tenant.ID, b metering.Bound) int64 {
	t.Helper()
	left, _ := peek(t, f, metering.Request{Tenant: id, Bounds: []metering.Bound{b}})
	return b.Units - left - b.Weight(0) // a look at attempts is one
}

// aMonth is a month that lasts, by the limiter's clock, and that clock.
func aMonth(t *testing.T, f LimiterFixture) (b metering.Bound, now time.Time) {
	t.Helper()
	_, now = peek(t, f, request(1))
	start := now.UTC().Truncate(24*time.Hour).AddDate(0, 0, -7)
	return metering.Bound{Limit: metering.PerBillingPeriod(1_000_000), Start: start, End: start.AddDate(0, 1, 0)}, now.UTC()
}

// Whatever of a journal is told again, in other pieces, by another process: each
// entry counts once.
//
// Mutation seen here: without the mark, told twice counts twice.
func testRestoredOnce(t *testing.T, f LimiterFixture) {
	all, id := restorers(t, f), tenant.NewID()
	month, now := aMonth(t, f)
	hour := metering.Bound{Limit: metering.PerHour(1_000)}
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
		last, err := all[i%len(all)].Restore(t.Context(), entries(told.first, told.last))
		require.NoError(t, err)
		require.Equal(t, told.known, last, "step %d", i)
		require.Equal(t, told.units, counted(t, f, id, hour), "step %d", i)
		require.Equal(t, told.units, counted(t, f, id, month), "step %d", i)
	}
	other := entries(1, 1)
	other.Journal = "k"
	_, err := all[0].Restore(t.Context(), other)
	require.NoError(t, err)
	require.EqualValues(t, 70, counted(t, f, id, hour), "another journal has numbers of its own")
}

func testSettledLate(t *testing.T, f LimiterFixture) {
	all, r := restorers(t, f), request(20, metering.PerHour(1_000))
	month, _ := aMonth(t, f)
	r.Bounds = append(r.Bounds, month)
	take(t, f, r)
	d := take(t, f, r)
	for i := range 2 * len(all) {
		last, err := all[i%len(all)].SettleLate(t.Context(), entry(r.Tenant, 8), d, 5, "")
		require.NoError(t, err)
		require.EqualValues(t, 8, last)
		for _, b := range r.Bounds {
			require.EqualValues(t, 25, counted(t, f, r.Tenant, b))
		}
	}
}

// A call that was let through with an idempotency key is counted unless the key
// has been paid for, and is remembered.
//
// Mutation seen here: without the look at the key, 20 more are counted.
func testRestoredKey(t *testing.T, f LimiterFixture) {
	restorer, r := restorers(t, f)[0], keyed(20)
	hour, attempts := r.Bounds[0], r.Bounds[1]
	_, now := peek(t, f, r)
	for n := range int64(3) {
		_, err := restorer.Restore(t.Context(), metering.Restoration{
			Entries: entry(r.Tenant, n+1),
			Uses:    []metering.Use{{Bound: hour, Time: now, Units: 20}, {Bound: attempts, Time: now, Units: 1}},
			Key:     r.Key, KeyTTL: r.KeyTTL, ID: r.ID, Units: r.Units,
		})
		require.NoError(t, err)
		require.EqualValues(t, 20, counted(t, f, r.Tenant, hour))
		require.Equal(t, n+1, counted(t, f, r.Tenant, attempts))
	}
	d := take(t, f, again(r))
	require.True(t, d.Replay)
	require.Equal(t, r.ID, d.ID)
	require.EqualValues(t, 20, d.Units)
	settle(t, f, d, 0) // the others rely on it
	require.EqualValues(t, 20, counted(t, f, r.Tenant, hour))
}

// What is counted afterwards leaves a window when it would have, give or take the
// length of a run as for everything else, wherever between other calls it belongs.
//
// Mutations seen here: units put at the present count too long; units put into the
// run before them leave too early; a run that is drawn out to a later use keeps its
// first units too long.
func testRestoredInTime(t *testing.T, f LimiterFixture, limit metering.Limit) {
	restorer, random := restorers(t, f)[0], rand.New(rand.NewPCG(4, 7))
	steps, pause := 200, f.Advance
	if f.Advance == nil {
		limit.Window, steps, pause = f.hour(), 40, func(d time.Duration) { <-time.After(d) }
	}
	b := metering.Bound{Limit: limit}
	type use struct {
		at    time.Time
		units int64
	}
	for range 5 {
		r := metering.Request{Tenant: tenant.NewID(), Bounds: []metering.Bound{b}}
		var used []use // that the limiter knows of
		var late []metering.Use
		var last int64
		for range steps {
			pause(time.Duration(random.Int64N(int64(b.Window/40))) + time.Millisecond)
			r.Units = 1 + random.Int64N(3)
			switch random.IntN(8) {
			case 0, 1: // told later
				_, now := peek(t, f, r)
				late = append(late, metering.Use{Bound: b, Time: now.Truncate(100 * time.Millisecond), Units: r.Units})
			case 2:
				if len(late) == 0 {
					continue
				}
				e := metering.Entries{Tenant: r.Tenant, Journal: "j", First: last + 1, Last: last + int64(len(late))}
				got, err := restorer.Restore(t.Context(), metering.Restoration{Entries: e, Uses: late})
				require.NoError(t, err)
				last = e.Last
				require.Equal(t, last, got)
				for _, u := range late {
					used = append(used, use{u.Time, u.Units})
				}
				late = nil
			default:
				if d := take(t, f, r); d.Allowed {
					used = append(used, use{d.Time, r.Units})
				}
			}
			left, now := peek(t, f, r)
			var least, most int64
			for _, u := range used {
				if u.at.After(now.Add(-b.Window)) {
					least += u.units
				}
				if u.at.After(now.Add(-b.Window - b.Resolution())) {
					most += u.units
				}
			}
			require.GreaterOrEqual(t, b.Units-left, min(least, b.Units), "released early")
			require.LessOrEqual(t, b.Units-left, most, "released late")
		}
	}
}

// TestSeeder checks that the counter of a period that a limiter has lost is filled
// again as metering.Seeder says. The fixture's Lose must be set.
func TestSeeder(t *testing.T, newLimiter func(t *testing.T) LimiterFixture) {
	t.Run("seeds what is missing", func(t *testing.T) { testSeed(t, newLimiter(t)) })
	if _, ok := newLimiter(t).Limiter.(metering.Restorer); ok {
		t.Run("seeds beside a journal", func(t *testing.T) { testSeedJournal(t, newLimiter(t)) })
	}
}

// seeders are all limiters of a fixture.
func seeders(t *testing.T, f LimiterFixture) (all []metering.Seeder) {
	t.Helper()
	for _, l := range append([]metering.Limiter{f.Limiter}, f.Others...) {
		s, ok := l.(metering.Seeder)
		require.True(t, ok, "%T is no Seeder", l)
		all = append(all, s)
	}
	return all
}

// A counter of a period that was lost gets what the ledger knows of before, and
// that once, however late the ledger learns of it and whoever tells.
//
// Mutations seen here: seeding by adding doubles; a call from before the loss that
// is given back is missing in the end.
func testSeed(t *testing.T, f LimiterFixture) {
	all, r := seeders(t, f), request(20)
	b, _ := aMonth(t, f)
	r.Bounds = []metering.Bound{b}
	old := take(t, f, r)
	old.Time = old.Time.Add(-time.Second) // before the loss, for sure
	f.Lose()
	r.Units = 5
	first := take(t, f, r)
	since, final, err := all[0].Since(t.Context(), r.Tenant, b)
	require.NoError(t, err)
	require.False(t, final)
	require.True(t, since.Equal(first.Time))
	for i, seed := range []struct{ units, counted int64 }{{0, 5}, {100, 105}, {100, 105}, {90, 105}, {130, 135}} {
		require.NoError(t, all[i%len(all)].Seed(t.Context(), r.Tenant, b, since, seed.units, false))
		require.Equal(t, seed.counted, counted(t, f, r.Tenant, b), "step %d", i)
	}
	settle(t, f, old, 0) // was never in this counter
	require.NoError(t, all[0].Seed(t.Context(), r.Tenant, b, since, 130, false))
	require.EqualValues(t, 135, counted(t, f, r.Tenant, b))

	require.NoError(t, all[0].Seed(t.Context(), r.Tenant, b, since.Add(-time.Hour), 900, true), "of another beginning")
	require.EqualValues(t, 135, counted(t, f, r.Tenant, b))
	require.NoError(t, all[0].Seed(t.Context(), r.Tenant, b, since, 130, true))
	again, final, err := all[len(all)-1].Since(t.Context(), r.Tenant, b)
	require.NoError(t, err)
	require.True(t, final)
	require.True(t, since.Equal(again))
}

// What was used before the counter began is the ledger's to tell, whether the
// journal is told of later or first.
func testSeedJournal(t *testing.T, f LimiterFixture) {
	seeder, restorer, r := seeders(t, f)[0], restorers(t, f)[0], request(5)
	b, _ := aMonth(t, f)
	r.Bounds = []metering.Bound{b}
	restore := func(n int64, at time.Time) {
		_, err := restorer.Restore(t.Context(), metering.Restoration{
			Entries: entry(r.Tenant, n), Uses: []metering.Use{{Bound: b, Time: at, Units: 7}}, Ledger: true,
		})
		require.NoError(t, err)
	}
	first := take(t, f, r)
	restore(1, first.Time.Add(-time.Millisecond))
	require.EqualValues(t, 5, counted(t, f, r.Tenant, b))
	restore(2, first.Time)
	require.EqualValues(t, 12, counted(t, f, r.Tenant, b))

	f.Lose()
	restore(3, first.Time.Add(-time.Second))
	take(t, f, r)
	since, _, err := seeder.Since(t.Context(), r.Tenant, b)
	require.NoError(t, err)
	require.NoError(t, seeder.Seed(t.Context(), r.Tenant, b, since, 149, false))
	require.EqualValues(t, 154, counted(t, f, r.Tenant, b))
}
