package tenancy

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// queueGauge remembers the pool's counters of the last check.
type queueGauge struct {
	mu    sync.Mutex
	at    time.Time
	total time.Duration
}

// length returns how many callers waited for a connection on average since the
// last call: all their waiting, divided by the time that has passed (Little's
// law). One that waits at this instant says nothing, nor does a connection
// that took long to open; a queue that never empties does.
func (g *queueGauge) length(now time.Time, stat *pgxpool.Stat) float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	total := stat.EmptyAcquireWaitTime()
	waited, passed := total-g.total, now.Sub(g.at)
	g.total, g.at = total, now
	if passed <= 0 {
		return 0
	}
	return waited.Seconds() / passed.Seconds()
}

// poolError is an [ErrPoolExhausted] for package health: calls get through,
// slowly.
type poolError struct{ queue float64 }

func (e *poolError) Error() string {
	return fmt.Sprintf("%s: %.1f callers were waiting on average", ErrPoolExhausted, e.queue)
}

func (e *poolError) Is(target error) bool { return target == ErrPoolExhausted }
func (e *poolError) HealthDegraded() bool { return true }
func (e *poolError) HealthClass() string  { return "timeout" }

// Check fails when the database doesn't answer, and with [ErrPoolExhausted]
// when at least one caller on average has been waiting for a connection since
// the check before: the pool is smaller than its load.
func (db *DB) Check(ctx context.Context) error {
	if err := db.pool.Ping(ctx); err != nil {
		return fmt.Errorf("tenancy: check the pool: %w", redact(err))
	}
	if queue := db.queue.length(time.Now(), db.pool.Stat()); queue >= 1 {
		return &poolError{queue}
	}
	return nil
}
