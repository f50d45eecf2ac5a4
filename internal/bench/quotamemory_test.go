package bench

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// fillLua puts members into a sorted set as zsetLua does, all at one time.
var fillLua = redis.NewScript(`
for i = ARGV[2], ARGV[3] do redis.call('ZADD', KEYS[1], ARGV[1], ARGV[4] .. ':' .. i) end
return 1`)

// BenchmarkQuotaState compares what a used-up limit takes of Redis' memory, and
// for how long the first call holds Redis up after all units have expired: every
// other tenant waits that long.
func BenchmarkQuotaState(b *testing.B) {
	for _, limit := range []int64{100, 1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint("limit ", limit), func(b *testing.B) {
			var ours, zset int64
			var oursBlock, zsetBlock time.Duration
			for b.Loop() {
				client, err := redisquota.NewClient(devtest.Redis(b).URL)
				require.NoError(b, err)
				defer client.Close()
				require.NoError(b, client.ConfigSet(b.Context(), "slowlog-log-slower-than", "0").Err())
				m, t := oursState(b, client, limit)
				ours, oursBlock = max(ours, m), max(oursBlock, t)
				m, t = zsetState(b, client, limit)
				zset, zsetBlock = max(zset, m), max(zsetBlock, t)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(ours), "redisquota-bytes")
			b.ReportMetric(float64(zset), "zset-bytes")
			b.ReportMetric(float64(oursBlock.Microseconds()), "redisquota-block-us")
			b.ReportMetric(float64(zsetBlock.Microseconds()), "zset-block-us")
		})
	}
}

// oursState uses up a limit in steps all over a window, twice, so that entries
// expire. Then, before a tenth of them has, it takes one unit more, and asks again
// when that is all that is left: the call drops 90 entries.
func oursState(b *testing.B, client *redis.Client, limit int64) (bytes int64, block time.Duration) {
	const window = 2 * time.Second
	limiter, err := redisquota.New(client, nil)
	require.NoError(b, err)
	r := metering.Request{Tenant: tenant.NewID(), Units: limit / 100, Bounds: []metering.Bound{{Limit: metering.Per(window, limit)}}, Receipt: true}
	take := func() {
		_, err := limiter.Take(b.Context(), r)
		require.NoError(b, err)
	}
	left := func() int64 {
		d, err := limiter.Peek(b.Context(), r)
		require.NoError(b, err)
		return d.Limits[0].Remaining
	}
	size := func() (sum int64) {
		keys, err := client.Keys(b.Context(), "mcpsaas:*").Result()
		require.NoError(b, err)
		require.Len(b, keys, 2) // the window and the receipts
		for _, key := range keys {
			n, err := client.MemoryUsage(b.Context(), key).Result()
			require.NoError(b, err)
			sum += n
		}
		return sum
	}
	tick := time.NewTicker(window / 100)
	defer tick.Stop()
	for range 180 {
		take()
		bytes = max(bytes, size())
		<-tick.C
	}
	for range 10 {
		<-tick.C
	}
	r.Units = 1
	take()
	for left() < limit-1 {
		<-tick.C
	}
	require.Equal(b, limit-1, left(), "the last entry has expired too")
	require.NoError(b, client.Do(b.Context(), "slowlog", "reset").Err())
	take()
	return bytes, slowest(b, client)
}

// zsetState fills a sorted set with members that expired long ago.
func zsetState(b *testing.B, client *redis.Client, limit int64) (bytes int64, block time.Duration) {
	const key, event = "zset", "019aa1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
	past := strconv.FormatInt(time.Now().Add(-2*time.Hour).UnixMicro(), 10)
	for from := int64(1); from <= limit; from += 1_000 {
		require.NoError(b, fillLua.Run(b.Context(), client, []string{key}, past, from, min(limit, from+999), event).Err())
	}
	bytes, err := client.MemoryUsage(b.Context(), key, 0).Result()
	require.NoError(b, err)
	require.NoError(b, client.Do(b.Context(), "slowlog", "reset").Err())
	require.NoError(b, zsetLua.Run(b.Context(), client, []string{key}, 3600, limit, 1, "next").Err())
	return bytes, slowest(b, client)
}

// BenchmarkQuotaSlotsExpired is for how long the first call of a tenant holds Redis
// up whose processes have died with ten thousand calls in flight.
func BenchmarkQuotaSlotsExpired(b *testing.B) {
	const slots = 10_000
	limiter, client := newLimiter(b, devtest.Redis(b).URL)
	require.NoError(b, client.ConfigSet(b.Context(), "slowlog-log-slower-than", "0").Err())
	past := float64(time.Now().Add(-time.Minute).UnixMilli())
	var block time.Duration
	for b.Loop() {
		require.NoError(b, client.FlushDB(b.Context()).Err())
		r := metering.Request{Tenant: tenant.NewID(), Units: 1, Bounds: []metering.Bound{{Limit: metering.Concurrent(slots)}}}
		take := func() {
			d, err := limiter.Take(b.Context(), r)
			require.NoError(b, err)
			require.True(b, d.Allowed)
		}
		take() // of a process that lives, so that the key does not expire as a whole
		keys, err := client.Keys(b.Context(), "mcpsaas:*").Result()
		require.NoError(b, err)
		require.Len(b, keys, 1)
		dead := make([]redis.Z, slots-1)
		for i := range dead {
			dead[i] = redis.Z{Score: past, Member: tenant.NewID().String()}
		}
		require.NoError(b, client.ZAdd(b.Context(), keys[0], dead...).Err())
		require.NoError(b, client.Do(b.Context(), "slowlog", "reset").Err())
		take()
		block = max(block, slowest(b, client))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(block.Microseconds()), "block-us")
}

func slowest(b *testing.B, client *redis.Client) (most time.Duration) {
	logs, err := client.SlowLogGet(context.WithoutCancel(b.Context()), 100).Result()
	require.NoError(b, err)
	for _, l := range logs {
		if name := strings.ToLower(l.Args[0]); name == "eval" || name == "evalsha" {
			most = max(most, l.Duration)
		}
	}
	return most
}
