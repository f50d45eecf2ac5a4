package metering

import (
	"context"
	"sync"
	"time"
)

// keeper holds the slots of a call that runs.
type keeper struct {
	mu    sync.Mutex
	timer *time.Timer
	ended bool
}

// keep starts to renew the slots of a decision, until release or until ctx is
// done: a tool that outlives its caller keeps its slots for one Hold more. It
// returns nil if there is nothing to renew.
func (g *guard) keep(ctx context.Context, d Decision) *keeper {
	renewer, ok := g.limiter.(Renewer)
	if !ok || d.Slot == "" || d.Source == SourceLocal {
		return nil
	}
	hold := maxWindow
	for _, b := range d.Request.Bounds {
		if b.Hold > 0 {
			hold = min(hold, b.Hold)
		}
	}
	k := &keeper{}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.timer = time.AfterFunc(hold/3, func() {
		// Under the lock, so that nothing is renewed after it was freed.
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.ended || ctx.Err() != nil {
			return
		}
		// An error leaves two more tries before the slots expire.
		_ = g.ask(ctx, func(ctx context.Context) error { return renewer.Renew(ctx, d) })
		k.timer.Reset(hold / 3)
	})
	return k
}

// release ends the renewing, and waits for one that is under way.
func (k *keeper) release() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	k.timer.Stop()
}
