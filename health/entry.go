package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// entry is one check, for one tenant if it is a tenant's: its last result and
// the run that is under way, of which there is never more than one.
type entry struct {
	a        *Aggregator
	run      func(context.Context) error
	slots    chan struct{} // a run takes one first; nil for no limit
	timeout  time.Duration
	ttl      time.Duration
	stale    time.Duration // 0 for never
	damping  int           // failed runs in a row before a check that was ok shows as failing
	periodic bool          // probes don't cause runs
	ready    bool
	startup  bool
	passed   atomic.Bool // has been ok at least once

	mu     sync.Mutex
	last   Result
	flight *flight // nil if the check isn't running
}

// flight is one run of a check. It ends twice: for those who wait when the
// result is known (done), and in truth when the check returns. In between lies
// a check that ignores its context.
type flight struct {
	done    chan struct{}
	expired bool // guarded by entry.mu: timed out, but not returned
}

var (
	errStuck  = errors.New("still running after its time-out")
	errNoSlot = errors.New("not run: all slots are taken")
	errExited = errors.New("check ended its goroutine")
)

// begin returns the result at hand if it is the answer, and otherwise the
// flight to wait for: the one under way, or a new one if the result is as old
// as maxAge.
func (e *entry) begin(now time.Time, maxAge time.Duration) (Result, *flight) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.flight != nil && !e.flight.expired:
		return Result{}, e.flight
	case !e.last.Time.IsZero() && now.Sub(e.last.Time) < maxAge:
		return e.valid(now), nil
	case e.flight != nil:
		// The check hangs in an earlier run. Another run would be another
		// goroutine; that it still hangs is this run's result.
		e.record(StatusDown, ClassTimeout, errStuck, now, 0)
		return e.valid(now), nil
	}
	e.flight = &flight{done: make(chan struct{})}
	go e.execute(e.flight)
	return Result{}, e.flight
}

// execute makes one run. Its context isn't the prober's: the result is for all
// who ask, so neither the prober's going away nor the values of its request (a
// trace, a tenant) may touch it. It is the time-out that ends it.
func (e *entry) execute(f *flight) {
	if e.slots != nil {
		wait := time.NewTimer(e.a.opts.ProbeTimeout)
		defer wait.Stop()
		select {
		case e.slots <- struct{}{}:
			defer func() { <-e.slots }()
		case <-wait.C:
			e.land(f, StatusUnknown, ClassTimeout, errNoSlot, 0)
			return
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), e.timeout)
	defer cancel()
	start := time.Now()
	stop := context.AfterFunc(ctx, func() { e.expire(f, ctx.Err(), time.Since(start)) })
	// What stands if the check ends its goroutine (runtime.Goexit), after
	// which only deferred functions run.
	status, class, err := StatusDown, ClassInternal, errExited
	defer func() {
		stop()
		e.land(f, status, class, err, time.Since(start))
	}()
	status, class, err = e.call(ctx)
}

// call runs the check, and judges its error, which is the check's code too.
func (e *entry) call(ctx context.Context) (status Status, class Class, err error) {
	defer func() {
		if v := recover(); v != nil {
			e.a.log.LogAttrs(ctx, slog.LevelError, "health check panicked",
				e.attrs(slog.Any("panic", v), slog.String("stack", string(debug.Stack())))...)
			status, class, err = StatusDown, ClassInternal, fmt.Errorf("check panicked: %v", v)
		}
	}()
	err = e.run(ctx)
	status, class = judge(err)
	return status, class, err
}

// expire makes the result of a run that didn't return in time known.
func (e *entry) expire(f *flight, err error, took time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flight != f || f.expired {
		return
	}
	f.expired = true
	e.record(StatusDown, ClassTimeout, err, time.Now(), took)
	close(f.done)
}

// land ends a run that returned. If it had expired its result is known
// already, and what it says now comes too late.
func (e *entry) land(f *flight, status Status, class Class, err error, took time.Duration) {
	e.mu.Lock()
	e.flight = nil
	if !f.expired {
		e.record(status, class, err, time.Now(), took)
		close(f.done)
	}
	e.mu.Unlock()
	if err != nil {
		e.a.log.LogAttrs(context.Background(), slog.LevelDebug, "health check failed", e.attrs(slog.Any("err", err))...)
	}
}

// record stores a result; e.mu is held.
func (e *entry) record(status Status, class Class, err error, now time.Time, took time.Duration) {
	r := &e.last
	r.Time, r.Duration = now, took
	if status == StatusOK {
		e.passed.Store(true)
		r.Failures = 0
	} else {
		r.Failures++
		if r.Status == StatusOK && status != StatusUnknown && r.Failures < e.damping {
			return
		}
	}
	from := r.Status
	r.Status, r.Class = status, class
	if from != status || r.Since.IsZero() {
		r.Since = now
	}
	if from == status || from == StatusUnknown && status == StatusOK {
		return // the expected first result is no news
	}
	e.a.history.add(Transition{Check: r.Name, Tenant: r.Tenant, From: from, To: status, Class: class, Time: now}, err)
}

func (e *entry) result(now time.Time) Result {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.valid(now)
}

// valid returns the last result as far as it still proves anything; e.mu is
// held.
func (e *entry) valid(now time.Time) Result {
	r := e.last
	if e.stale > 0 && !r.Time.IsZero() && now.Sub(r.Time) > e.stale {
		r.Status, r.Class, r.Since = StatusUnknown, "", r.Time.Add(e.stale)
	}
	return r
}

func (e *entry) attrs(more ...slog.Attr) []slog.Attr {
	attrs := []slog.Attr{slog.String("check", e.last.Name)} // never changes, as Tenant
	if e.last.Tenant != "" {
		attrs = append(attrs, slog.String("tenant", e.last.Tenant))
	}
	return append(attrs, more...)
}
