// Package bench compares with the libraries of others. It is a module of its
// own so that nobody who uses this project downloads them. .ci/bench runs it.
package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// zsetLua is the common sliding window: a sorted set with a member for each
// unit, scored by its time.
var zsetLua = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1] * 1000000)
if redis.call('ZCARD', KEYS[1]) + ARGV[3] > tonumber(ARGV[2]) then return 0 end
for i = 1, ARGV[3] do redis.call('ZADD', KEYS[1], now, ARGV[4] .. ':' .. i) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1`)

// peer takes units of the n-th call from every limit.
type peer struct {
	name string
	take func(ctx context.Context, n int64) error
	took []time.Duration
}

func peers(b *testing.B, units int64, windows []time.Duration) []*peer {
	const most = 1 << 40 // never reached: all calls are admitted
	tenants := make([]tenant.ID, 200)
	for i := range tenants {
		tenants[i] = tenant.NewID()
	}
	of := func(n int64) tenant.ID { return tenants[n%int64(len(tenants))] }
	url := devtest.Redis(b).URL
	client, err := redisquota.NewClient(url)
	require.NoError(b, err)
	b.Cleanup(func() { client.Close() })

	limiter, err := redisquota.New(client, nil)
	require.NoError(b, err)
	var bounds []metering.Bound
	for _, w := range windows {
		bounds = append(bounds, metering.Bound{Limit: metering.Limit{Window: w, Units: most}})
	}
	rate := redis_rate.NewLimiter(client)
	denied := fmt.Errorf("denied")
	ours := func(ctx context.Context, n int64, receipt bool) error {
		d, err := limiter.Take(ctx, metering.Request{Tenant: of(n), Units: units, Bounds: bounds, ID: fmt.Sprint(n), Receipt: receipt})
		if err == nil && !d.Allowed {
			err = denied
		}
		return err
	}
	return []*peer{
		{name: "redisquota", take: func(ctx context.Context, n int64) error { return ours(ctx, n, false) }},
		{name: "receipts", take: func(ctx context.Context, n int64) error { return ours(ctx, n, true) }},
		{name: "redis_rate", take: func(ctx context.Context, n int64) error {
			for _, w := range windows { // one script for each: what an earlier one took stays taken if a later one denies
				r, err := rate.AllowN(ctx, w.String()+of(n).String(), redis_rate.Limit{Rate: 1 << 30, Burst: 1 << 30, Period: w}, int(units))
				if err != nil {
					return err
				}
				if int64(r.Allowed) != units {
					return denied
				}
			}
			return nil
		}},
		{name: "zset", take: func(ctx context.Context, n int64) error {
			for _, w := range windows {
				ok, err := zsetLua.Run(ctx, client, []string{"z" + w.String() + of(n).String()}, int64(w.Seconds()), most, units, n).Int()
				if err != nil {
					return err
				}
				if ok != 1 {
					return denied
				}
			}
			return nil
		}},
	}
}

// BenchmarkQuota takes units of 200 tenants in turn by sixteen goroutines, over
// loopback. The peers take turns in short rounds; the ratios are medians of the
// rounds'.
func BenchmarkQuota(b *testing.B) {
	const goroutines, calls = 16, 2000
	hour, three := []time.Duration{time.Hour}, []time.Duration{time.Minute, time.Hour, 24 * time.Hour}
	for _, bm := range []struct {
		name    string
		units   int64
		windows []time.Duration
	}{{"1 limit, 1 unit", 1, hour}, {"1 limit, 20 units", 20, hour}, {"3 limits, 1 unit", 1, three}} {
		b.Run(bm.name, func(b *testing.B) {
			all := peers(b, bm.units, bm.windows)
			var n atomic.Int64
			round := func(p *peer) time.Duration {
				start, end := time.Now(), n.Load()+calls
				var group sync.WaitGroup
				for range goroutines {
					group.Go(func() {
						for i := n.Add(1); i <= end; i = n.Add(1) {
							if err := p.take(b.Context(), i); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				group.Wait()
				return time.Since(start)
			}
			for _, p := range all {
				round(p)
			}
			for i := 0; b.Loop(); i++ {
				for j := range all {
					p := all[(i+j)%len(all)]
					p.took = append(p.took, round(p))
				}
			}
			b.ReportMetric(0, "ns/op")
			ratios := make([][]float64, len(all))
			for i := range all[0].took {
				for j, p := range all {
					ratios[j] = append(ratios[j], p.took[i].Seconds()/all[0].took[i].Seconds())
				}
			}
			for j, p := range all {
				slices.Sort(p.took)
				b.ReportMetric(calls/p.took[len(p.took)/2].Seconds(), p.name+"-calls/s")
				if j > 0 {
					slices.Sort(ratios[j])
					b.ReportMetric(ratios[j][len(ratios[j])/2], "redisquota/"+p.name)
				}
			}
		})
	}
}
