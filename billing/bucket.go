package billing

import (
	"context"
	"sync"
	"time"
)

// bucket spaces calls evenly at a provider's rate. It runs on real time, since
// what it protects does. The zero bucket is ready.
type bucket struct {
	mu   sync.Mutex
	next time.Time
}

// wait returns when the next call may be made, or with ctx's error.
func (b *bucket) wait(ctx context.Context, perSecond float64) error {
	if perSecond <= 0 {
		return ctx.Err()
	}
	b.mu.Lock()
	now := time.Now()
	at := b.next
	if at.Before(now) {
		at = now
	}
	b.next = at.Add(time.Duration(float64(time.Second) / perSecond))
	b.mu.Unlock()
	return sleep(ctx, at.Sub(now))
}

// unused gives back what a call that was not made had waited for.
func (b *bucket) unused(perSecond float64) {
	if perSecond <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next = b.next.Add(-time.Duration(float64(time.Second) / perSecond))
}

// sleep waits for d or until ctx is done.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
