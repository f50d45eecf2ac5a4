package metering_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// BenchmarkOutage is for how long calls are held up by a Redis that hangs, and by
// one that is gone: the longest of four callers until the breaker opens, which is to
// be 50 ms at most, and once it is open, which is to be 1 ms.
func BenchmarkOutage(b *testing.B) {
	const callers = 4
	for _, outage := range []struct {
		name       string
		begin, end func(*devtest.RedisServer)
	}{
		{"hangs", (*devtest.RedisServer).Freeze, (*devtest.RedisServer).Thaw},
		{"gone", (*devtest.RedisServer).Stop, (*devtest.RedisServer).Start},
	} {
		b.Run(outage.name, func(b *testing.B) {
			server := devtest.DurableRedis(b)
			client, err := redisquota.NewClient(server.URL)
			require.NoError(b, err)
			b.Cleanup(func() { client.Close() })
			limiter, err := redisquota.New(client, nil)
			require.NoError(b, err)
			journal, err := usage.OpenSpool(b.TempDir(), nil)
			require.NoError(b, err)
			b.Cleanup(func() { journal.Close() })
			meter, err := metering.New(limiter, &meteringtest.Sink{}, &metering.Options{
				Tools:   map[string]metering.Tool{"search": {Units: 1}},
				Plans:   map[tenant.Plan]metering.Plan{tenant.Starter: {Limits: []metering.Limit{metering.PerHour(1_000_000)}, OnOutage: metering.Allow}},
				Journal: journal,
			})
			require.NoError(b, err)
			run(b, meter)
			h := metering.WithMetering(meter, "search", ok)
			ctx := tenant.NewContext(b.Context(), newTenant(tenant.Starter))
			// calls has the callers call while it is wanted and returns the times taken.
			calls := func(wanted func(made int) bool) []time.Duration {
				var all []time.Duration
				var mu sync.Mutex
				var group sync.WaitGroup
				for range callers {
					group.Go(func() {
						for made := 0; wanted(made); made++ {
							began := time.Now()
							_, err := invoke(ctx, h, "search", nil)
							took := time.Since(began)
							mu.Lock()
							all = append(all, took)
							mu.Unlock()
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				group.Wait()
				slices.Sort(all)
				return all
			}
			var until, open []time.Duration
			for b.Loop() {
				calls(func(made int) bool { return made < 50 })
				outage.begin(server)
				until = append(until, calls(func(int) bool { return !meter.Stats().BreakerOpen })...)
				open = append(open, calls(func(made int) bool { return made < 500 })...)
				outage.end(server)
				require.Eventually(b, func() bool { return meter.Check(b.Context()) == nil && !meter.Waits() }, time.Minute, time.Millisecond)
			}
			slices.Sort(open)
			b.ReportMetric(0, "ns/op") // holds the repair
			b.ReportMetric(float64(slices.Max(until).Microseconds())/1000, "max-ms")
			b.ReportMetric(float64(open[len(open)*99/100].Nanoseconds())/1000, "open-p99-us")
			b.ReportMetric(float64(slices.Max(open).Microseconds())/1000, "open-max-ms")
		})
	}
}
