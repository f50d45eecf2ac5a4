package metering

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	breakerFailures = 5           // failures in a row that open the breaker
	breakerProbe    = time.Second // how often an open breaker lets one question through

	// inFlight is how many questions a process asks at once: enough to keep a
	// limiter busy, few enough that the budget measures the limiter and not
	// the queue in front of it when a thousand calls come at once. A limiter may
	// be good for more.
	inFlight = 16
)

var errBreakerOpen = errors.New("not asked: the last questions failed")

// guard puts a time budget and a circuit breaker before a Limiter, and stands
// in for it with a local count while it is away.
type guard struct {
	limiter Limiter
	leased  *Leased // limiter, if it can answer without being asked
	budget  time.Duration
	now     func() time.Time
	log     *slog.Logger
	permits chan struct{}
	outages atomic.Int64 // breaker openings that have ended

	// local counts what is admitted without the limiter. It goes on from one
	// outage to the next: one that fails every other question must not give each
	// call that it fails a limit that nothing has been used of.
	local *Memory

	mu       sync.Mutex
	failures int           // in a row
	openedAt time.Time     // when the breaker was
	probeAt  time.Time     // when an open breaker lets the next question through
	probing  bool          // somebody asks beside the calls while the breaker is open
	returned chan struct{} // closed when the limiter answers again; nil if nobody waits
}

func newGuard(l Limiter, budget time.Duration, now func() time.Time, log *slog.Logger) *guard {
	leased, _ := l.(*Leased)
	return &guard{limiter: l, leased: leased, budget: budget, now: now, log: log, permits: make(chan struct{}, atOnce(l)), local: NewMemory(now)}
}

// atOnce is how many questions l is asked at once: inFlight, or as many as l
// says.
func atOnce(l Limiter) int {
	if leased, ok := l.(*Leased); ok {
		l = leased.limiter
	}
	if says, ok := l.(interface{ AtOnce() int }); ok {
		return max(inFlight, says.AtOnce())
	}
	return inFlight
}

func (g *guard) take(ctx context.Context, r Request) (d Decision, err error) {
	if g.leased != nil {
		if d, ok := g.leased.decide(r); ok {
			return d, nil
		}
	}
	err = g.ask(ctx, func(ctx context.Context) error {
		d, err = g.limiter.Take(ctx, r)
		return err
	})
	return d, err
}

func (g *guard) peek(ctx context.Context, r Request) (d Decision, err error) {
	err = g.ask(ctx, func(ctx context.Context) error {
		d, err = g.limiter.Peek(ctx, r)
		return err
	})
	return d, err
}

func (g *guard) settle(ctx context.Context, d Decision, units int64) (charged int64, err error) {
	if d.Source == SourceLocal {
		return g.local.Settle(ctx, d, units)
	}
	if g.leased != nil {
		if charged, ok := g.leased.settleLocal(d, units); ok {
			return charged, nil
		}
	}
	err = g.ask(ctx, func(ctx context.Context) error {
		charged, err = g.limiter.Settle(ctx, d, units)
		return err
	})
	return charged, err
}

// takeLocal decides for this process alone, which has its share of each limit.
func (g *guard) takeLocal(ctx context.Context, r Request, processes int64) (Decision, error) {
	shared := r
	if processes > 1 {
		shared.Bounds = slices.Clone(r.Bounds)
		for i := range shared.Bounds {
			shared.Bounds[i].Units = max(1, r.Bounds[i].Units/processes)
		}
	}
	d, err := g.local.Take(ctx, shared)
	d.Source, d.Request = SourceLocal, r
	for i := range d.Limits {
		d.Limits[i].Units = r.Bounds[i].Units
	}
	return d, err
}

func (g *guard) ask(ctx context.Context, question func(context.Context) error) error {
	select {
	case g.permits <- struct{}{}:
	case <-ctx.Done():
		return noPermitError{ctx.Err()}
	}
	defer func() { <-g.permits }()
	if !g.admit() {
		return errBreakerOpen
	}
	asked, cancel := context.WithTimeout(ctx, g.budget)
	defer cancel()
	err := question(asked)
	if err != nil && ctx.Err() != nil {
		return err // the caller gave up: that says nothing about the limiter
	}
	if err != nil && asked.Err() != nil {
		err = fmt.Errorf("no answer within %v: %w", g.budget, err)
	}
	g.report(err)
	return err
}

// noPermitError is of a question that had to wait for others until its caller gave up.
type noPermitError struct{ error }

func (e noPermitError) Unwrap() error  { return e.error }
func (e noPermitError) NotAsked() bool { return true }

// check asks whether the limiter answers, whatever the breaker says.
func (g *guard) check(ctx context.Context) error {
	checker := g.checker()
	if checker == nil {
		if g.open() {
			return errBreakerOpen
		}
		return nil
	}
	err := checker.Check(ctx)
	if err != nil && ctx.Err() == context.Canceled {
		return err
	}
	g.report(err)
	return err
}

// checker is the limiter if it can tell whether it is there, else nil.
func (g *guard) checker() interface{ Check(context.Context) error } {
	limiter := g.limiter
	if g.leased != nil {
		limiter = g.leased.limiter
	}
	checker, _ := limiter.(interface{ Check(context.Context) error })
	return checker
}

func (g *guard) admit() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failures < breakerFailures {
		return true
	}
	now := g.now()
	if g.probing || now.Before(g.probeAt) {
		return false
	}
	g.probeAt = now.Add(breakerProbe)
	return true
}

func (g *guard) report(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		if g.failures >= breakerFailures {
			g.outages.Add(1)
			g.log.LogAttrs(context.Background(), slog.LevelInfo, "limiter is back", slog.Duration("away", g.now().Sub(g.openedAt)))
		}
		g.failures = 0
		g.local.forgetKeys() // the journal has told the limiter of them, or will
		if g.returned != nil {
			close(g.returned)
			g.returned = nil
		}
		return
	}
	if g.failures++; g.failures >= breakerFailures {
		now := g.now()
		g.probeAt = now.Add(breakerProbe)
		if g.failures == breakerFailures {
			g.openedAt = now
			g.log.LogAttrs(context.Background(), slog.LevelWarn, "limiter is away, calls don't ask it until it is back", slog.Any("err", err))
		}
	}
}

// back returns a channel that is closed when the limiter is asked, now or again.
func (g *guard) back() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.returned == nil {
		g.returned = make(chan struct{})
	}
	returned := g.returned
	if g.failures < breakerFailures {
		close(returned)
		g.returned = nil
	}
	return returned
}

// probe asks in the place of calls while the breaker is open, until ctx is done:
// so no call waits for a limiter that is known to be away.
func (g *guard) probe(ctx context.Context) error {
	if g.checker() == nil {
		<-ctx.Done()
		return nil
	}
	set := func(probing bool) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.probing = probing
	}
	set(true)
	defer set(false)
	ticker := time.NewTicker(breakerProbe)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if g.open() {
				asked, cancel := context.WithTimeout(ctx, g.budget)
				_ = g.check(asked) // the breaker has been told
				cancel()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (g *guard) open() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failures >= breakerFailures
}
