package redisquota_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
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

func TestRestorer(t *testing.T) {
	t.Parallel()
	meteringtest.TestRestorer(t, func(t *testing.T) meteringtest.LimiterFixture {
		return askedFixture(four(t, devtest.SharedRedis(t)), 0)
	})
}

func TestRestorerOnMiniredis(t *testing.T) {
	t.Parallel()
	meteringtest.TestRestorer(t, miniredisFixture)
}

func TestSeeder(t *testing.T) {
	t.Parallel()
	meteringtest.TestSeeder(t, func(t *testing.T) meteringtest.LimiterFixture {
		url := devtest.SharedRedis(t)
		_, client := newLimiter(t, url)
		f := askedFixture(four(t, url), 0)
		f.Lose = func() { require.NoError(t, client.FlushDB(t.Context()).Err()) }
		return f
	})
}

// What several journals bring does not make a small window grow. Mutation seen here:
// restored uses that come after all others are runs of their own without end.
func TestRestoredMemory(t *testing.T) {
	t.Parallel()
	limiter, client := newLimiter(t, devtest.SharedRedis(t))
	now, bound := time.Now(), metering.Bound{Limit: metering.PerHour(60)}
	id := tenant.NewID()
	const uses = 600
	for i := range int64(uses) {
		r := metering.Restoration{Entries: metering.Entries{Tenant: id, Journal: "j", First: i, Last: i}}
		r.Uses = append(r.Uses, metering.Use{Bound: bound, Units: 1, Time: now.Add(time.Duration(i-uses) * time.Second)})
		_, err := limiter.Restore(t.Context(), r)
		require.NoError(t, err)
	}
	require.EqualValues(t, uses, counted(t, limiter, id, metering.Bound{Limit: metering.PerHour(10_000)}))
	size, err := client.StrLen(t.Context(), client.Keys(t.Context(), "*:w:*").Val()[0]).Result()
	require.NoError(t, err)
	require.LessOrEqual(t, size, int64(1_200))
}

// Of a counter whose beginning nobody knows, the ledger says all.
func TestSeedWithoutBeginning(t *testing.T) {
	t.Parallel()
	limiter, client := newLimiter(t, devtest.SharedRedis(t))
	id, b := tenant.NewID(), month(t, time.Now().UTC())
	_, err := limiter.Take(t.Context(), metering.Request{Tenant: id, Units: 5, Bounds: []metering.Bound{b}})
	require.NoError(t, err)
	require.NoError(t, client.Del(t.Context(), client.Keys(t.Context(), "*#since").Val()...).Err())
	since, _, err := limiter.Since(t.Context(), id, b)
	require.NoError(t, err)
	require.NoError(t, limiter.Seed(t.Context(), id, b, since, 160, false))
	require.EqualValues(t, 160, counted(t, limiter, id, b))
}
