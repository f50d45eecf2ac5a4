package tenancy

import (
	"context"
	"fmt"
	"sync"
	"time"
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
func (g *queueGauge) length(now time.Time, total time.Duration) float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
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

// Check fails when the home database doesn't answer, and with
// [ErrPoolExhausted] when at least one caller on average has been waiting for a
// connection since the check before: the pool, or the budget of
// [Options.Databases], is smaller than its load. A tenant that waits because it
// has as many connections of its own as it may is nobody else's concern.
func (db *DB) Check(ctx context.Context) error {
	if err := db.pool.Ping(ctx); err != nil {
		return fmt.Errorf("tenancy: check the pool: %w", redact(err))
	}
	now := time.Now()
	queue := db.queue.length(now, db.pool.Stat().EmptyAcquireWaitTime())
	starved := db.starved.length(now, db.DatabaseStats().Starved)
	if queue = max(queue, starved); queue >= 1 {
		return &poolError{queue}
	}
	return nil
}
