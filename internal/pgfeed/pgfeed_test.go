package pgfeed_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/internal/pgfeed"
)

var template = devtest.Template{Name: "feed", Migrate: func(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `
create table items (id int primary key, value text not null, changed xid8 not null default pg_current_xact_id());
create index on items (changed)`)
	return err
}}

const (
	query = `select id, value from items where changed >= $1`
	put   = `insert into items (id, value) values ($1, $2)
on conflict (id) do update set value = excluded.value, changed = pg_current_xact_id()`
	notify = `select pg_notify('items', '')`
)

type item struct {
	ID    int
	Value string
}

// memory is what a feed fills.
type memory struct {
	*pgfeed.Feed
	mu    sync.Mutex
	items map[int]string
	fulls int
}

func (m *memory) apply(items []item, full bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if full {
		m.fulls++
		m.items = make(map[int]string)
	}
	for _, i := range items {
		m.items[i.ID] = i.Value
	}
}

func (m *memory) get(id int) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.items[id]
}

func follow(t *testing.T, db *devtest.Database, channel string, opts *pgfeed.Options) *memory {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), db.URL)
	require.NoError(t, err)
	m := &memory{}
	m.Feed, err = pgfeed.New(pool, pgfeed.Source[item]{
		Query: query, Scan: pgx.RowToStructByPos[item], Apply: m.apply, Channel: channel,
	}, opts)
	require.NoError(t, err)
	require.ErrorIs(t, m.Check(t.Context()), pgfeed.ErrNotLoaded)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		pool.Close()
	})
	require.NoError(t, m.Ready(t.Context()))
	return m
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 20*time.Second, time.Millisecond)
}

func TestFollows(t *testing.T) {
	t.Parallel()
	for _, channel := range []string{"", "items"} {
		t.Run("channel "+channel, func(t *testing.T) {
			t.Parallel()
			db := devtest.DB(t, template)
			writer := db.Pool(t)
			_, err := writer.Exec(t.Context(), put, 1, "a")
			require.NoError(t, err)
			m := follow(t, db, channel, nil)
			require.Equal(t, "a", m.get(1))
			for i := range 5 {
				want := fmt.Sprint(i)
				_, err := writer.Exec(t.Context(), put, 1, want)
				require.NoError(t, err)
				_, err = writer.Exec(t.Context(), put, 2+i, want)
				require.NoError(t, err)
				eventually(t, func() bool { return m.get(1) == want && m.get(2+i) == want })
			}
			require.Equal(t, 1, m.fulls)
			require.NoError(t, m.Check(t.Context()))
		})
	}
}

// Ids of transactions are given when they first write, not when they commit.
// Mutation: a cursor that goes by the highest id seen, instead of the oldest
// still running, never sees the late one.
func TestCommitsLate(t *testing.T) {
	t.Parallel()
	db := devtest.DB(t, template)
	ctx := t.Context()
	m := follow(t, db, "", &pgfeed.Options{Interval: time.Hour}) // polls only when asked
	writer := db.Pool(t)

	late, err := writer.Begin(ctx)
	require.NoError(t, err)
	defer late.Rollback(context.Background())
	_, err = late.Exec(ctx, put, 1, "late")
	require.NoError(t, err)
	_, err = writer.Exec(ctx, put, 2, "early")
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, m.Sync(ctx))
	}
	require.Equal(t, "early", m.get(2))
	require.Empty(t, m.get(1))
	require.NoError(t, late.Commit(ctx))
	require.NoError(t, m.Sync(ctx))
	require.Equal(t, "late", m.get(1))
}

// A notification is what makes it quick: the poll here is an hour away.
func TestNotified(t *testing.T) {
	t.Parallel()
	db := devtest.DB(t, template)
	writer := db.Pool(t)
	m := follow(t, db, "items", &pgfeed.Options{Interval: time.Hour})
	eventually(t, func() bool { return listeners(t, writer) == 1 })
	_, err := writer.Exec(t.Context(), put, 1, "a")
	require.NoError(t, err)
	_, err = writer.Exec(t.Context(), notify)
	require.NoError(t, err)
	eventually(t, func() bool { return m.get(1) == "a" })
}

func listeners(t *testing.T, pool *pgxpool.Pool) (n int) {
	t.Helper()
	const sql = `select count(*) from pg_stat_activity where query = 'listen "items"' and datname = current_database()`
	require.NoError(t, pool.QueryRow(t.Context(), sql).Scan(&n))
	return n
}

// Losing the connection that listens costs latency only, and it is replaced.
func TestListenerIsKilled(t *testing.T) {
	t.Parallel()
	db := devtest.DB(t, template)
	m := follow(t, db, "items", nil)
	writer := db.PoolAs(t, "postgres")
	eventually(t, func() bool { return listeners(t, writer) == 1 })
	const kill = `select count(pg_terminate_backend(pid)) from pg_stat_activity where query = 'listen "items"' and datname = current_database()`
	_, err := writer.Exec(t.Context(), kill)
	require.NoError(t, err)
	_, err = writer.Exec(t.Context(), put, 1, "a")
	require.NoError(t, err)
	eventually(t, func() bool { return m.get(1) == "a" })
	eventually(t, func() bool { return listeners(t, writer) == 1 })
}

// Nothing that the database does ends the feed, and while it can't read it says
// so.
func TestDatabaseIsAway(t *testing.T) {
	t.Parallel()
	db := devtest.DB(t, template)
	m := follow(t, db, "items", &pgfeed.Options{Interval: 20 * time.Millisecond, MaxAge: 200 * time.Millisecond, Logger: devtest.Logger(t)})
	super := db.PoolAs(t, "postgres")
	_, err := super.Exec(t.Context(), `alter table items rename to away`)
	require.NoError(t, err)
	eventually(t, func() bool { return m.Check(t.Context()) != nil })
	require.ErrorIs(t, m.Check(t.Context()), pgfeed.ErrStale)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, m.Sync(ctx), context.DeadlineExceeded)
	_, err = super.Exec(t.Context(), `alter table away rename to items`)
	require.NoError(t, err)
	require.NoError(t, m.Sync(t.Context()))
	eventually(t, func() bool { return m.Check(t.Context()) == nil })

	_, err = super.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and usename <> 'postgres'`)
	require.NoError(t, err)
	require.NoError(t, m.Sync(t.Context()))
}

// Mutation: with the same limit for every poll the table is never read.
func TestTableThatTakesLong(t *testing.T) {
	t.Parallel()
	db := devtest.DB(t, template)
	_, err := db.Pool(t).Exec(t.Context(), put, 1, "a")
	require.NoError(t, err)
	m := &memory{}
	m.Feed, err = pgfeed.New(db.Pool(t), pgfeed.Source[item]{
		Query: `select id, value from items, pg_sleep(case when $1 = '0'::xid8 then 1.5 else 0 end) where changed >= $1`,
		Scan:  pgx.RowToStructByPos[item], Apply: m.apply,
	}, &pgfeed.Options{Interval: 10 * time.Millisecond})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	limited, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	require.NoError(t, m.Ready(limited))
	require.Equal(t, "a", m.get(1))
	cancel()
	require.NoError(t, <-done)
}

// What is logged of an outage names neither host nor user.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://anna:secret@127.0.0.1:1/books")
	require.NoError(t, err)
	defer pool.Close()
	log := make(chan string, 1)
	f, err := pgfeed.New(pool, pgfeed.Source[item]{Query: query, Scan: pgx.RowToStructByPos[item], Apply: func([]item, bool) {}},
		&pgfeed.Options{Logger: slog.New(slog.NewTextHandler(writer(log), nil))})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	line := <-log
	cancel()
	require.NoError(t, <-done)
	require.Contains(t, line, "unreachable")
	for _, hidden := range []string{"anna", "secret", "127.0.0.1", "books"} {
		require.NotContains(t, line, hidden)
	}
}

type writer chan string

func (w writer) Write(line []byte) (int, error) {
	w <- string(line)
	return len(line), nil
}

func TestArguments(t *testing.T) {
	t.Parallel()
	config, err := pgxpool.ParseConfig("postgres://nobody@127.0.0.1:1/nothing")
	require.NoError(t, err)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	good := pgfeed.Source[item]{Query: query, Scan: pgx.RowToStructByPos[item], Apply: func([]item, bool) {}}
	f, err := pgfeed.New(pool, good, nil)
	require.NoError(t, err)
	interval, maxAge := f.Times()
	require.Equal(t, 500*time.Millisecond, interval, "what others are promised within a second may wait for a poll")
	require.Equal(t, time.Second, maxAge)
	_, err = pgfeed.New(pool, pgfeed.Source[item]{}, nil)
	require.ErrorContains(t, err, "Source.Query")
	_, err = pgfeed.New(nil, good, nil)
	require.ErrorContains(t, err, "pool")
	_, err = pgfeed.New(pool, good, &pgfeed.Options{Interval: -1})
	require.ErrorContains(t, err, "Options.Interval")
}

func TestLeavesNothingBehind(t *testing.T) {
	db := devtest.DB(t, template) // the cluster stays
	devtest.NoLeaks(t)
	m := follow(t, db, "items", nil)
	require.NoError(t, m.Sync(t.Context()))
}
