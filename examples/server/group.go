package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// errStillRunning is what stop returns when a worker doesn't end in time.
var errStillRunning = errors.New("still running")

// group runs the server's workers: the first that fails stops them all.
type group struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	live   []string // the names of those that run
	errs   []error
}

func newGroup(ctx context.Context) *group {
	ctx, cancel := context.WithCancel(ctx)
	return &group{ctx: ctx, cancel: cancel}
}

// run starts a worker under its name.
func (g *group) run(name string, worker func(context.Context) error) {
	g.mu.Lock()
	g.live = append(g.live, name)
	g.mu.Unlock()
	g.wg.Go(func() {
		err := worker(g.ctx)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.live = slices.DeleteFunc(g.live, func(n string) bool { return n == name })
		if err != nil && !errors.Is(err, context.Canceled) {
			g.errs = append(g.errs, fmt.Errorf("%s: %w", name, err))
			g.cancel()
		}
	})
}

// stop asks the workers to end and waits for them, but no longer than within:
// then it returns errStillRunning.
func (g *group) stop(within time.Duration) error {
	g.cancel()
	ended := make(chan struct{})
	go func() {
		g.wg.Wait()
		close(ended)
	}()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-ended:
		return errors.Join(g.errs...)
	case <-timer.C:
		g.mu.Lock()
		defer g.mu.Unlock()
		return fmt.Errorf("%w: %s", errStillRunning, strings.Join(g.live, ", "))
	}
}
