package redisquota_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func newLimiter(t testing.TB, url string) (*redisquota.Limiter, *redis.Client) {
	t.Helper()
	client, err := redisquota.NewClient(url)
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	limiter, err := redisquota.New(client, nil)
	require.NoError(t, err)
	return limiter, client
}

func TestLimiter(t *testing.T) {
	t.Parallel()
	meteringtest.TestLimiter(t, func(t *testing.T) meteringtest.LimiterFixture {
		return askedFixture(four(t, devtest.SharedRedis(t)), 4_000)
	})
}

// Questions that are asked at once are sent together.
func TestPipelinedLimiter(t *testing.T) {
	t.Parallel()
	meteringtest.TestLimiter(t, func(t *testing.T) meteringtest.LimiterFixture {
		_, client := newLimiter(t, devtest.SharedRedis(t))
		limiter, err := redisquota.New(client, &redisquota.Options{PipelineAbove: 1})
		require.NoError(t, err)
		return askedFixture([]*redisquota.Limiter{limiter}, 1_000)
	})
}

// A pipeline that is held up holds up nobody beyond its own time limit, and the
// answers that come late are given back. Mutation seen here: waiting for the
// command instead of the context.
func TestPipelineHeldUp(t *testing.T) {
	t.Parallel()
	server := devtest.Redis(t)
	_, client := newLimiter(t, server.URL)
	limiter, err := redisquota.New(client, &redisquota.Options{PipelineAbove: 1})
	require.NoError(t, err)
	leased := lease(t, limiter, nil)
	r := request(1, metering.PerHour(100))
	left := func() int64 {
		d, err := limiter.Peek(t.Context(), metering.Request{Tenant: r.Tenant, Bounds: r.Bounds})
		require.NoError(t, err)
		return d.Limits[0].Remaining
	}
	require.EqualValues(t, 100, left())
	scripts := server.Scripts()
	server.Freeze()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := leased.Take(ctx, r); !errors.Is(err, context.DeadlineExceeded) {
				t.Error("decided while Redis hung:", err)
			}
		})
	}
	all.Wait()
	// Without what waits in the background: all but one of them are gathered.
	var gaveUp atomic.Int64
	for range 3 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := limiter.Take(ctx, request(1, metering.PerHour(100))); errors.Is(err, context.DeadlineExceeded) {
				gaveUp.Add(1)
			}
		})
	}
	all.Wait()
	require.GreaterOrEqual(t, gaveUp.Load(), int64(2))
	server.Thaw()
	require.Eventually(t, func() bool { return server.Scripts() == scripts+16+3 }, time.Minute, time.Millisecond, "each was taken and given back")
	require.EqualValues(t, 100, left())
}

func TestLeasedLimiter(t *testing.T) {
	t.Parallel()
	meteringtest.TestLimiter(t, func(t *testing.T) meteringtest.LimiterFixture {
		return leasedFixture(t, four(t, devtest.SharedRedis(t)), 4_000)
	})
}

// four returns limiters as four processes have them: with a client each.
func four(t testing.TB, url string) (limiters []*redisquota.Limiter) {
	for range 4 {
		limiter, _ := newLimiter(t, url)
		limiters = append(limiters, limiter)
	}
	return limiters
}

func askedFixture(limiters []*redisquota.Limiter, random int) meteringtest.LimiterFixture {
	f := meteringtest.LimiterFixture{Now: time.Now, Calls: calls(random), Limiter: limiters[0]}
	for _, l := range limiters[1:] {
		f.Others = append(f.Others, l)
	}
	return f
}

// leasedFixture leases of small limits, and for a moment: the windows of the
// random calls are short.
func leasedFixture(t *testing.T, limiters []*redisquota.Limiter, random int) meteringtest.LimiterFixture {
	f := askedFixture(limiters, random)
	f.Lends, f.Late, f.Window = true, 10*time.Millisecond, 720*time.Millisecond
	leaseAll(t, &f)
	return f
}

func leaseAll(t *testing.T, f *meteringtest.LimiterFixture) {
	opts := &metering.LeasedOptions{MinUnits: 1, TTL: f.Late, Now: f.Now}
	f.Limiter = lease(t, f.Limiter, opts)
	for i, l := range f.Others {
		f.Others[i] = lease(t, l, opts)
	}
}

// calls is how many random calls a test makes: the long form has SOAK set.
func calls(short int) int {
	if os.Getenv("SOAK") != "" {
		return 100_000
	}
	return short
}

// newMiniredis has no struct library and a clock that can be moved.
func newMiniredis(t testing.TB) (*redisquota.Limiter, *meteringtest.Clock, *miniredis.Miniredis, func(time.Duration)) {
	server := miniredis.RunT(t)
	clock := meteringtest.NewClock()
	server.SetTime(clock.Now())
	limiter, _ := newLimiter(t, "redis://"+server.Addr())
	return limiter, clock, server, func(d time.Duration) {
		clock.Advance(d)
		server.SetTime(clock.Now())
		server.FastForward(d)
	}
}

func TestLimiterOnMiniredis(t *testing.T) {
	t.Parallel()
	meteringtest.TestLimiter(t, miniredisFixture)
}

func TestLeasedLimiterOnMiniredis(t *testing.T) {
	t.Parallel()
	meteringtest.TestLimiter(t, func(t *testing.T) meteringtest.LimiterFixture {
		f := miniredisFixture(t)
		// The clock must not be hours ahead before a block has been returned.
		f.Lends, f.Late, f.Window = true, 40*time.Millisecond, time.Minute
		leaseAll(t, &f)
		return f
	})
}

func miniredisFixture(t *testing.T) meteringtest.LimiterFixture {
	_, clock, server, advance := newMiniredis(t)
	f := askedFixture(four(t, "redis://"+server.Addr()), 2_000)
	f.Now, f.Advance = clock.Now, advance
	return f
}

func request(units int64, limits ...metering.Limit) metering.Request {
	r := metering.Request{Tenant: tenant.NewID(), Units: units, ID: tenant.NewID().String()}
	for _, l := range limits {
		r.Bounds = append(r.Bounds, metering.Bound{Limit: l})
	}
	return r
}

// A window must not grow with its limit. Mutation seen here: a string that is
// never rewritten grows by 11 bytes with each run of calls.
func TestMemory(t *testing.T) {
	t.Parallel()
	limiter, client := newLimiter(t, devtest.SharedRedis(t))
	const window = 120 * time.Millisecond
	r := request(3, metering.Per(window, 10_000_000))
	r.Receipt = true
	var most int64
	for start := time.Now(); time.Since(start) < 12*window; {
		_, err := limiter.Take(t.Context(), r)
		require.NoError(t, err)
		keys, err := client.Keys(t.Context(), "*").Result()
		require.NoError(t, err)
		if len(keys) == 0 {
			continue
		}
		require.LessOrEqual(t, len(keys), 2) // the window and the tenant's receipts
		var sum int64
		for _, key := range keys {
			size, err := client.MemoryUsage(t.Context(), key).Result()
			if err == nil { // else it has just expired
				sum += size
			}
		}
		most = max(most, sum)
	}
	require.NotZero(t, most)
	require.LessOrEqual(t, most, int64(1_700))
}

// Nor with what is given back: an entry of which nothing is left goes.
//
// Mutation seen here: without that, 3,600 bytes.
func TestMemoryOfRefunds(t *testing.T) {
	t.Parallel()
	limiter, _, server, advance := newMiniredis(t)
	r := request(1, metering.PerDay(50))
	for range 200 {
		var both []metering.Decision
		for range 2 {
			d, err := limiter.Take(t.Context(), r)
			require.NoError(t, err)
			require.True(t, d.Allowed)
			both = append(both, d)
			advance(2 * time.Millisecond)
		}
		for _, d := range both {
			_, err := limiter.Settle(t.Context(), d, 0)
			require.NoError(t, err)
		}
	}
	log, err := server.Get("mcpsaas:{" + r.Tenant.String() + "}:w:86400000")
	require.NoError(t, err)
	require.LessOrEqual(t, len(log), 200)
}

func TestScriptsLost(t *testing.T) {
	t.Parallel()
	server := devtest.Redis(t)
	limiter, client := newLimiter(t, server.URL)
	r := request(1, metering.PerHour(100))
	for range 3 {
		require.NoError(t, client.ScriptFlush(t.Context()).Err())
		d, err := limiter.Take(t.Context(), r)
		require.NoError(t, err)
		require.True(t, d.Allowed)
		require.NoError(t, client.ScriptFlush(t.Context()).Err())
		_, err = limiter.Settle(t.Context(), d, 0)
		require.NoError(t, err)
	}
}

func TestOneRoundTrip(t *testing.T) {
	t.Parallel()
	limiter, client := newLimiter(t, devtest.SharedRedis(t))
	r := request(5, metering.PerHour(100), metering.PerDay(500), metering.PerMinute(50))
	_, err := limiter.Take(t.Context(), r)
	require.NoError(t, err)
	trips := &countHook{}
	client.AddHook(trips)
	_, err = limiter.Take(t.Context(), r)
	require.NoError(t, err)
	require.EqualValues(t, 1, trips.commands.Load())
}

// countHook counts commands, but for those that greet on a new connection.
type countHook struct{ commands atomic.Int64 }

func (h *countHook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h *countHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		switch cmd.Name() {
		case "hello", "client", "select":
		default:
			h.commands.Add(1)
		}
		return next(ctx, cmd)
	}
}
func (h *countHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestForget(t *testing.T) {
	t.Parallel()
	limiter, client := newLimiter(t, devtest.SharedRedis(t))
	kept := request(1, metering.PerHour(100))
	gone := request(1, metering.PerHour(100), metering.PerDay(100), metering.PerMonth(50))
	gone.Bounds[1].Tool = "search"
	gone.Bounds[2].End = time.Now().Add(time.Hour)
	gone.Key, gone.KeyTTL = "key", time.Hour
	for _, r := range []metering.Request{kept, gone} {
		_, err := limiter.Take(t.Context(), r)
		require.NoError(t, err)
	}
	size, err := client.DBSize(t.Context()).Result()
	require.NoError(t, err)
	require.EqualValues(t, 6, size)
	require.NoError(t, limiter.Forget(t.Context(), gone.Tenant))
	keys, err := client.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.Len(t, keys, 1)
	require.Contains(t, keys[0], kept.Tenant.String())
}

func TestReset(t *testing.T) {
	t.Parallel()
	limiter, _ := newLimiter(t, devtest.SharedRedis(t))
	r := request(100, metering.PerHour(100))
	for range 2 {
		d, err := limiter.Take(t.Context(), r)
		require.NoError(t, err)
		require.True(t, d.Allowed)
		require.NoError(t, limiter.Reset(t.Context(), r))
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	server := devtest.Redis(t)
	limiter, client := newLimiter(t, server.URL)
	require.NoError(t, limiter.Check(t.Context()))

	// Redis answers, but takes no writes: each call would fail.
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory", "1").Err())
	require.Error(t, limiter.Check(t.Context()))
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory", "0").Err())
	require.NoError(t, limiter.Check(t.Context()))

	server.Stop()
	require.Error(t, limiter.Check(t.Context()))
	server.Start()
	require.Eventually(t, func() bool { return limiter.Check(t.Context()) == nil }, time.Minute, 10*time.Millisecond)
}

func TestNew(t *testing.T) {
	t.Parallel()
	good, err := redisquota.NewClient("redis://localhost:1")
	require.NoError(t, err)
	defer good.Close()
	defaults := redis.NewClient(&redis.Options{Addr: "localhost:1"})
	defer defaults.Close()
	retries := redis.NewClient(&redis.Options{Addr: "localhost:1", ContextTimeoutEnabled: true})
	defer retries.Close()
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"localhost:1"}, ContextTimeoutEnabled: true, MaxRetries: -1})
	defer cluster.Close()

	tests := map[string]struct {
		client redisquota.Client
		opts   *redisquota.Options
		want   []string // parts of the error; none: no error
	}{
		"good":               {good, nil, nil},
		"cluster":            {cluster, &redisquota.Options{Prefix: "shop"}, nil},
		"no client":          {nil, nil, []string{"client is nil"}},
		"defaults of client": {defaults, nil, []string{"ContextTimeoutEnabled", "MaxRetries"}},
		"client retries":     {retries, nil, []string{"MaxRetries is 3"}},
		"prefix":             {good, &redisquota.Options{Prefix: "a*"}, []string{`Prefix: "a*"`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := redisquota.New(test.client, test.opts)
			if test.want == nil {
				require.NoError(t, err)
				return
			}
			for _, part := range test.want {
				require.ErrorContains(t, err, part)
			}
		})
	}
	_, err = redisquota.NewClient("redis://:s3cret@%zz")
	require.Error(t, err)
	require.NotContains(t, err.Error(), "s3cret")
}

func BenchmarkTake(b *testing.B) {
	limits := map[string][]metering.Limit{
		"1 limit":  {metering.PerHour(metering.MaxUnits)},
		"3 limits": {metering.PerHour(metering.MaxUnits), metering.PerDay(metering.MaxUnits), metering.PerMinute(metering.MaxUnits)},
	}
	for name, limits := range limits {
		b.Run(name, func(b *testing.B) {
			limiter, _ := newLimiter(b, devtest.SharedRedis(b))
			r := request(20, limits...)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := limiter.Take(b.Context(), r); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+" parallel", func(b *testing.B) {
			limiter, _ := newLimiter(b, devtest.SharedRedis(b))
			r := request(20, limits...)
			b.SetParallelism(8)
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := limiter.Take(b.Context(), r); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkLeased(b *testing.B) {
	for _, goroutines := range []int{1, 16, 64} {
		b.Run(strconv.Itoa(goroutines)+" goroutines", func(b *testing.B) {
			limiter, client := newLimiter(b, devtest.SharedRedis(b))
			leased := lease(b, limiter, nil)
			r := request(1, metering.PerHour(metering.MaxUnits), metering.PerHour(metering.MaxUnits))
			r.Bounds[1].Attempts = true
			commands := &countHook{}
			client.AddHook(commands)
			b.SetParallelism(goroutines / runtime.GOMAXPROCS(0))
			if goroutines == 1 {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			}
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if d, err := leased.Take(b.Context(), r); err != nil || !d.Allowed {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/float64(max(1, commands.commands.Load())), "decisions/command")
		})
	}
}

// lease puts local leases before a limiter, and returns what is left of them
// when the test ends.
func lease(t testing.TB, limiter metering.Limiter, opts *metering.LeasedOptions) *metering.Leased {
	t.Helper()
	leased, err := metering.NewLeased(limiter, opts)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- leased.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return leased
}
