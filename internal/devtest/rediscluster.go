package devtest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
)

// RedisPrograms returns the server programs that REDIS_SERVERS lists besides
// the usual one, separated as PATH is: other versions, and forks. None is
// needed.
func RedisPrograms() []string { return filepath.SplitList(os.Getenv("REDIS_SERVERS")) }

// RedisProgram starts the given server program and returns its URL. It ends
// with the test.
func RedisProgram(t testing.TB, program string) (url string) {
	t.Helper()
	return redisProgram(t, program).URL()
}

func redisProgram(t testing.TB, program string, args ...string) *devstack.Redis {
	t.Helper()
	r, err := devstack.StartRedisProgram(t.Context(), program, args...)
	if err != nil {
		unavailable(t, err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("devtest: %v", err)
		}
	})
	return r
}

// RedisCluster starts a Redis Cluster of three primaries, without replicas, and
// returns their addresses once all of them serve. It ends with the test.
func RedisCluster(t testing.TB) (addrs []string) {
	t.Helper()
	const primaries, slots = 3, 16384
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	var clients []*redis.Client
	for range primaries {
		// By default nodes speak with each other on the port plus 10,000, which for
		// many free ports is beyond the last.
		r := redisProgram(t, "", "--cluster-enabled", "yes", "--cluster-node-timeout", "60000", "--cluster-port", freePort(t))
		c := redis.NewClient(&redis.Options{Addr: r.Addr()})
		t.Cleanup(func() { c.Close() })
		addrs, clients = append(addrs, r.Addr()), append(clients, c)
	}
	do := func(c *redis.Client, args ...any) {
		t.Helper()
		if err := c.Do(ctx, args...).Err(); err != nil {
			t.Fatalf("devtest: Redis Cluster: %v", err)
		}
	}
	host, port, _ := strings.Cut(addrs[0], ":")
	bus, err := clients[0].ConfigGet(ctx, "cluster-port").Result()
	if err != nil {
		t.Fatalf("devtest: Redis Cluster: %v", err)
	}
	for i, c := range clients {
		do(c, "cluster", "set-config-epoch", i+1)
		do(c, "cluster", "addslotsrange", i*slots/primaries, (i+1)*slots/primaries-1)
		if i > 0 {
			do(c, "cluster", "meet", host, port, bus["cluster-port"])
		}
	}
	for _, c := range clients {
		for {
			info, err := c.ClusterInfo(ctx).Result()
			if err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3") {
				break
			}
			select {
			case <-ctx.Done():
				t.Fatalf("devtest: Redis Cluster does not form: %v\n%s", err, info)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return addrs
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("devtest: %v", err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}
