package tenancy

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// slowAcquire is the mean wait for a connection beyond which the pool counts
// as exhausted. A call is expected to take a few milliseconds as a whole.
const slowAcquire = 250 * time.Millisecond

// waitGauge remembers the pool's counters of the last check.
type waitGauge struct {
	mu    sync.Mutex
	waits int64
	total time.Duration
}

// mean returns the mean wait of those that had to wait since the last call.
// Someone waiting at this instant says nothing; having waited long does.
func (g *waitGauge) mean(stat *pgxpool.Stat) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	waits, total := stat.EmptyAcquireCount(), stat.EmptyAcquireWaitTime()
	n, d := waits-g.waits, total-g.total
	g.waits, g.total = waits, total
	if n == 0 {
		return 0
	}
	return d / time.Duration(n)
}

// Check fails when the database doesn't answer, and with [ErrPoolExhausted]
// when callers have waited long for a connection since the check before.
func (db *DB) Check(ctx context.Context) error {
	if err := db.pool.Ping(ctx); err != nil {
		return fmt.Errorf("tenancy: check the pool: %w", redact(err))
	}
	if mean := db.waits.mean(db.pool.Stat()); mean > slowAcquire {
		return fmt.Errorf("%w: callers waited %s", ErrPoolExhausted, mean.Round(time.Millisecond))
	}
	return nil
}
