package pgmove

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Brake slows the tenant down, which writes faster than the move can follow:
// its transactions wait for the time of hold, are let through for that of
// release, and so on until the returned function is called, which waits for the
// end. To be cut short in between does no harm.
func (m *Move) Brake(ctx context.Context, hold, release time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			// A lock that isn't to be had soon is given up: the tenant has a
			// transaction that takes its time.
			m.within(ctx, m.From, pgx.ReadCommitted, func(tx *tx) error {
				if err := m.exclude(ctx, tx); err != nil {
					return err
				}
				rest(ctx, hold)
				return nil
			})
			rest(ctx, release)
		}
	})
	return func() { cancel(); done.Wait() }
}

func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
