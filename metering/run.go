package metering

import (
	"context"
	"errors"
	"sync"
)

// Run does what a Meter does beside the calls, until ctx is done: it returns
// what is left of the units that the limiter has lent, and tells alerts. It
// returns nil once that has ended in good order, within seconds. Call it once, for as long as the
// server serves; a Meter that does not run works, and asks the limiter for
// every call and tells nobody.
func (m *Meter) Run(ctx context.Context) error {
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
