package pgbudget_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/pgbudget"
)

// TestColdStorm has many callers ask for a database that nobody has reached
// yet: its configuration is resolved once, its first connection is opened and
// verified alone, and no more are opened than one may have.
//
// Mutations that it saw: no waiting for the first connection; no waiting for
// the configuration.
func TestColdStorm(t *testing.T) {
	t.Parallel()
	var verified, ready atomic.Int64
	var f *fleet
	f = newFleet(t, 1, pgbudget.Options{MaxConnsPerPool: 3,
		AfterConnect: func(context.Context, *pgx.Conn) error {
			ready.Add(1)
			return nil
		},
		Verify: func(context.Context, string, *pgx.Conn) error {
			verified.Add(1)
			if n := f.Stats().Conns; n != 1 {
				return errors.New("others are being opened already")
			}
			return nil
		}})
	everybody := sync.OnceFunc(func() { f.waiting(t, 64) })
	f.slow = everybody
	var callers sync.WaitGroup
	for range 64 {
		callers.Go(func() {
			c, err := f.Acquire(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			_, err = c.Conn().Exec(t.Context(), `select pg_sleep(0.001)`)
			c.Release()
			if err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	require.EqualValues(t, 1, verified.Load())
	require.LessOrEqual(t, f.Stats().Opened, int64(3))
	require.Equal(t, f.Stats().Opened, ready.Load())
	require.LessOrEqual(t, f.asked.Load(), int64(1+3))
}

// mute accepts connections and says nothing, as a server that hangs.
func mute(t testing.TB) (address string, accepted *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	accepted = new(atomic.Int64)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			t.Cleanup(func() { conn.Close() })
		}
	}()
	return listener.Addr().String(), accepted
}

// TestServerDown asks for many databases of a server that hangs. Whoever waited
// for the first attempts gets their error; from then on, one attempt at a time
// occupies one connection, and another server's databases are served.
//
// Mutation that it saw: an attempt for each database.
func TestServerDown(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, pgbudget.Options{MaxConns: 3, OpenTimeout: 2 * time.Second})
	address, accepted := mute(t)
	dead := keys(26)[5:]
	for _, key := range dead {
		f.set(key, "postgres://app:secret@"+address+"/"+key+"?sslmode=disable")
	}
	_, err := f.Acquire(t.Context(), dead[0])
	require.Error(t, err)
	require.EqualValues(t, 1, accepted.Load())

	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for _, key := range dead {
		callers.Go(func() {
			for ctx.Err() == nil {
				if _, err := f.Acquire(ctx, key); err == nil {
					t.Error("acquired")
				}
			}
		})
	}
	require.Eventually(t, func() bool { return accepted.Load() > 1 }, 20*time.Second, time.Millisecond)
	for range 200 {
		c, err := f.Acquire(t.Context(), "a")
		require.NoError(t, err)
		require.LessOrEqual(t, f.Stats().Conns, 2)
		c.Release()
	}
	require.EqualValues(t, 1, f.Stats().Opened)
	stop()
	callers.Wait()

	f.set(dead[1], f.dbs[0].URL)
	require.Eventually(t, func() bool { // the last attempt may be under way
		f.advance(time.Second)
		c, err := f.Acquire(t.Context(), dead[1])
		if err != nil {
			return false
		}
		c.Release()
		return true
	}, 20*time.Second, time.Millisecond)
}

// TestErrorIsEverybodys answers all who wait for a database that refuses, and
// doesn't ask again for a moment; then it does.
func TestErrorIsEverybodys(t *testing.T) {
	t.Parallel()
	var bad atomic.Bool
	bad.Store(true)
	var f *fleet
	var tried atomic.Int64
	f = newFleet(t, 1, pgbudget.Options{Verify: func(context.Context, string, *pgx.Conn) error {
		tried.Add(1)
		if bad.Load() {
			f.waiting(t, 8)
			return errors.New("unsafe")
		}
		return nil
	}})
	failed := make(chan error, 8)
	for range cap(failed) {
		go func() {
			_, err := f.Acquire(t.Context(), "a")
			failed <- err
		}()
	}
	for range cap(failed) {
		require.EqualError(t, <-failed, "unsafe")
	}
	bad.Store(false)
	f.conns(t, 0)
	f.advance(time.Second)
	f.pid(t, "a")
	require.EqualValues(t, 2, tried.Load())
}

// TestRefused resolves anew what the server refuses, and no caller hears of it.
//
// Mutation that it saw: no second attempt.
func TestRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, pgbudget.Options{})
	config := func(_ context.Context, _ string, refused bool) (*pgx.ConnConfig, error) {
		if !refused {
			return pgx.ParseConfig(f.dbs[0].URL + "&dbname=no_such_database")
		}
		return pgx.ParseConfig(f.dbs[0].URL)
	}
	b, err := pgbudget.Open(config, nil)
	require.NoError(t, err)
	defer b.Close()
	c, err := b.Acquire(t.Context(), "a")
	require.NoError(t, err)
	c.Release()

	f.set("lost", f.dbs[0].URL+"&dbname=no_such_database")
	_, err = f.Acquire(t.Context(), "lost")
	refusal, ok := errors.AsType[*pgconn.PgError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, "3D000", refusal.Code)
	require.EqualValues(t, 1, f.denied.Load(), "it was never reached: not a rotation")
}

// TestMoved follows a key to another database: connections to the old one are
// not used any more.
//
// Mutation that it saw: generations that aren't compared.
func TestMoved(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, pgbudget.Options{})
	where := func(c *pgbudget.Conn) (name string) {
		require.NoError(t, c.Conn().QueryRow(t.Context(), `select current_database()`).Scan(&name))
		return name
	}
	old, idle := f.take(t, "a"), f.take(t, "a")
	idle.Release()
	f.set("a", f.dbs[1].URL)
	f.advance(2 * time.Second)
	require.Equal(t, f.dbs[0].Name, where(old))
	again := f.take(t, "a") // an idle one of the old database: nobody knows yet
	next := f.take(t, "a")
	require.Equal(t, f.dbs[1].Name, where(next))
	again.Release()
	old.Release()
	next.Release()
	f.conns(t, 1)
	c := f.take(t, "a")
	defer c.Release()
	require.Equal(t, f.dbs[1].Name, where(c))
}

// TestPanic keeps a resolver that panics from ending the process.
func TestPanic(t *testing.T) {
	t.Parallel()
	b, err := pgbudget.Open(func(context.Context, string, bool) (*pgx.ConnConfig, error) { panic("secret") }, nil)
	require.NoError(t, err)
	defer b.Close()
	_, err = b.Acquire(t.Context(), "a")
	require.EqualError(t, err, "pgbudget: the configuration panicked")
}
