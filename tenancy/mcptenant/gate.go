package mcptenant

import (
	"context"
	"errors"
	"sync"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// errBusy means that a tenant has as many calls running and waiting as it may.
var errBusy = errors.New("mcptenant: too many calls of this tenant at once")

// gate bounds what each tenant has running at once, so that one tenant can't
// take every connection and goroutine of the others.
type gate struct {
	running int // slots per tenant
	waiting int // callers that may queue for a slot, per tenant

	mu    sync.Mutex
	lanes map[tenant.ID]*lane
}

type lane struct {
	slots  chan struct{}
	inside int // running and waiting, guarded by gate.mu
}

// idleLanes is how many lanes are kept before the empty ones are dropped.
const idleLanes = 4096

func newGate(running, waiting int) *gate {
	return &gate{running: running, waiting: waiting, lanes: make(map[tenant.ID]*lane)}
}

// enter takes a slot, waiting for one while ctx lives. The caller must pass the
// lane to leave.
func (g *gate) enter(ctx context.Context, id tenant.ID) (*lane, error) {
	g.mu.Lock()
	l := g.lanes[id]
	if l == nil {
		if len(g.lanes) >= idleLanes {
			for key, l := range g.lanes {
				if l.inside == 0 {
					delete(g.lanes, key)
				}
			}
		}
		l = &lane{slots: make(chan struct{}, g.running)}
		g.lanes[id] = l
	}
	if l.inside >= g.running+g.waiting {
		g.mu.Unlock()
		return nil, errBusy
	}
	l.inside++
	g.mu.Unlock()

	select {
	case l.slots <- struct{}{}:
		return l, nil
	default:
	}
	select {
	case l.slots <- struct{}{}:
		return l, nil
	case <-ctx.Done():
		g.mu.Lock()
		l.inside--
		g.mu.Unlock()
		return nil, context.Cause(ctx)
	}
}

func (g *gate) leave(l *lane) {
	<-l.slots
	g.mu.Lock()
	l.inside--
	g.mu.Unlock()
}
