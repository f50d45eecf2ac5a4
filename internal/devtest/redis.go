package devtest

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
)

// RedisServer is a real redis-server of one test's own. Each switch returns
// when it has taken effect, and fails the test if it can't. They must not be
// used concurrently.
type RedisServer struct {
	// Addr is host and port; it stays the same over Stop and Start.
	Addr string

	// URL is Addr as go-redis' ParseURL takes it.
	URL string

	t testing.TB
	r *devstack.Redis
}

// Redis starts a server that keeps its data in memory and loses it when it
// stops. It ends with the test.
func Redis(t testing.TB) *RedisServer {
	t.Helper()
	return startRedis(t, false)
}

// DurableRedis starts a server that hands every command to the operating
// system before it answers (appendonly), so that data survives Stop and Kill.
func DurableRedis(t testing.TB) *RedisServer {
	t.Helper()
	return startRedis(t, true)
}

func startRedis(t testing.TB, durable bool) *RedisServer {
	t.Helper()
	r, err := devstack.StartRedis(t.Context(), durable)
	if err != nil {
		unavailable(t, err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("devtest: %v", err)
		}
	})
	return &RedisServer{Addr: r.Addr(), URL: r.URL(), t: t, r: r}
}

// Stop ends the server: connections are refused until Start.
func (s *RedisServer) Stop() { s.t.Helper(); s.check(s.r.Stop()) }

// Kill ends the server as a crash would.
func (s *RedisServer) Kill() { s.t.Helper(); s.check(s.r.Kill()) }

// Start starts the server again, on the same port.
func (s *RedisServer) Start() { s.t.Helper(); s.check(s.r.Start(s.t.Context())) }

// Freeze makes the server hang: connections are accepted, nothing answers.
func (s *RedisServer) Freeze() { s.t.Helper(); s.check(s.r.Freeze()) }

// Thaw ends Freeze.
func (s *RedisServer) Thaw() { s.t.Helper(); s.check(s.r.Thaw()) }

func (s *RedisServer) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("devtest: %v", err)
	}
}

// SharedRedis returns the URL of a database of the test's own on a server that
// all tests of the process share: cheaper than a server of its own, for tests
// that need no outage. Commands that reach the whole server (FLUSHALL, SCRIPT
// FLUSH, CONFIG SET) are not for it. At most 1000 tests of a process can have
// one.
func SharedRedis(t testing.TB) string {
	t.Helper()
	r, err := sharedRedis()
	if err != nil {
		unavailable(t, err)
	}
	return r.DatabaseURL(int(databases.Add(1)))
}

var databases atomic.Int64

// sharedRedis starts the server when it is first asked for. Nothing stops it:
// devstack ends it with the process.
var sharedRedis = sync.OnceValues(func() (*devstack.Redis, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	return devstack.StartRedis(ctx, false)
})

// Scripts returns how many scripts the server has run to their end.
func (s *RedisServer) Scripts() (ran int) {
	s.t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	defer c.Close()
	info, err := c.InfoMap(s.t.Context(), "commandstats").Result()
	s.check(err)
	for _, name := range []string{"cmdstat_eval", "cmdstat_evalsha"} {
		for field := range strings.SplitSeq(info["Commandstats"][name], ",") {
			key, value, _ := strings.Cut(field, "=")
			n, _ := strconv.Atoi(value)
			switch key {
			case "calls":
				ran += n
			case "failed_calls": // which don't know the script, for instance
				ran -= n
			}
		}
	}
	return ran
}
