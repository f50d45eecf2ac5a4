package pgbudget_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/internal/pgbudget"
)

// TestReplacesTheDead ends every backend of a database: the next callers get
// others, and no error.
//
// Mutation that it saw: no question whether an idle connection is alive.
func TestReplacesTheDead(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, pgbudget.Options{})
	var held []*pgbudget.Conn
	for range 4 {
		held = append(held, f.take(t, "a"))
	}
	for _, c := range held {
		c.Release()
	}
	f.dbs[0].Stop(t)
	f.dbs[0].Start(t)
	f.advance(2 * time.Second)
	for range 4 {
		c := f.take(t, "a")
		defer c.Release()
		require.NoError(t, c.Conn().Ping(t.Context()))
	}
}

// TestClosesTheUnfit gives back connections in every state in which nobody else
// may have them.
//
// Mutation that it saw: each of the conditions left out.
func TestClosesTheUnfit(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, c *pgbudget.Conn){
		"in a transaction": func(t *testing.T, c *pgbudget.Conn) {
			_, err := c.Conn().Exec(t.Context(), `begin`)
			require.NoError(t, err)
		},
		"busy": func(t *testing.T, c *pgbudget.Conn) {
			_, err := c.Conn().Query(t.Context(), `select generate_series(1, 100000000)`)
			require.NoError(t, err)
		},
		"broken": func(t *testing.T, c *pgbudget.Conn) {
			_, err := c.Conn().Exec(t.Context(), `select pg_terminate_backend(pg_backend_pid())`)
			require.Error(t, err)
		},
		"cancelled": func(t *testing.T, c *pgbudget.Conn) {
			ctx, cancel := context.WithCancel(t.Context())
			elsewhere := c.Conn().Config()
			elsewhere.Database = "postgres"
			watcher, err := pgx.ConnectConfig(t.Context(), elsewhere)
			require.NoError(t, err)
			go func() { // a statement that hasn't begun can't be cancelled
				defer watcher.Close(context.Background())
				for begun := false; !begun && err == nil; {
					err = watcher.QueryRow(context.Background(),
						`select exists (select from pg_stat_activity where pid = $1 and wait_event = 'PgSleep')`, c.Conn().PgConn().PID()).Scan(&begun)
				}
				cancel()
			}()
			_, execErr := c.Conn().Exec(ctx, `select pg_sleep(60)`)
			require.Error(t, execErr)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 1, pgbudget.Options{MaxConns: 1})
			c := f.take(t, "a")
			pid := c.Conn().PgConn().PID()
			spoil(t, c)
			c.Release()
			fresh := f.take(t, "a")
			defer fresh.Release()
			require.NotEqual(t, pid, fresh.Conn().PgConn().PID())
			require.Equal(t, byte('I'), fresh.Conn().PgConn().TxStatus())
			require.Equal(t, 1, f.backends(t, superuser(t, f.dbs[0])), "the server has closed the other")
		})
	}
}

// TestSweep lets time pass.
func TestSweep(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, pgbudget.Options{MaxPools: 2})
	held := f.take(t, "a")
	f.pid(t, "b")
	f.advance(6 * time.Minute) // idle for too long
	f.Sweep()
	f.conns(t, 1)
	require.Equal(t, 2, f.Stats().Pools)

	f.pid(t, "c") // one pool too many, and a is in use
	require.Equal(t, 2, f.Stats().Pools)
	require.EqualValues(t, 1, f.Stats().Dropped)
	require.NoError(t, held.Conn().Ping(t.Context()))

	f.advance(31 * time.Minute)
	f.Sweep()
	f.conns(t, 1)
	require.Equal(t, 1, f.Stats().Pools, "a is in use")
	pid := held.Conn().PgConn().PID()
	held.Release()
	require.Equal(t, pid, f.pid(t, "a"))

	f.advance(90 * time.Minute)
	require.NotEqual(t, pid, f.pid(t, "a"), "it has lived for long enough")
	f.conns(t, 1) // one that is being closed keeps its pool
	f.advance(2 * time.Hour)
	f.Sweep()
	f.conns(t, 0)
	require.Zero(t, f.Stats().Pools)
}

// TestManyInUse goes over the bound of pools, because all are in use, and comes
// back to it.
func TestManyInUse(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, pgbudget.Options{MaxPools: 1})
	a, b := f.take(t, "a"), f.take(t, "b")
	require.Equal(t, 2, f.Stats().Pools)
	a.Release()
	b.Release()
	f.Sweep()
	require.Equal(t, 1, f.Stats().Pools)
	f.conns(t, 1)
}

// TestBudgetHolds has 48 callers of 6 databases by 200 keys share 8
// connections, and give some of them back in a bad state: there is no failed
// call, and the server never has more connections than that.
//
// Mutations that it saw: no look at the budget; a slot that is freed before its
// connection is closed, though not in every run.
func TestBudgetHolds(t *testing.T) {
	t.Parallel()
	const budget, callers, calls = 8, 48, 25
	f := newFleet(t, 6, pgbudget.Options{MaxConns: budget, MaxConnsPerPool: 3, MaxPools: 20})
	for i := range 200 {
		f.set(fmt.Sprint("key", i), f.dbs[i%len(f.dbs)].URL)
	}
	watcher := superuser(t, f.dbs[0])
	ctx, stop := context.WithCancel(t.Context())
	var most int
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for ctx.Err() == nil {
			most = max(most, f.backends(t, watcher))
		}
	}()
	var wait sync.WaitGroup
	for range callers {
		wait.Go(func() {
			for range calls {
				key := fmt.Sprint("key", rand.N(200))
				if rand.N(2) == 0 {
					key = "key0" // a busy one
				}
				c, err := f.Acquire(t.Context(), key)
				if err != nil {
					t.Error(err)
					return
				}
				sql := `select 1`
				if rand.N(20) == 0 {
					sql = `begin`
				}
				if _, err := c.Conn().Exec(t.Context(), sql); err != nil {
					t.Error(err)
				}
				c.Release()
			}
		})
	}
	wait.Wait()
	stop()
	<-watched
	s := f.Stats()
	require.LessOrEqual(t, most, budget)
	require.Greater(t, most, budget/2)
	require.Zero(t, s.Waiting+s.InUse)
	require.Zero(t, s.Refused)
}

// TestClose waits for what is in use, refuses those who wait, and leaves no
// goroutine.
//
// Mutation that it saw: a Close that doesn't wait.
func TestClose(t *testing.T) {
	db := devtest.DB(t, empty)
	devtest.NoLeaks(t)
	f := newFleet(t, 1, pgbudget.Options{MaxConns: 1})
	f.set("a", db.URL)
	held := f.take(t, "a")
	refused := make(chan error, 1)
	go func() {
		_, err := f.Acquire(t.Context(), "a")
		refused <- err
	}()
	f.waiting(t, 1)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		f.Close()
	}()
	require.ErrorIs(t, <-refused, pgbudget.ErrClosed)
	_, err := f.Acquire(t.Context(), "a")
	require.ErrorIs(t, err, pgbudget.ErrClosed)
	select {
	case <-closed:
		t.Fatal("closed with a connection in use")
	default:
	}
	require.NoError(t, held.Conn().Ping(t.Context()))
	held.Release()
	<-closed
	require.Zero(t, f.Stats().Conns)
	f.Close()
}

func TestOptions(t *testing.T) {
	t.Parallel()
	_, err := pgbudget.Open(nil, nil)
	require.ErrorContains(t, err, "configuration is nil")
	f := fleet{}
	_, err = pgbudget.Open(f.config, &pgbudget.Options{MaxConns: -1, PoolTTL: -1})
	require.ErrorContains(t, err, "Options.MaxConns must not be negative")
	require.ErrorContains(t, err, "Options.PoolTTL must not be negative")
}
