package metering_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// BenchmarkOutage is for how long calls are held up by a Redis that hangs, and by
// one that is gone: the longest of four callers until the breaker opens, which is to
// be 50 ms at most, and what each call then takes while it is open, beside a call of
// an unlimited plan, which is never asked for: the difference is what the outage
// adds, and is to be 1 ms at most. The callers make the two in turn, so that what the
// machine and the garbage collector do to one they do to the other: once in loops
// that leave no core idle, in which a call also waits for the other callers' time
// slices, and once each with up to a millisecond in between, as calls come.
//
// Where usage goes into a stream of that Redis too, both are refused while it is away.
func BenchmarkOutage(b *testing.B) {
	const callers = 4
	for _, outage := range []struct {
		name       string
		begin, end func(*devtest.RedisServer)
		stream     bool
	}{
		{"hangs", (*devtest.RedisServer).Freeze, (*devtest.RedisServer).Thaw, false},
		{"gone", (*devtest.RedisServer).Stop, (*devtest.RedisServer).Start, false},
		{"hangs, stream", (*devtest.RedisServer).Freeze, (*devtest.RedisServer).Thaw, true},
		{"gone, stream", (*devtest.RedisServer).Stop, (*devtest.RedisServer).Start, true},
	} {
		b.Run(outage.name, func(b *testing.B) {
			server := devtest.DurableRedis(b)
			client, err := redisquota.NewClient(server.URL)
			require.NoError(b, err)
			b.Cleanup(func() { client.Close() })
			limiter, err := redisquota.New(client, nil)
			require.NoError(b, err)
			journal, err := usage.OpenJournal(b.TempDir(), nil)
			require.NoError(b, err)
			b.Cleanup(func() { journal.Close() })
			var sink usage.Sink = usage.SinkFunc(func(context.Context, usage.Event) error { return nil })
			stream, err := redisquota.NewStream(client, nil)
			require.NoError(b, err)
			if outage.stream {
				sink = stream
			}
			meter, err := metering.New(limiter, sink, &metering.Options{
				Tools: map[string]metering.Tool{"search": {Units: 1}},
				Plans: map[tenant.Plan]metering.Plan{
					tenant.Starter:    {Limits: []metering.Limit{metering.PerHour(1_000_000)}, OnOutage: metering.Allow},
					tenant.Enterprise: {},
				},
				Journal: journal,
			})
			require.NoError(b, err)
			run(b, meter)
			h := metering.WithMetering(meter, "search", ok)
			limited := tenant.NewContext(b.Context(), newTenant(tenant.Starter))
			unlimited := tenant.NewContext(b.Context(), newTenant(tenant.Enterprise))
			timed := func(ctx context.Context) time.Duration {
				began := time.Now()
				if _, err := invoke(ctx, h, "search", nil); err != nil && !(outage.stream && errors.Is(err, metering.ErrNotRecorded)) {
					b.Error(err)
				}
				return time.Since(began)
			}
			away := func() bool {
				if outage.stream {
					return stream.Ready(b.Context()) != nil
				}
				return meter.Stats().BreakerOpen
			}
			// calls has each caller make calls while wanted and returns what they took,
			// and what the calls took that were made between them, if any are.
			calls := func(wanted func(made int) bool, between func() time.Duration) (took, other []time.Duration) {
				var mu sync.Mutex
				var group sync.WaitGroup
				for range callers {
					group.Go(func() {
						var mine, rest []time.Duration
						for made := 0; wanted(made); made++ {
							mine = append(mine, timed(limited))
							if between != nil {
								rest = append(rest, between())
							}
						}
						mu.Lock()
						defer mu.Unlock()
						took, other = append(took, mine...), append(other, rest...)
					})
				}
				group.Wait()
				return took, other
			}
			var until, busy, busyControl, paced, pacedControl []time.Duration
			add := func(to *[]time.Duration, more []time.Duration) { *to = append(*to, more...) }
			for b.Loop() {
				calls(func(made int) bool { return made < 50 }, nil)
				outage.begin(server)
				took, _ := calls(func(int) bool { return !away() }, nil)
				add(&until, took)
				took, control := calls(func(made int) bool { return made < 2_000 }, func() time.Duration { return timed(unlimited) })
				add(&busy, took)
				add(&busyControl, control)
				took, control = calls(func(made int) bool { return made < 2_000 }, func() time.Duration {
					<-time.After(rand.N(time.Millisecond))
					took := timed(unlimited)
					<-time.After(rand.N(time.Millisecond))
					return took
				})
				add(&paced, took)
				add(&pacedControl, control)
				outage.end(server)
				require.Eventually(b, func() bool { return meter.Check(b.Context()) == nil && !meter.Waits() && !away() }, time.Minute, time.Millisecond)
			}
			b.ReportMetric(0, "ns/op") // holds the repair
			b.ReportMetric(float64(slices.Max(until).Microseconds())/1000, "until-open-max-ms")
			for _, phase := range []struct {
				name string
				took []time.Duration
			}{{"busy", busy}, {"busy-control", busyControl}, {"paced", paced}, {"paced-control", pacedControl}} {
				slices.Sort(phase.took)
				report := func(value float64, unit string) { b.ReportMetric(value, phase.name+"-"+unit) }
				micros := func(i int) float64 { return float64(phase.took[i].Nanoseconds()) / 1000 }
				last := len(phase.took) - 1
				report(micros(last/2), "p50-us")
				report(micros(last*99/100), "p99-us")
				report(micros(last)/1000, "max-ms")
				slow, _ := slices.BinarySearch(phase.took, time.Millisecond)
				report(float64(len(phase.took)-slow)*100/float64(len(phase.took)), "percent-over-1ms")
			}
		})
	}
}
