package pgbudget_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/pgbudget"
)

// TestReuse takes what is idle, and opens nothing else.
func TestReuse(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, pgbudget.Options{})
	first := f.pid(t, "a")
	require.Equal(t, first, f.pid(t, "a"))
	require.NotEqual(t, first, f.pid(t, "b"))
	require.Equal(t, first, f.pid(t, "a"))
	c := f.take(t, "a")
	c.Release()
	c.Release()
	s := f.Stats()
	require.EqualValues(t, 2, s.Opened)
	require.Equal(t, []int{50, 2, 0, 2, 2, 0}, []int{s.MaxConns, s.Conns, s.InUse, s.Idle, s.Pools, s.Waiting})
}

// TestEvictsTheLeastRecentlyUsed has a budget of two: a third database's
// connection takes the place of the one that has been idle for longest.
//
// Mutation that it saw: the victim taken from the other end of the list.
func TestEvictsTheLeastRecentlyUsed(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, pgbudget.Options{MaxConns: 2})
	a, b := f.pid(t, "a"), f.pid(t, "b")
	require.Equal(t, a, f.pid(t, "a"))
	f.pid(t, "c")
	require.Equal(t, a, f.pid(t, "a"))
	require.NotEqual(t, b, f.pid(t, "b"))
	require.EqualValues(t, 2, f.Stats().Evicted)
}

// TestNeverEvictsOneInUse spends the budget, and asks for more.
//
// Mutation that it saw: a victim from among the connections in use, if none is
// idle.
func TestNeverEvictsOneInUse(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, pgbudget.Options{MaxConns: 2})
	a, b := f.take(t, "a"), f.take(t, "b")
	served := make(chan string, 1)
	ask(t, f, "c", "c", served)
	for _, c := range []*pgbudget.Conn{a, b} {
		require.NoError(t, c.Conn().Ping(t.Context()))
		require.Empty(t, served)
	}
	a.Release()
	require.Equal(t, "c", <-served)
	require.NoError(t, b.Conn().Ping(t.Context()))
}

// TestOneDatabaseCantHaveItAll leaves connections to others.
func TestOneDatabaseCantHaveItAll(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, pgbudget.Options{MaxConns: 3, MaxConnsPerPool: 2})
	first := f.take(t, "a")
	defer f.take(t, "a").Release()
	served := make(chan string, 1)
	ask(t, f, "a", "third", served)
	f.pid(t, "b")
	require.Empty(t, served)
	f.advance(time.Minute)
	require.Less(t, f.Stats().Starved, time.Minute, "the budget wasn't what it waited for")
	first.Release()
	require.Equal(t, "third", <-served)
}

// ask sends the order in which callers of a database get the only connection.
func ask(t testing.TB, f *fleet, key, name string, served chan<- string) {
	waiting := f.Stats().Waiting
	go func() {
		c, err := f.Acquire(context.Background(), key)
		if err != nil {
			served <- name + ": " + err.Error()
			return
		}
		served <- name
		c.Release()
	}()
	f.waiting(t, waiting+1)
}

// TestOrder has callers of three databases wait for one connection: the
// databases take turns, and the callers of one stay in their order.
//
// Mutations that it saw: callers served from the end of their pool's queue; a
// connection that always stays with its own pool while somebody waits there.
func TestOrder(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, pgbudget.Options{MaxConns: 1})
	held := f.take(t, "a")
	served := make(chan string, 10)
	for _, name := range []string{"a1", "b1", "b2", "a2", "c1", "b3"} {
		ask(t, f, name[:1], name, served)
	}
	f.advance(time.Hour / 2) // every quantum is over, when a caller has been served
	hour := f.ahead.Load()
	held.Release()
	var order []string
	for range 6 {
		order = append(order, <-served)
		f.advance(time.Minute)
	}
	require.GreaterOrEqual(t, f.ahead.Load(), hour)
	var of = map[byte][]string{}
	for _, name := range order {
		of[name[0]] = append(of[name[0]], name)
	}
	require.Equal(t, map[byte][]string{'a': {"a1", "a2"}, 'b': {"b1", "b2", "b3"}, 'c': {"c1"}}, of, "%v", order)
	// a came first, but its connection was old: b's turn.
	require.Equal(t, "b1", order[0])
	s := f.Stats()
	require.Positive(t, s.Starved)
	require.EqualValues(t, 6+1, s.Waits)
}

// TestTurns has one database lack two connections, and another one: the second
// that becomes free is the other's.
//
// Mutation that it saw: a pool that keeps its place in the queue while it lacks
// more.
func TestTurns(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, pgbudget.Options{MaxConns: 2})
	f.pid(t, "a") // so that more than one may be opened at once
	f.pid(t, "b") // so that it stands in the queue at once
	first, second := f.take(t, "c"), f.take(t, "c")
	served := make(chan string, 3)
	ctx, end := context.WithCancel(t.Context()) // also in a test that failed
	defer end()
	var callers sync.WaitGroup
	for i, key := range []string{"a", "a", "b"} {
		callers.Go(func() {
			c, err := f.Acquire(t.Context(), key)
			if err != nil {
				t.Error(err)
				return
			}
			served <- key
			<-ctx.Done()
			c.Release()
		})
		f.waiting(t, i+1)
	}
	first.Release()
	require.Equal(t, "a", <-served)
	second.Release()
	require.Equal(t, "b", <-served)
	end()
	callers.Wait()
}

// TestNobodyStarves keeps one database's callers at the only connection without
// a pause, until another's was served.
//
// Mutation that it saw: a connection that stays with its own pool for as long
// as somebody waits there.
func TestNobodyStarves(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, pgbudget.Options{MaxConns: 1})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 4)
	for range cap(done) {
		go func() {
			for ctx.Err() == nil {
				c, err := f.Acquire(t.Context(), "a")
				if err != nil {
					done <- err
					return
				}
				c.Release()
			}
			done <- nil
		}()
	}
	require.Eventually(t, func() bool { return f.Stats().Waiting > 1 }, 20*time.Second, time.Millisecond)
	for range 5 {
		f.pid(t, "b")
	}
	stop()
	for range cap(done) {
		require.NoError(t, <-done)
	}
}

// TestStaysForAQuantum hands a connection on to its own pool's callers for as
// long as it is new, although another pool has waited for longer.
//
// Mutation that it saw: no quantum.
func TestStaysForAQuantum(t *testing.T) {
	t.Parallel()
	frozen := time.Now()
	f := newFleet(t, 2, pgbudget.Options{MaxConns: 1, Now: func() time.Time { return frozen }})
	held := f.take(t, "a")
	served := make(chan string, 4)
	for _, name := range []string{"b1", "a1", "a2"} {
		ask(t, f, name[:1], name, served)
	}
	held.Release()
	require.Equal(t, []string{"a1", "a2", "b1"}, []string{<-served, <-served, <-served})
	require.EqualValues(t, 2, f.Stats().Opened)
}

// TestPatience gives up waiting, and loses no connection by that.
func TestPatience(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, pgbudget.Options{MaxConns: 1, MaxWaiting: 1})
	held := f.take(t, "a")
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		_, err := f.Acquire(ctx, "a")
		got <- err
	}()
	f.waiting(t, 1)
	_, err := f.Acquire(t.Context(), "a")
	require.ErrorIs(t, err, pgbudget.ErrExhausted, "one waits already")
	require.EqualValues(t, 1, f.Stats().Refused)
	cancel()
	require.ErrorIs(t, <-got, context.Canceled)
	_, err = f.Acquire(ctx, "a")
	require.ErrorIs(t, err, context.Canceled)
	held.Release()
	f.pid(t, "a")
	require.Equal(t, 1, f.Stats().Idle)
}

// TestMaxWait gives up by itself.
func TestMaxWait(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, pgbudget.Options{MaxWait: time.Millisecond, Verify: func(ctx context.Context, _ string, _ *pgx.Conn) error {
		<-ctx.Done() // as long as a connection takes to open
		return ctx.Err()
	}, OpenTimeout: 2 * time.Second})
	_, err := f.Acquire(t.Context(), "a")
	require.ErrorIs(t, err, pgbudget.ErrExhausted)
	require.EqualValues(t, 1, f.Stats().Refused)
}

// TestCancelledWhileHanded cancels callers at about the moment at which they
// are served: the connection must not get lost.
//
// Mutation that it saw: an answer that comes too late thrown away.
func TestCancelledWhileHanded(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, pgbudget.Options{MaxConns: 1})
	for range 300 {
		held := f.take(t, "a")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if c, err := f.Acquire(ctx, "a"); err == nil {
				c.Release()
			}
		}()
		f.waiting(t, 1)
		cancel()
		held.Release()
		<-done
	}
	f.pid(t, "a")
	require.Equal(t, 1, f.Stats().Conns)
}
