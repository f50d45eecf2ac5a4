package pgfeed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Source says which rows a feed follows.
type Source[T any] struct {
	// Query selects the rows with changed >= $1 (an xid8).
	Query string

	// Scan makes a value of a row of Query.
	Scan pgx.RowToFunc[T]

	// Apply takes the rows that may have changed. With full they are the whole
	// table and replace what was there. It is called by one goroutine at a
	// time, with the newest committed state of each row, and must not block.
	Apply func(rows []T, full bool)

	// Channel is the notification channel that announces changes; the payload
	// is ignored. Empty means polling only.
	Channel string
}

// Options configure a [Feed]. The zero value is the default.
type Options struct {
	// Interval is the time from one poll to the next.
	// Defaults to 500 ms.
	Interval time.Duration

	// MaxAge is how old the last successful poll may be for [Feed.Check] to
	// pass.
	// Defaults to twice the Interval.
	MaxAge time.Duration

	// Logger gets one record when the feed stops following and one when it
	// follows again.
	// Defaults to none.
	Logger *slog.Logger
}

// Errors of [Feed.Check].
var (
	ErrNotLoaded = errors.New("not loaded yet")
	ErrStale     = errors.New("stale")
)

// One poll may take minLimit, and after one that took too long twice as much, up
// to maxLimit.
const (
	minLimit = time.Second
	maxLimit = time.Minute
)

// minGap bounds how often notifications make a feed poll.
const minGap = 10 * time.Millisecond

// Feed follows one table. Its methods are safe for concurrent use.
type Feed struct {
	pool    *pgxpool.Pool
	channel string
	opts    Options
	load    func(ctx context.Context) error // one poll
	limit   time.Duration                   // for the next one; Run's alone

	kick   chan struct{} // capacity 1: a poll is wanted
	loaded chan struct{} // closed after the first load

	mu      sync.Mutex
	last    time.Time // start of the last successful poll
	waiters []chan struct{}
}

// New returns a feed that reads source through pool. It does nothing until
// [Feed.Run] is called.
func New[T any](pool *pgxpool.Pool, source Source[T], opts *Options) (*Feed, error) {
	if pool == nil || source.Query == "" || source.Scan == nil || source.Apply == nil {
		return nil, errors.New("pgfeed: pool, Source.Query, Source.Scan and Source.Apply are required")
	}
	f := &Feed{
		pool:    pool,
		channel: source.Channel,
		kick:    make(chan struct{}, 1),
		loaded:  make(chan struct{}),
	}
	if opts != nil {
		f.opts = *opts
	}
	if f.opts.Interval < 0 || f.opts.MaxAge < 0 {
		return nil, errors.New("pgfeed: Options.Interval and Options.MaxAge must not be negative")
	}
	if f.opts.Interval == 0 {
		f.opts.Interval = 500 * time.Millisecond
	}
	if f.opts.MaxAge == 0 {
		f.opts.MaxAge = 2 * f.opts.Interval
	}
	if f.opts.Logger == nil {
		f.opts.Logger = slog.New(slog.DiscardHandler)
	}
	f.limit = max(f.opts.Interval, minLimit)
	cursor := uint64(0)
	f.load = func(ctx context.Context) error {
		rows, next, err := poll(ctx, pool, source, cursor)
		if err != nil {
			return err
		}
		if next < cursor {
			// Transaction ids went backwards: this is another server, or one
			// restored from a backup. What was learned counts for nothing.
			cursor = 0
			if rows, next, err = poll(ctx, pool, source, cursor); err != nil {
				return err
			}
		}
		source.Apply(rows, cursor == 0)
		cursor = next
		return nil
	}
	return f, nil
}

// xminSQL runs before the rows are read: a transaction that its snapshot still
// sees running may commit between the two statements, and is read again by the
// next poll.
const xminSQL = `select pg_snapshot_xmin(pg_current_snapshot())`

func poll[T any](ctx context.Context, pool *pgxpool.Pool, source Source[T], cursor uint64) (all []T, next uint64, err error) {
	batch := &pgx.Batch{}
	batch.Queue(xminSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&next) })
	batch.Queue(source.Query, cursor).Query(func(rows pgx.Rows) error {
		all, err = pgx.CollectRows(rows, source.Scan)
		return err
	})
	if err := pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, 0, err
	}
	return all, next, nil
}

// Ready waits until the table has been loaded once, or ctx is done.
func (f *Feed) Ready(ctx context.Context) error {
	select {
	case <-f.loaded:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("pgfeed: wait for the first load: %w", context.Cause(ctx))
	}
}

// Sync waits until everything that was committed before the call has been
// applied, or ctx is done.
func (f *Feed) Sync(ctx context.Context) error {
	done := make(chan struct{})
	f.mu.Lock()
	f.waiters = append(f.waiters, done)
	f.mu.Unlock()
	f.wake()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("pgfeed: wait for the next poll: %w", context.Cause(ctx))
	}
}

// Check reports whether what is in memory may be relied on: it matches
// [ErrNotLoaded] before the first load and [ErrStale] when the last successful
// poll is older than Options.MaxAge.
func (f *Feed) Check(context.Context) error {
	f.mu.Lock()
	last := f.last
	f.mu.Unlock()
	if last.IsZero() {
		return fmt.Errorf("pgfeed: %w", ErrNotLoaded)
	}
	if age := time.Since(last); age > f.opts.MaxAge {
		return fmt.Errorf("pgfeed: %w: last read %s ago", ErrStale, age.Round(time.Millisecond))
	}
	return nil
}

func (f *Feed) wake() {
	select {
	case f.kick <- struct{}{}:
	default: // one is wanted already
	}
}
