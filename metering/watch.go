package metering

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const (
	// maxFound bounds the alerts that wait for the store. What doesn't fit is
	// found again by the next call.
	maxFound = 10_000

	ownPercentAge = 5 * time.Minute
	watchedIdle   = time.Hour // a tenant that made no call for so long is forgotten
	maxMarks      = 500       // of one tenant, before all of them are forgotten

	// overMark is the threshold under which it is remembered that a soft limit's
	// first refusal was logged.
	overMark = -1
)

// watcher finds out from decisions that thresholds were reached.
type watcher struct {
	on     bool // alerts are told
	o      AlertOptions
	lowest int // of the thresholds that are everybody's
	log    *slog.Logger
	now    func() time.Time

	mu      sync.RWMutex
	tenants map[tenant.ID]*watched

	foundMu sync.Mutex
	found   map[string]Alert // by ID, that are not in the store yet

	wake  chan struct{} // something was found
	fresh chan struct{} // a tenant is new
	due   chan struct{} // something was added to the store

	told, failed, lost atomic.Int64
}

// watched is what is known of a tenant.
type watched struct {
	own  atomic.Int32 // its own threshold; negative: none
	seen atomic.Int64 // when it last made a call, Unix seconds

	mu    sync.Mutex
	asked time.Time      // when its own threshold was asked for
	marks map[mark]int64 // the start of the period in which it was found reached
}

type mark struct {
	limit   string
	units   int64
	percent int
}

func newWatcher(opts *AlertOptions, log *slog.Logger, now func() time.Time) *watcher {
	w := &watcher{
		log: log, now: now, lowest: 101,
		tenants: make(map[tenant.ID]*watched), found: make(map[string]Alert),
		wake: make(chan struct{}, 1), fresh: make(chan struct{}, 1), due: make(chan struct{}, 1),
	}
	if opts == nil {
		return w
	}
	w.on, w.o = true, opts.withDefaults(now)
	for _, list := range append(slices.Collect(maps.Values(w.o.LimitPercent)), w.o.Percent) {
		for _, p := range list {
			w.lowest = min(w.lowest, p)
		}
	}
	return w
}

// see looks at where the limits stand after a call was settled or refused. It is
// in the way of every call.
func (w *watcher) see(c *call) {
	d := c.decision
	if c.scope == nil || len(d.Limits) == 0 || d.Source == SourceLocal || !w.on && c.over == "" {
		return
	}
	t := w.tenant(c.tenant.ID, d.Time)
	own := int(t.own.Load())
	lowest := w.lowest
	if own > 0 {
		lowest = min(lowest, own)
	}
	for _, l := range c.scope.limits {
		if l.Hold > 0 {
			continue
		}
		used := l.used(d)
		percent := int(used * 100 / l.Units)
		if !d.Allowed && l.hard() && d.Limits[l.bound].RetryAfter > 0 && d.Request.Bounds[l.bound].Units == l.Units {
			percent = max(percent, 100)
		}
		if l.Name == c.over && l.Name != "" {
			w.logOver(c, t, l, used)
		}
		if percent < lowest || l.short() || !w.on {
			continue
		}
		start, end := l.told(d)
		reached := func(p int) {
			if p > 0 && p <= percent && t.first(mark{l.Name, l.Units, p}, start) {
				a := Alert{
					Tenant: c.tenant.ID, Plan: c.tenant.Plan, Limit: l.Name, Mode: l.Mode, Percent: p,
					Used: used, Allowed: l.Units, Start: start.UTC(), End: end.UTC(), Time: d.Time.UTC(),
				}
				if !w.find(a) {
					t.forget(mark{l.Name, l.Units, p})
				}
			}
		}
		list := w.o.Percent
		if other, ok := w.o.LimitPercent[l.Name]; ok {
			list = other
		}
		for _, p := range list {
			reached(p)
		}
		reached(own)
	}
}

// told returns the period in which a threshold is told once.
func (l counted) told(d Decision) (start, end time.Time) {
	if l.Period != "" {
		b := d.Request.Bounds[l.bound]
		return b.Start, b.End
	}
	start = d.Time.Truncate(l.Window)
	return start, start.Add(l.Window)
}

func (w *watcher) logOver(c *call, t *watched, l counted, used int64) {
	if start, _ := l.told(c.decision); t.first(mark{l.Name, l.Units, overMark}, start) {
		w.log.LogAttrs(context.Background(), slog.LevelWarn, "call beyond a limit that does not refuse",
			slog.String("tenant", c.tenant.ID.String()), slog.String("tool", c.label), slog.String("limit", l.Name),
			slog.String("mode", string(l.Mode)), slog.Int64("used", used), slog.Int64("allowed", l.Units))
	}
}

// tenant returns what is known of a tenant.
func (w *watcher) tenant(id tenant.ID, now time.Time) *watched {
	w.mu.RLock()
	t := w.tenants[id]
	w.mu.RUnlock()
	if t == nil {
		w.mu.Lock()
		if t = w.tenants[id]; t == nil {
			t = &watched{marks: make(map[mark]int64)}
			t.own.Store(defaultOwnPercent)
			w.tenants[id] = t
		}
		w.mu.Unlock()
		nudge(w.fresh)
	}
	if s := now.Unix(); t.seen.Load() != s {
		t.seen.Store(s)
	}
	return t
}

// first reports whether a mark is new in its period. A call that began in the
// period before says nothing about this one.
func (t *watched) first(m mark, start time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.marks[m]; ok && last >= start.Unix() {
		return false
	}
	if len(t.marks) >= maxMarks {
		clear(t.marks)
	}
	t.marks[m] = start.Unix()
	return true
}

func (t *watched) forget(m mark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.marks, m)
}

// find keeps an alert for the store, if there is room.
func (w *watcher) find(a Alert) bool {
	a.ID = alertID(a)
	w.foundMu.Lock()
	defer w.foundMu.Unlock()
	if len(w.found) >= maxFound {
		return false
	}
	w.found[a.ID] = a
	nudge(w.wake)
	return true
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // somebody is on the way already
	}
}
