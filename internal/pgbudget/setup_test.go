package pgbudget_test

import (
	"context"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/internal/pgbudget"
)

var empty = devtest.Template{Name: "empty"}

// fleet is a budget over some databases. A key is the name of a database, or
// any other name that was put into urls.
type fleet struct {
	*pgbudget.Budget
	dbs    []*devtest.Database
	ahead  atomic.Int64 // of the clock
	asked  atomic.Int64 // how often for a configuration
	denied atomic.Int64 // how often because the last one was refused
	slow   func()       // what the answer waits for, if anything

	mu   sync.Mutex
	urls map[string]string
}

func newFleet(t testing.TB, databases int, opts pgbudget.Options) *fleet {
	t.Helper()
	f := &fleet{urls: make(map[string]string)}
	for range databases {
		f.dbs = append(f.dbs, devtest.DB(t, empty))
	}
	for i, key := range keys(databases) {
		f.urls[key] = f.dbs[i].URL
	}
	if opts.Now == nil {
		opts.Now = f.now
	}
	var err error
	f.Budget, err = pgbudget.Open(f.config, &opts)
	require.NoError(t, err)
	t.Cleanup(f.Close)
	return f
}

// keys are "a", "b" and so on, one for each database.
func keys(n int) []string {
	var list []string
	for i := range n {
		list = append(list, string(rune('a'+i)))
	}
	return list
}

func (f *fleet) now() time.Time          { return time.Now().Add(time.Duration(f.ahead.Load())) }
func (f *fleet) advance(d time.Duration) { f.ahead.Add(int64(d)) }

func (f *fleet) config(_ context.Context, key string, refused bool) (*pgx.ConnConfig, error) {
	f.asked.Add(1)
	if refused {
		f.denied.Add(1)
	}
	if f.slow != nil {
		f.slow()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return pgx.ParseConfig(f.urls[key])
}

func (f *fleet) set(key, url string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.urls[key] = url
}

func (f *fleet) take(t testing.TB, key string) *pgbudget.Conn {
	t.Helper()
	c, err := f.Acquire(t.Context(), key)
	require.NoError(t, err)
	t.Cleanup(c.Release) // or Close would wait for ever in a test that failed
	return c
}

// pid takes a connection, gives it back and returns its backend.
func (f *fleet) pid(t testing.TB, key string) uint32 {
	t.Helper()
	c := f.take(t, key)
	defer c.Release()
	return c.Conn().PgConn().PID()
}

// waiting waits until so many callers wait.
func (f *fleet) waiting(t testing.TB, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return f.Stats().Waiting == n }, 20*time.Second, time.Millisecond)
}

// conns waits until so many connections are left.
func (f *fleet) conns(t testing.TB, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return f.Stats().Conns == n }, 20*time.Second, time.Millisecond)
}

// backends counts the connections that the server has for all the databases.
func (f *fleet) backends(t testing.TB, conn *pgx.Conn) int {
	var names []string
	for _, db := range f.dbs {
		names = append(names, db.Name)
	}
	var n int
	require.NoError(t, conn.QueryRow(context.Background(), `select count(*) from pg_stat_activity where datname = any ($1)`, names).Scan(&n))
	return n
}

// superuser is a connection to none of the databases.
func superuser(t testing.TB, db *devtest.Database) *pgx.Conn {
	t.Helper()
	u, err := url.Parse(db.Superuser)
	require.NoError(t, err)
	u.Path = "/postgres"
	conn, err := pgx.Connect(t.Context(), u.String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}
