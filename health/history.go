package health

import (
	"context"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// Transition is a change of a check's status. The first result of a check is a
// change from unknown, but no news if it is ok.
type Transition struct {
	Check    string
	Tenant   string // the tenant's id; empty for a platform check
	From, To Status
	Class    Class // what kind of failure; empty if To is ok
	Time     time.Time
}

// historySize is how many transitions are kept, and how many may wait for
// OnChange.
const historySize = 50

// History returns the last 50 transitions of the platform's checks and the
// last 50 of tenants', together in the order of time. It names tenants: it is
// for operators.
func (a *Aggregator) History() []Transition {
	h := a.history
	h.mu.Lock()
	all := slices.Concat(h.platform, h.tenants)
	h.mu.Unlock()
	slices.SortStableFunc(all, func(x, y Transition) int { return x.Time.Compare(y.Time) })
	return all
}

// history keeps transitions and tells the listener and the log of them, from a
// goroutine that exists only while there is something to tell. Tenants have a
// list of their own so that many of them can't push the platform's out.
type history struct {
	onChange func(Transition)
	log      *slog.Logger

	mu                sync.Mutex
	platform, tenants []Transition
	waiting           []news
	dropped           int
	telling           bool
}

type news struct {
	Transition
	err error
}

// add never blocks: it is called with the check's lock held, which keeps the
// transitions of one check in order.
func (h *history) add(t Transition, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := &h.platform
	if t.Tenant != "" {
		list = &h.tenants
	}
	if len(*list) == historySize {
		*list = slices.Delete(*list, 0, 1)
	}
	*list = append(*list, t)
	if len(h.waiting) == historySize {
		h.waiting = slices.Delete(h.waiting, 0, 1)
		h.dropped++
	}
	h.waiting = append(h.waiting, news{t, err})
	if !h.telling {
		h.telling = true
		go h.tell()
	}
}

func (h *history) tell() {
	for {
		h.mu.Lock()
		if len(h.waiting) == 0 {
			h.telling = false
			h.mu.Unlock()
			return
		}
		next, dropped := h.waiting[0], h.dropped
		h.waiting, h.dropped = slices.Delete(h.waiting, 0, 1), 0
		h.mu.Unlock()
		h.tellOne(next, dropped)
	}
}

func (h *history) tellOne(n news, dropped int) {
	ctx := context.Background()
	defer func() {
		if v := recover(); v != nil {
			h.log.LogAttrs(ctx, slog.LevelError, "health listener panicked", slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
		}
	}()
	if dropped > 0 {
		h.log.LogAttrs(ctx, slog.LevelWarn, "health listener is too slow", slog.Int("dropped", dropped))
	}
	level := slog.LevelWarn
	if n.To == StatusOK {
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{slog.String("check", n.Check), slog.String("from", string(n.From)), slog.String("to", string(n.To))}
	if n.Tenant != "" {
		attrs = append(attrs, slog.String("tenant", n.Tenant))
	}
	if n.err != nil {
		attrs = append(attrs, slog.String("class", string(n.Class)), slog.Any("err", n.err))
	}
	h.log.LogAttrs(ctx, level, "health check changed", attrs...)
	if h.onChange != nil {
		h.onChange(n.Transition)
	}
}
