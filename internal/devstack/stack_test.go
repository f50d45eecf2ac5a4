//go:build linux || darwin

package devstack_test

import (
	"context"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
)

func start(t *testing.T, opts devstack.Options) *devstack.Stack {
	t.Helper()
	stack, err := devstack.Start(t.Context(), opts)
	skipMissing(t, err)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, stack.Close(context.Background())) })
	return stack
}

// skipMissing skips a test on a developer's machine that lacks the programs.
func skipMissing(t *testing.T, err error) {
	t.Helper()
	if missing, ok := err.(*devstack.MissingError); ok && os.Getenv("CI") == "" {
		t.Skip(missing)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func redisClient(t *testing.T, url string) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(url)
	require.NoError(t, err)
	client := redis.NewClient(opts)
	t.Cleanup(func() { client.Close() })
	return client
}

func TestStart(t *testing.T) {
	t.Parallel()
	stack := start(t, devstack.Options{Postgres: true, Redis: true, Fast: true})

	var user, owner string
	var super, createRole, createDB, bypass bool
	require.NoError(t, connect(t, stack.DatabaseURL).QueryRow(t.Context(), `
select current_user, d.datdba::regrole, r.rolsuper, r.rolcreaterole, r.rolcreatedb, r.rolbypassrls
from pg_roles r, pg_database d
where r.rolname = current_user and d.datname = current_database()`,
	).Scan(&user, &owner, &super, &createRole, &createDB, &bypass))
	require.Equal(t, devstack.OwnerRole, user)
	require.Equal(t, devstack.OwnerRole, owner)
	require.False(t, super)
	require.False(t, bypass)
	require.True(t, createRole)
	require.True(t, createDB)

	admin := connect(t, stack.SuperuserURL)
	_, err := admin.Exec(t.Context(), `create role `+devstack.AppRole+` login`)
	require.NoError(t, err)
	require.NoError(t, connect(t, stack.AppDatabaseURL).QueryRow(t.Context(), `select current_user`).Scan(&user))
	require.Equal(t, devstack.AppRole, user)

	var tcp, socket string
	require.NoError(t, admin.QueryRow(t.Context(),
		`select current_setting('listen_addresses'), current_setting('unix_socket_directories')`).Scan(&tcp, &socket))
	require.Equal(t, "127.0.0.1", tcp)
	info, err := os.Stat(socket)
	require.NoError(t, err)
	require.Zero(t, info.Mode().Perm()&0o077, "only the server's user reaches its files")

	pong, err := redisClient(t, stack.RedisURL).Ping(t.Context()).Result()
	require.NoError(t, err)
	require.Equal(t, "PONG", pong)
	require.Empty(t, stack.Banner)
}

func TestStartOnlyWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	stack := start(t, devstack.Options{Redis: true, Fast: true})
	require.Empty(t, stack.DatabaseURL)
	require.Empty(t, stack.AppDatabaseURL)
	require.Empty(t, stack.SuperuserURL)
	require.NotEmpty(t, stack.RedisURL)
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	stack, err := devstack.Start(t.Context(), devstack.Options{Postgres: true, Redis: true, Fast: true})
	skipMissing(t, err)
	require.NoError(t, err)
	dir, guard := stack.Workspace()
	servers := pids(t, dir)
	require.Len(t, servers, 2)

	require.NoError(t, stack.Close(t.Context()))
	require.NoDirExists(t, dir)
	for _, pid := range append(servers, guard) {
		require.Empty(t, devstack.StartTime(pid), "process %d is left", pid)
	}
	for _, raw := range []string{stack.DatabaseURL, stack.RedisURL} {
		u, err := url.Parse(raw)
		require.NoError(t, err)
		_, err = net.DialTimeout("tcp", u.Host, time.Second)
		require.Error(t, err)
	}
	require.NoError(t, stack.Close(t.Context()), "a second time")
}

// TestDirKeeps shows that a stack finds its data again, and that two can't
// have it at once.
func TestDirKeeps(t *testing.T) {
	t.Parallel()
	opts := devstack.Options{Dir: filepath.Join(shortDir(t), "stack"), Postgres: true, Redis: true}
	stack, err := devstack.Start(t.Context(), opts)
	skipMissing(t, err)
	require.NoError(t, err)
	_, err = connect(t, stack.DatabaseURL).Exec(t.Context(), `create table kept as select 7 as n`)
	require.NoError(t, err)
	require.NoError(t, redisClient(t, stack.RedisURL).Set(t.Context(), "kept", 7, 0).Err())

	hurried, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = devstack.Start(hurried, opts)
	require.ErrorContains(t, err, "another process is using it")

	require.NoError(t, stack.Close(t.Context()))
	stack = start(t, opts)
	var n int
	require.NoError(t, connect(t, stack.DatabaseURL).QueryRow(t.Context(), `select n from kept`).Scan(&n))
	require.Equal(t, 7, n)
	n, err = redisClient(t, stack.RedisURL).Get(t.Context(), "kept").Int()
	require.NoError(t, err)
	require.Equal(t, 7, n)
}

func TestDirTooLongForSocket(t *testing.T) {
	t.Parallel()
	stack := start(t, devstack.Options{Dir: filepath.Join(shortDir(t), strings.Repeat("long", 30)), Postgres: true, Fast: true})
	require.NoError(t, connect(t, stack.DatabaseURL).Ping(t.Context()))
}

func TestDirOutOfReach(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	require.NoError(t, os.Chmod(dir, 0o700))
	if os.Geteuid() != 0 { // servers run as the user who starts them, whose it is
		start(t, devstack.Options{Dir: filepath.Join(dir, "stack"), Postgres: true})
		return
	}
	_, err := devstack.Start(t.Context(), devstack.Options{Dir: filepath.Join(dir, "stack"), Postgres: true})
	require.ErrorContains(t, err, "can't reach it")
}

// TestStartAtOnce has many start, sweep and stop at the same time: none may
// take another's directory for a dead one's.
func TestStartAtOnce(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3 {
				r, err := devstack.StartRedis(t.Context(), false)
				if _, ok := err.(*devstack.MissingError); ok && os.Getenv("CI") == "" {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				if err := redisClient(t, r.URL()).Ping(t.Context()).Err(); err != nil {
					t.Error(err)
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestForgottenHandle shows that servers outlive the handle of a starter that
// keeps only their URL. Caught: a process that doesn't keep its workspace from
// the collector, whose finalizers then let the guard end the servers.
func TestForgottenHandle(t *testing.T) {
	t.Parallel()
	stop, addr := forgotten(t)
	require.Never(t, func() bool {
		runtime.GC()
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, 500*time.Millisecond, 20*time.Millisecond)
	stop()
}

// forgotten starts a server whose handle nobody has when it returns.
func forgotten(t *testing.T) (stop func(), addr string) {
	r, err := devstack.StartRedis(t.Context(), false)
	skipMissing(t, err)
	require.NoError(t, err)
	client := redisClient(t, r.URL())
	return func() { client.ShutdownNoSave(context.Background()) }, r.Addr()
}

func TestStartCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := devstack.Start(ctx, devstack.Options{Postgres: true, Fast: true})
	require.Error(t, err)
}

func TestRedisStandIn(t *testing.T) {
	t.Setenv("PATH", "")
	stack := start(t, devstack.Options{Redis: true})
	require.NoError(t, redisClient(t, stack.RedisURL).Ping(t.Context()).Err())
	require.Len(t, stack.Banner, 1)
	require.Contains(t, stack.Banner[0], "in-memory stand-in")
	require.Contains(t, stack.Banner[0], "install")
}
