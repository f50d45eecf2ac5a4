package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// group runs the server's workers: the first that fails stops them all.
type group struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	errs   []error
}

func newGroup(ctx context.Context) *group {
	ctx, cancel := context.WithCancel(ctx)
	return &group{ctx: ctx, cancel: cancel}
}

// run starts a worker under its name.
func (g *group) run(name string, worker func(context.Context) error) {
	g.wg.Go(func() {
		if err := worker(g.ctx); err != nil && !errors.Is(err, context.Canceled) {
			g.mu.Lock()
			g.errs = append(g.errs, fmt.Errorf("%s: %w", name, err))
			g.mu.Unlock()
			g.cancel()
		}
	})
}

// stop asks the workers to end and waits for them.
func (g *group) stop() error {
	g.cancel()
	g.wg.Wait()
	return errors.Join(g.errs...)
}
