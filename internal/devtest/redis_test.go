package devtest_test

import (
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
)

// impatient returns a client that doesn't hide an outage behind retries.
func impatient(t *testing.T, url string) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(url)
	require.NoError(t, err)
	opts.MaxRetries = -1
	opts.DialerRetries = 1
	opts.ReadTimeout = 200 * time.Millisecond
	client := redis.NewClient(opts)
	t.Cleanup(func() { client.Close() })
	return client
}

func TestRedisSwitches(t *testing.T) {
	t.Parallel()
	server := devtest.Redis(t)
	client := impatient(t, server.URL)
	ctx := t.Context()
	require.NoError(t, client.Set(ctx, "k", 1, 0).Err())

	server.Freeze()
	require.ErrorIs(t, client.Ping(ctx).Err(), os.ErrDeadlineExceeded)
	server.Thaw()
	require.NoError(t, client.Ping(ctx).Err())

	server.Stop()
	require.ErrorContains(t, client.Ping(ctx).Err(), "refused")
	server.Stop() // again does nothing
	server.Start()
	require.NoError(t, client.Ping(ctx).Err(), "the same address")
	require.ErrorIs(t, client.Get(ctx, "k").Err(), redis.Nil, "it kept nothing")

	server.Freeze()
	server.Stop() // also when frozen
	server.Start()
	require.NoError(t, client.Ping(ctx).Err())
}

func TestDurableRedis(t *testing.T) {
	t.Parallel()
	server := devtest.DurableRedis(t)
	client := impatient(t, server.URL)
	for i := range 3 {
		n, err := client.Incr(t.Context(), "k").Result()
		require.NoError(t, err)
		require.EqualValues(t, i+1, n)
		server.Kill()
		server.Start()
	}
}

func TestSharedRedis(t *testing.T) {
	t.Parallel()
	one, two := devtest.SharedRedis(t), devtest.SharedRedis(t)
	require.NotEqual(t, one, two)
	require.NoError(t, impatient(t, one).Set(t.Context(), "k", 1, 0).Err())
	require.ErrorIs(t, impatient(t, two).Get(t.Context(), "k").Err(), redis.Nil)
}

// TestMissing shows what a test does without the programs. Caught: a skip
// with CI set, a failure without.
func TestMissing(t *testing.T) {
	t.Setenv("PATH", "")
	for ci, want := range map[string]string{"": "skipped", "true": "failed"} {
		t.Setenv("CI", ci)
		r := &recorder{TB: t}
		r.run(func() { devtest.Redis(r) })
		require.Equal(t, want == "skipped", r.skipped)
		require.Equal(t, want == "failed", r.failed)
		require.Contains(t, r.said, "redis-server", "the line to type")
	}
}
