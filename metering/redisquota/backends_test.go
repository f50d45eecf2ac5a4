package redisquota_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
)

// Three primaries: the keys of one tenant are on one of them. Mutation: a journal's
// entries marked under a key that is not of the tenant's slot.
func TestLimiterOnCluster(t *testing.T) {
	t.Parallel()
	addrs := devtest.RedisCluster(t)
	var limiters []*redisquota.Limiter
	var client *redis.ClusterClient
	for range 4 {
		client = clusterClient(addrs)
		defer client.Close()
		limiter, err := redisquota.New(client, nil)
		require.NoError(t, err)
		limiters = append(limiters, limiter)
	}
	testFixtures(t, limiters)
	testFleets(t, fleetJob{Cluster: addrs}, 2*time.Second)
	limiter := limiters[0]
	t.Run("forget", func(t *testing.T) {
		for range 20 { // on all primaries
			r := request(1)
			r.Key, r.KeyTTL = "key", time.Hour
			_, err := limiter.Take(t.Context(), r)
			require.NoError(t, err)
			require.NoError(t, limiter.Forget(t.Context(), r.Tenant))
			d, err := limiter.Take(t.Context(), r)
			require.NoError(t, err)
			require.False(t, d.Replay)
		}
	})
	fixture := func(t *testing.T) meteringtest.LimiterFixture {
		f := askedFixture(limiters, 0)
		f.Lose = func() {
			require.NoError(t, client.ForEachMaster(t.Context(), func(ctx context.Context, c *redis.Client) error { return c.FlushDB(ctx).Err() }))
		}
		return f
	}
	meteringtest.TestRestorer(t, fixture)
	meteringtest.TestSeeder(t, fixture)
	t.Run("withdraw", func(t *testing.T) { testWithdraw(t, addrs...) })
	t.Run("settled in doubt", func(t *testing.T) { testSettledInDoubt(t, addrs...) })
	t.Run("receipts", func(t *testing.T) { testReceipts(t, addrs...) })
}

// testFixtures runs the suite without leases and with.
func testFixtures(t *testing.T, limiters []*redisquota.Limiter) {
	t.Run("asked", func(t *testing.T) {
		meteringtest.TestLimiter(t, func(*testing.T) meteringtest.LimiterFixture { return askedFixture(limiters, 2_000) })
	})
	t.Run("leased", func(t *testing.T) {
		meteringtest.TestLimiter(t, func(t *testing.T) meteringtest.LimiterFixture { return leasedFixture(t, limiters, 2_000) })
	})
}
