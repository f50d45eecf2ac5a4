package redisquota_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func newStream(t testing.TB, url string, opts *redisquota.StreamOptions) (*redisquota.Stream, *redis.Client) {
	t.Helper()
	client, err := redisquota.NewClient(url)
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	if opts == nil {
		opts = &redisquota.StreamOptions{}
	}
	if opts.FlushInterval == 0 {
		opts.FlushInterval = time.Millisecond
	}
	if opts.Budget == 0 {
		opts.Budget = time.Minute // a busy machine is no outage
	}
	s, err := redisquota.NewStream(client, opts)
	require.NoError(t, err)
	return s, client
}

// drain runs the stream until the test ends, or until stop is called.
func drain(t testing.TB, s *redisquota.Stream, store usage.Store) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, store) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(t, <-done)
		})
	}
	t.Cleanup(stop)
	return stop
}

func recordStream(t testing.TB, s *redisquota.Stream, n int) []string {
	t.Helper()
	ids := make([]string, n)
	for i := range ids {
		e := meteringtest.NewEvent(tenant.NewID())
		require.NoError(t, s.Record(t.Context(), e))
		ids[i] = e.ID
	}
	return ids
}

func idsOf(events []usage.Event) []string {
	ids := make([]string, len(events))
	for i, e := range events {
		ids[i] = e.ID
	}
	return ids
}

// waiting is how many entries the streams hold.
func waiting(t testing.TB, client *redis.Client) (n int64) {
	t.Helper()
	keys, err := client.Keys(t.Context(), "mcpsaas:{usage-*}:events").Result()
	require.NoError(t, err)
	for _, key := range keys {
		n += client.XLen(t.Context(), key).Val()
	}
	return n
}

func TestStreamIsASink(t *testing.T) {
	t.Parallel()
	url := devtest.DurableRedis(t).URL
	meteringtest.TestSink(t, func(t *testing.T) meteringtest.SinkFixture {
		s, client := newStream(t, url, nil)
		store := &meteringtest.Store{}
		drain(t, s, store)
		return meteringtest.SinkFixture{Sink: s, Events: func() []usage.Event {
			require.NoError(t, s.Flush(t.Context()))
			require.Zero(t, waiting(t, client), "what is stored is forgotten")
			return store.Events()
		}}
	})
}

// Mutation seen here: without the question, Record took events that the Redis
// would have lost.
func TestStreamClaimsNoDurability(t *testing.T) {
	t.Parallel()
	server := devtest.Redis(t)
	clock := meteringtest.NewClock()
	s, client := newStream(t, server.URL, &redisquota.StreamOptions{Now: clock.Now, AssumeDurable: true})
	e := meteringtest.NewEvent(tenant.NewID())
	require.ErrorIs(t, s.Record(t.Context(), e), redisquota.ErrNotDurable, "Redis tells, and is believed")
	require.ErrorIs(t, s.Check(t.Context()), redisquota.ErrNotDurable)
	require.Zero(t, waiting(t, client))

	require.NoError(t, client.ConfigSet(t.Context(), "appendonly", "yes").Err())
	clock.Advance(2 * time.Second)
	require.Eventually(t, func() bool { return s.Ready(t.Context()) == nil }, time.Minute, time.Millisecond, "it has looked again")
	require.NoError(t, s.Record(t.Context(), e))

	// A managed Redis that doesn't tell.
	require.NoError(t, client.Do(t.Context(), "ACL", "SETUSER", "default", "-config").Err())
	s, _ = newStream(t, server.URL, nil)
	require.ErrorIs(t, s.Record(t.Context(), e), redisquota.ErrNotDurable)
	s, _ = newStream(t, server.URL, &redisquota.StreamOptions{AssumeDurable: true})
	require.NoError(t, s.Record(t.Context(), e))
}

// Redis is killed again and again under load: what Record has acknowledged is
// stored, and what it has refused is not. What was in doubt may come more than once:
// that it is stored once is up to the store. With appendfsync everysec an event was
// once lost on a busy machine: it was acknowledged while Redis put its writes off.
//
// Mutations seen here: an event in doubt that Record refuses is stored all the same;
// one that it takes and does not send again is lost.
func TestStreamRedisKilled(t *testing.T) {
	t.Parallel()
	server := devtest.DurableRedis(t)
	s, _ := newStream(t, server.URL, nil)
	var mu sync.Mutex
	acknowledged, refused := make(map[string]bool), make(map[string]bool)
	stop := make(chan struct{})
	var recording sync.WaitGroup
	for range 32 {
		recording.Go(func() {
			id := tenant.NewID()
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				e := meteringtest.NewEvent(id)
				said := acknowledged
				if s.Record(context.Background(), e) != nil {
					said = refused
				}
				mu.Lock()
				said[e.ID] = true
				mu.Unlock()
			}
		})
	}
	for round := 1; round <= 4; round++ {
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(acknowledged) >= round*2500
		}, time.Minute, time.Millisecond)
		server.Kill()
		server.Start()
	}
	close(stop)
	recording.Wait()
	require.GreaterOrEqual(t, len(acknowledged), 10_000)

	store := &meteringtest.Store{}
	drain(t, s, store)
	require.Eventually(t, func() bool { return s.Flush(t.Context()) == nil }, time.Minute, 10*time.Millisecond, "the client has to find Redis again")
	stored := make(map[string]bool)
	for _, e := range store.Events() {
		require.False(t, refused[e.ID], "event %s was refused and is billed", e.ID)
		stored[e.ID] = true
	}
	for id := range acknowledged {
		require.True(t, stored[id], "event %s was acknowledged and is lost", id)
	}
	require.NoError(t, s.Check(t.Context()))
	t.Logf("%d stored, %d refused, %d came again", len(stored), len(refused), store.Repeated())
}

// A store that fails keeps events in Redis, those that were read too; another
// process takes these over.
//
// Mutations seen here: with entries acknowledged, or trimmed, before Append,
// they are gone when it fails; without XAUTOCLAIM those of the first consumer
// stay for ever.
func TestStreamStoreFails(t *testing.T) {
	t.Parallel()
	server := devtest.DurableRedis(t)
	opts := redisquota.StreamOptions{ClaimAfter: 50 * time.Millisecond, BatchEvents: 7}
	first, client := newStream(t, server.URL, &opts)
	ids := recordStream(t, first, 100)
	tried := make(chan struct{}, 1)
	stop := drain(t, first, usage.StoreFunc(func(context.Context, []usage.Event) (int, error) {
		select {
		case tried <- struct{}{}:
		default:
		}
		return 0, errors.New("database is away")
	}))
	<-tried
	stop()
	require.EqualValues(t, 100, waiting(t, client))

	more := recordStream(t, first, 100)
	second, _ := newStream(t, server.URL, &opts)
	store := &meteringtest.Store{}
	drain(t, second, store)
	require.Eventually(t, func() bool { return waiting(t, client) == 0 }, time.Minute, 5*time.Millisecond)
	require.ElementsMatch(t, append(ids, more...), idsOf(store.Events()))
	require.NoError(t, second.Check(t.Context()))
}

// Two read the same streams, one dies in the middle of a batch that the store
// has taken: nothing that waits is trimmed, and all is stored once.
//
// Mutation seen here: trimmed up to the last entry of a batch, whatever is
// pending, what the other had read was lost when that died.
func TestStreamTrimsOnlyWhatIsStored(t *testing.T) {
	t.Parallel()
	server := devtest.DurableRedis(t)
	opts := redisquota.StreamOptions{ClaimAfter: 50 * time.Millisecond, BatchEvents: 10, Shards: 1}
	dying, client := newStream(t, server.URL, &opts)
	ids := recordStream(t, dying, 30)
	holds, release := make(chan []usage.Event, 1), make(chan struct{})
	stop := drain(t, dying, usage.StoreFunc(func(ctx context.Context, events []usage.Event) (int, error) {
		select {
		case holds <- events:
		default:
		}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return 0, errors.New("died")
	}))
	held := <-holds
	slow := opts
	slow.ClaimAfter = time.Hour // does not take over
	second, _ := newStream(t, server.URL, &slow)
	store := &meteringtest.Store{}
	stopSecond := drain(t, second, store)
	require.Eventually(t, func() bool { return store.Len() == 20 }, time.Minute, time.Millisecond)
	stopSecond()
	// The first ten stand at the front and keep the others from being trimmed.
	require.EqualValues(t, 30, waiting(t, client))
	close(release)
	stop()
	third, _ := newStream(t, server.URL, &opts)
	drain(t, third, store)
	require.Eventually(t, func() bool { return waiting(t, client) == 0 }, time.Minute, time.Millisecond)
	require.ElementsMatch(t, ids, idsOf(store.Events()))
	require.Len(t, held, 10)
	require.Zero(t, store.Repeated())
}

func TestStreamAlarms(t *testing.T) {
	t.Parallel()
	server := devtest.DurableRedis(t)
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	s, client := newStream(t, server.URL, &redisquota.StreamOptions{MaxEvents: 10, Shards: 2, Now: now})
	require.NoError(t, s.Check(t.Context()))
	var degraded interface{ HealthDegraded() bool }
	recordStream(t, s, 8)
	require.ErrorAs(t, s.Check(t.Context()), &degraded)
	recordStream(t, s, 2)
	require.ErrorIs(t, s.Record(t.Context(), meteringtest.NewEvent(tenant.NewID())), redisquota.ErrStreamFull)
	err := s.Check(t.Context())
	require.ErrorContains(t, err, "10 of 10 events wait")
	require.False(t, errors.As(err, &degraded))
	ahead.Store(int64(3 * time.Minute))
	require.ErrorContains(t, s.Check(t.Context()), "the oldest for 3m")

	// Something that isn't ours holds up nothing and is kept.
	require.NoError(t, client.XAdd(t.Context(), &redis.XAddArgs{Stream: "mcpsaas:{usage-1}:events", Values: []any{"x", "y"}}).Err())
	store := &meteringtest.Store{}
	drain(t, s, store)
	require.NoError(t, s.Flush(t.Context()))
	require.Equal(t, 10, store.Len())
	require.ErrorContains(t, s.Check(t.Context()), "1 entries can't be read, they are in mcpsaas:{usage-1}:events:bad")
	require.NoError(t, client.Del(t.Context(), "mcpsaas:{usage-1}:events:bad").Err())
	require.NoError(t, s.Check(t.Context()))
	recordStream(t, s, 1) // there is room again

	server.Stop()
	require.Error(t, s.Check(t.Context()))
	require.Error(t, s.Record(t.Context(), meteringtest.NewEvent(tenant.NewID())))
}

func TestStreamOptions(t *testing.T) {
	t.Parallel()
	client, err := redisquota.NewClient("redis://localhost:1")
	require.NoError(t, err)
	defer client.Close()
	for want, opts := range map[string]redisquota.StreamOptions{
		"Shards": {Shards: -1}, "MaxEvents": {MaxEvents: -1}, "BatchEvents": {BatchEvents: -1},
		"ClaimAfter": {ClaimAfter: -1}, "Budget": {Budget: -1}, "Prefix": {Prefix: "a{"},
	} {
		_, err := redisquota.NewStream(client, &opts)
		require.ErrorContains(t, err, want)
	}
	_, err = redisquota.NewStream(nil, nil)
	require.ErrorContains(t, err, "client is nil")
	defaults := redis.NewClient(&redis.Options{Addr: "localhost:1"})
	defer defaults.Close()
	_, err = redisquota.NewStream(defaults, nil)
	require.ErrorContains(t, err, "ContextTimeoutEnabled")
}

func BenchmarkStream(b *testing.B) {
	server := devtest.DurableRedis(b)
	s, client := newStream(b, server.URL, nil)
	e := meteringtest.NewEvent(tenant.NewID())
	b.Run("record", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := s.Record(b.Context(), e); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("record parallel", func(b *testing.B) {
		b.SetParallelism(8)
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if err := s.Record(b.Context(), e); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
	b.Run("drain", func(b *testing.B) {
		require.NoError(b, client.FlushDB(b.Context()).Err())
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				e := meteringtest.NewEvent(tenant.NewID())
				for range b.N/16 + i/15*(b.N%16) {
					if err := s.Record(b.Context(), e); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		b.ResetTimer()
		drain(b, s, usage.StoreFunc(func(_ context.Context, e []usage.Event) (int, error) { return len(e), nil }))
		require.NoError(b, s.Flush(b.Context()))
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	})
}

// In a Redis Cluster the shards are spread, and each primary is asked whether
// it keeps its data.
func TestStreamOnCluster(t *testing.T) {
	t.Parallel()
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: devtest.RedisCluster(t), ContextTimeoutEnabled: true, MaxRetries: -1, ReadTimeout: 10 * time.Second,
	})
	t.Cleanup(func() { client.Close() })
	s, err := redisquota.NewStream(client, &redisquota.StreamOptions{Budget: time.Minute, FlushInterval: time.Millisecond})
	require.NoError(t, err)
	require.ErrorIs(t, s.Check(t.Context()), redisquota.ErrNotDurable)
	var primaries atomic.Int64
	require.NoError(t, client.ForEachMaster(t.Context(), func(ctx context.Context, c *redis.Client) error {
		primaries.Add(1)
		return c.ConfigSet(ctx, "appendonly", "yes").Err()
	}))
	require.EqualValues(t, 3, primaries.Load())
	require.NoError(t, s.Check(t.Context()))
	ids := recordStream(t, s, 200)
	var holding atomic.Int64
	require.NoError(t, client.ForEachMaster(t.Context(), func(ctx context.Context, c *redis.Client) error {
		if waiting(t, c) > 0 {
			holding.Add(1)
		}
		return nil
	}))
	require.EqualValues(t, 3, holding.Load())
	store := &meteringtest.Store{}
	drain(t, s, store)
	require.NoError(t, s.Flush(t.Context()))
	require.ElementsMatch(t, ids, idsOf(store.Events()))
}
