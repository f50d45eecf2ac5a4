package metering

import (
	"context"
	"errors"
	"sync"
)

// Run does what a Meter does beside the calls, until ctx is done: it returns what
// is left of the units that the limiter has lent, asks a limiter that was away
// whether it is there again, tells it what Options.Journal has kept, compares its
// counters with Options.Ledger, and tells alerts. It returns nil once that has
// ended in good order, within seconds. Call it once, for as long as the server
// serves; while it runs, another call is an error.
//
// A Meter that does not run works: it asks the limiter for every call. But then
// nobody is told of thresholds, what the journal keeps waits there, a counter that
// was lost stays empty, and while the limiter is away, one call a second asks it: if
// it hangs, for as long as Options.Budget.
func (m *Meter) Run(ctx context.Context) error {
	if !m.running.CompareAndSwap(false, true) {
		return errors.New("metering: run meter: it is running already")
	}
	defer m.running.Store(false)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(m.loops))
	var running sync.WaitGroup
	for i, loop := range m.loops {
		running.Go(func() {
			if errs[i] = loop(ctx); errs[i] != nil {
				cancel()
			}
		})
	}
	running.Wait()
	if len(m.loops) == 0 {
		<-ctx.Done()
	}
	return errors.Join(errs...)
}
