package pgfeed

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
)

// Run follows the table until ctx is done, and then returns nil. It outlives
// any failure of the database; [Feed.Check] tells of it meanwhile.
func (f *Feed) Run(ctx context.Context) error {
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		if f.channel != "" {
			f.listen(ctx)
		}
	}()
	defer func() { <-listening }()

	timer := time.NewTimer(0)
	defer timer.Stop()
	following := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-f.kick:
			if !f.rest(ctx) {
				return nil
			}
		}
		err := f.pollOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if following != (err == nil) {
			following = err == nil
			if following {
				f.opts.Logger.LogAttrs(ctx, slog.LevelInfo, "feed follows again", slog.String("channel", f.channel))
			} else {
				f.opts.Logger.LogAttrs(ctx, slog.LevelError, "feed stopped following",
					slog.String("channel", f.channel), slog.Any("err", err))
			}
		}
		timer.Reset(f.opts.Interval)
	}
}

// rest waits until the last poll is minGap ago. It reports false when ctx is
// done.
func (f *Feed) rest(ctx context.Context) bool {
	f.mu.Lock()
	wait := minGap - time.Since(f.last)
	f.mu.Unlock()
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (f *Feed) pollOnce(ctx context.Context) error {
	f.mu.Lock()
	waiters := f.waiters
	f.waiters = nil
	f.mu.Unlock()

	start := time.Now()
	// A server that hangs must not hang the feed: the next attempt may reach
	// its successor. But a table may be too large, or a server too busy, for the
	// first limit, and must be read at last.
	limited, cancel := context.WithTimeout(ctx, f.limit)
	defer cancel()
	err := pgredact.Error(f.load(limited))
	f.limit = max(f.opts.Interval, minLimit)
	if limited.Err() == context.DeadlineExceeded {
		f.limit = max(f.limit, min(2*time.Since(start), maxLimit))
	}

	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.waiters = append(waiters, f.waiters...)
		return err
	}
	if f.last.IsZero() {
		close(f.loaded)
	}
	f.last = start
	for _, done := range waiters {
		close(done)
	}
	return nil
}

// listen wakes the poll on each notification. Whatever goes wrong here costs
// latency only, so it is not reported: it tries again, and wakes the poll once
// it listens, for what it may have missed.
func (f *Feed) listen(ctx context.Context) {
	for ctx.Err() == nil {
		f.listenOnce(ctx)
		timer := time.NewTimer(f.opts.Interval)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (f *Feed) listenOnce(ctx context.Context) {
	// Not a connection of the pool: it would be held for good.
	conn, err := pgx.ConnectConfig(ctx, f.pool.Config().ConnConfig)
	if err != nil {
		return
	}
	// ctx is done by then; the server is told good-bye all the same.
	defer func() {
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(detached)
	}()
	if _, err := conn.Exec(ctx, "listen "+pgx.Identifier{f.channel}.Sanitize()); err != nil {
		return
	}
	for {
		f.wake()
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return
		}
	}
}
