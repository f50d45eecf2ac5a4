package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// newLimiter returns a limiter on a client that is the test's own.
func newLimiter(b *testing.B, url string) (*redisquota.Limiter, *redis.Client) {
	client, err := redisquota.NewClient(url)
	require.NoError(b, err)
	b.Cleanup(func() { client.Close() })
	limiter, err := redisquota.New(client, nil)
	require.NoError(b, err)
	return limiter, client
}

// BenchmarkQuotaPipeline compares a client that sends each question by itself
// with one that gathers those that are asked at the same time.
func BenchmarkQuotaPipeline(b *testing.B) {
	const calls = 2000
	for _, goroutines := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(goroutines, " goroutines"), func(b *testing.B) {
			url := devtest.Redis(b).URL
			plain, _ := newLimiter(b, url)
			_, client := newLimiter(b, url)
			pipelined, err := redisquota.New(client, &redisquota.Options{PipelineAbove: 16})
			require.NoError(b, err)
			r := metering.Request{Tenant: tenant.NewID(), Units: 1, Bounds: []metering.Bound{{Limit: metering.PerHour(metering.MaxUnits)}}}

			limiters := []*redisquota.Limiter{plain, pipelined}
			var took, cpu [2][]time.Duration
			for i := 0; b.Loop(); i++ {
				for j := range limiters {
					k := (i + j) % len(limiters)
					before := processorTime(b)
					took[k] = append(took[k], round(b, goroutines, calls, func(ctx context.Context) error {
						_, err := limiters[k].Take(ctx, r)
						return err
					}))
					cpu[k] = append(cpu[k], processorTime(b)-before)
				}
			}
			b.ReportMetric(0, "ns/op")
			for k, name := range []string{"single", "gathered"} {
				b.ReportMetric(calls/median(took[k]).Seconds(), name+"-calls/s")
				b.ReportMetric(float64(median(cpu[k]).Nanoseconds())/1000/calls, name+"-client-cpu-us")
			}
			b.ReportMetric(median(took[0]).Seconds()/median(took[1]).Seconds(), "gathered/single")
		})
	}
}

// BenchmarkQuotaSlots compares a call of one limit, one that is settled besides,
// and one that takes and frees a slot.
func BenchmarkQuotaSlots(b *testing.B) {
	const goroutines, calls = 16, 2000
	limiter, client := newLimiter(b, devtest.Redis(b).URL)
	limits := []metering.Limit{metering.PerHour(metering.MaxUnits), metering.Concurrent(100)}
	request := func(limits ...metering.Limit) metering.Request {
		r := metering.Request{Tenant: tenant.NewID(), Units: 1}
		for _, l := range limits {
			r.Bounds = append(r.Bounds, metering.Bound{Limit: l})
		}
		return r
	}
	settled := func(r metering.Request, units int64) func(context.Context) error {
		return func(ctx context.Context) error {
			d, err := limiter.Take(ctx, r)
			if err == nil {
				_, err = limiter.Settle(ctx, d, units)
			}
			return err
		}
	}
	plain := request(limits[0])
	kinds := []struct {
		name string
		call func(context.Context) error
	}{
		{"plain", func(ctx context.Context) error { _, err := limiter.Take(ctx, plain); return err }},
		{"refunded", settled(request(limits[0]), 0)},
		{"slot", settled(request(limits...), 1)},
	}
	took, redisTime := make([][]time.Duration, len(kinds)), make([][]time.Duration, len(kinds))
	for b.Loop() {
		for k, kind := range kinds {
			require.NoError(b, client.Do(b.Context(), "config", "resetstat").Err())
			took[k] = append(took[k], round(b, goroutines, calls, kind.call))
			redisTime[k] = append(redisTime[k], scriptTime(b, client)/calls)
		}
	}
	b.ReportMetric(0, "ns/op")
	for k, kind := range kinds {
		b.ReportMetric(calls/median(took[k]).Seconds(), kind.name+"-calls/s")
		b.ReportMetric(float64(median(redisTime[k]).Nanoseconds())/1000, kind.name+"-redis-us")
	}
}

// BenchmarkQuotaLeases is a decision from blocks, how many of them one question
// to Redis serves, and how much of a limit is idle in other processes' hands when
// the first of four is refused.
func BenchmarkQuotaLeases(b *testing.B) {
	const calls, processes = 200_000, 4
	url := devtest.Redis(b).URL
	for _, goroutines := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(goroutines, " goroutines"), func(b *testing.B) {
			limiter, client := newLimiter(b, url)
			leased := lease(b, limiter)
			r := metering.Request{Tenant: tenant.NewID(), Units: 1, Bounds: []metering.Bound{
				{Limit: metering.PerHour(metering.MaxUnits)}, {Limit: metering.PerHour(metering.MaxUnits), Attempts: true},
			}}
			take := func(ctx context.Context) error { _, err := leased.Take(ctx, r); return err }
			round(b, goroutines, calls, take)
			require.NoError(b, client.Do(b.Context(), "config", "resetstat").Err())
			var took []time.Duration
			for b.Loop() {
				took = append(took, round(b, goroutines, calls, take))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(median(took).Nanoseconds())/calls, "decision-ns")
			b.ReportMetric(float64(calls*len(took))/float64(scriptCalls(b, client)), "decisions/question")
		})
	}
	for _, test := range []struct {
		name   string
		limit  metering.Limit
		behind int64
		paced  bool
	}{
		{"", metering.PerHour(10_000), 1, false},
		{", one ahead", metering.PerHour(10_000), 40, false},
		{", paced", metering.Per(30*time.Second, 2_000), 1, true},
	} {
		limit := test.limit.Units
		b.Run(fmt.Sprint("limit ", limit, ", ", processes, " processes", test.name), func(b *testing.B) {
			var idle []float64
			var decisions, questions int64
			_, client := newLimiter(b, url)
			for b.Loop() {
				require.NoError(b, client.Do(b.Context(), "config", "resetstat").Err())
				admitted := useUp(b, url, processes, test.limit, test.behind, test.paced)
				idle = append(idle, 100*float64(limit-admitted)/float64(limit))
				decisions += admitted
				questions += scriptCalls(b, client)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(slices.Max(idle), "most-idle-%")
			b.ReportMetric(float64(decisions)/float64(questions), "decisions/question")
		})
	}
}

// useUp has processes call until the first of them is refused, and returns how many
// calls were admitted by then. Each goroutine of the others makes one call to
// behind of the first. Paced, one of the first makes 50 calls a second, and one of
// the others a call in 600 ms.
func useUp(b *testing.B, url string, processes int, limit metering.Limit, behind int64, paced bool) int64 {
	r := metering.Request{Tenant: tenant.NewID(), Units: 1, Bounds: []metering.Bound{{Limit: limit}}}
	var admitted, ahead atomic.Int64
	var refused atomic.Bool
	var group sync.WaitGroup
	for process := range processes {
		limiter, _ := newLimiter(b, url)
		leased := lease(b, limiter)
		for range 4 {
			group.Go(func() {
				pace := time.NewTicker(20 * time.Millisecond)
				defer pace.Stop()
				if process > 0 {
					pace.Reset(600 * time.Millisecond)
				}
				for calls := int64(0); !refused.Load(); {
					if paced {
						<-pace.C
					}
					if behind > 1 && process > 0 && calls*behind > ahead.Load() {
						runtime.Gosched()
						continue
					}
					d, err := leased.Take(b.Context(), r)
					if err != nil {
						b.Error(err)
					}
					if err != nil || !d.Allowed {
						refused.Store(true)
						return
					}
					admitted.Add(1)
					calls++
					if process == 0 {
						ahead.Add(1)
					}
				}
			})
		}
	}
	group.Wait()
	return admitted.Load()
}

func lease(b *testing.B, limiter metering.Limiter) *metering.Leased {
	leased, err := metering.NewLeased(limiter, nil)
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- leased.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		require.NoError(b, <-ended)
	})
	return leased
}

// round makes calls by so many goroutines.
func round(b *testing.B, goroutines, calls int, call func(context.Context) error) time.Duration {
	var n atomic.Int64
	var group sync.WaitGroup
	start := time.Now()
	for range goroutines {
		group.Go(func() {
			for n.Add(1) <= int64(calls) {
				if err := call(b.Context()); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	return time.Since(start)
}

func median(d []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[len(sorted)/2]
}

// processorTime is what this process, the client, has used so far.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// scriptTime is how long Redis ran scripts since its statistics were reset, and
// scriptCalls how many.
func scriptTime(b *testing.B, client *redis.Client) (total time.Duration) {
	for _, s := range scriptStats(b, client) {
		us, err := strconv.ParseInt(s["usec"], 10, 64)
		require.NoError(b, err)
		total += time.Duration(us) * time.Microsecond
	}
	return total
}

func scriptCalls(b *testing.B, client *redis.Client) (calls int64) {
	for _, s := range scriptStats(b, client) {
		n, err := strconv.ParseInt(s["calls"], 10, 64)
		require.NoError(b, err)
		calls += n
	}
	return max(1, calls)
}

func scriptStats(b *testing.B, client *redis.Client) (stats []map[string]string) {
	info, err := client.InfoMap(context.WithoutCancel(b.Context()), "commandstats").Result()
	require.NoError(b, err)
	for name, line := range info["Commandstats"] {
		if name != "cmdstat_eval" && name != "cmdstat_evalsha" {
			continue
		}
		s := make(map[string]string)
		for field := range strings.SplitSeq(line, ",") {
			key, value, _ := strings.Cut(field, "=")
			s[key] = value
		}
		stats = append(stats, s)
	}
	return stats
}
