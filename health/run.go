package health

import (
	"context"
	"sync"
	"time"
)

// Run runs the checks that have an Interval, each at once and then once per
// interval, until ctx is cancelled; then it waits for the runs under way, no
// longer than their time-outs, and returns nil. Without it these checks are
// unknown, so that a runner that was forgotten or hangs shows.
func (a *Aggregator) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for i, e := range a.checks {
		if e.periodic {
			wg.Go(func() { e.repeat(ctx, a.opts.Checks[i].Interval) })
		}
	}
	<-ctx.Done()
	wg.Wait()
	return nil
}

func (e *entry) repeat(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if _, f := e.begin(time.Now(), 0); f != nil {
			<-f.done
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}
