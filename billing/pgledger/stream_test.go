package pgledger_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func stream(t testing.TB, url string) *redisquota.Stream {
	t.Helper()
	client, err := redisquota.NewClient(url)
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	s, err := redisquota.NewStream(client, &redisquota.StreamOptions{Budget: time.Minute, ClaimAfter: 100 * time.Millisecond, FlushInterval: time.Millisecond})
	require.NoError(t, err)
	return s
}

// record puts n events of 16 tenants into the stream, and returns their ids.
func record(t testing.TB, s *redisquota.Stream, n int) (ids []string) {
	t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	for range 16 {
		id := tenant.NewID()
		all.Go(func() {
			for range n / 16 {
				e := meteringtest.NewEvent(id)
				if err := s.Record(t.Context(), e); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				ids = append(ids, e.ID)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return ids
}

// TestConsumerKilled: who carries events from Redis to the database is killed
// in the middle of it, several times: all are there, and none twice.
func TestConsumerKilled(t *testing.T) {
	t.Parallel()
	b := setup(t)
	server := devtest.DurableRedis(t)
	s := stream(t, server.URL)
	ids := record(t, s, 10_000)
	stored := func() int {
		var n int
		require.NoError(t, b.pool.QueryRow(t.Context(), `select count(*) from mcpsaas.usage_events`).Scan(&n))
		return n
	}
	for round := range 3 {
		cmd, _ := b.startChild(t, childStream+"="+server.URL)
		require.Eventually(t, func() bool { return stored() > (round+1)*1500 }, time.Minute, time.Millisecond)
		require.NoError(t, cmd.Process.Kill()) // SIGKILL
		cmd.Wait()
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, b.Ledger) }()
	require.NoError(t, s.Flush(t.Context()))
	stop()
	require.NoError(t, <-done)
	b.requireExact(t, ids, 0)
}

// BenchmarkStreamDrain is events per second from Redis into PostgreSQL, 20,000
// at a time.
func BenchmarkStreamDrain(bm *testing.B) {
	const n = 20_000
	b := setup(bm)
	s := stream(bm, devtest.DurableRedis(bm).URL)
	for bm.Loop() {
		bm.StopTimer()
		record(bm, s, n)
		ctx, stop := context.WithCancel(bm.Context())
		done := make(chan error, 1)
		bm.StartTimer()
		go func() { done <- s.Run(ctx, b.Ledger) }()
		require.NoError(bm, s.Flush(bm.Context()))
		bm.StopTimer()
		stop()
		require.NoError(bm, <-done)
		bm.StartTimer()
	}
	bm.ReportMetric(float64(n*bm.N)/bm.Elapsed().Seconds(), "events/s")
}
