package billingtest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Point is a moment in a reporter's work.
type Point string

// The points. Verify is reached only by deliveries that can't be proved
// otherwise.
const (
	Never        Point = "never"
	BeforeSeal   Point = "before seal"
	AfterSeal    Point = "after seal"
	BeforeClaim  Point = "before claim"
	AfterClaim   Point = "after claim"
	BeforeReport Point = "before report"
	AfterReport  Point = "after report"
	BeforeVerify Point = "before verify"
	AfterVerify  Point = "after verify"
	BeforeSettle Point = "before settle"
	AfterSettle  Point = "after settle"
	WhileDown    Point = "while down" // between one process and the next
)

// Points returns the points of a first pass.
func Points() []Point {
	return []Point{
		Never, BeforeSeal, AfterSeal, BeforeClaim, AfterClaim,
		BeforeReport, AfterReport, BeforeSettle, AfterSettle,
	}
}

// ErrDead is what a dead process gets from everything that it touches.
var ErrDead = errors.New("billingtest: the process is dead")

// Process stands for a process that dies at a point: from then on nothing that
// it does has an effect. It is safe for concurrent use.
type Process struct {
	at     Point
	onStep func(Point)

	mu      sync.Mutex
	dead    bool
	hung    bool
	calls   int           // under way
	reached chan struct{} // with Hang: closed when it hangs
	resume  chan struct{}
}

// NewProcess returns a process that dies the first time that it is at the
// point. onStep, which may be nil, is called at each point that a living
// process reaches, that one included.
func NewProcess(at Point, onStep func(Point)) *Process { return &Process{at: at, onStep: onStep} }

// Hang has the process hang at its point instead, with all that it does:
// reached is closed when nothing moves any more, and it goes on when resume is
// called. Calls of the provider that it was about to make have timed out then.
func (c *Process) Hang() (reached <-chan struct{}, resume func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reached, c.resume = make(chan struct{}), make(chan struct{})
	return c.reached, sync.OnceFunc(func() { close(c.resume) })
}

// Step tells that the process is at p. It returns an error when it does not go
// on: [ErrDead] if it is dead.
func (c *Process) Step(p Point) error {
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return ErrDead
	}
	here, hangs := p == c.at, c.reached != nil
	c.dead = here && !hangs
	dead := c.dead
	c.mu.Unlock()
	if c.onStep != nil {
		c.onStep(p)
	}
	switch {
	case dead:
		return ErrDead
	case hangs:
		return c.hang(p, here)
	}
	return nil
}

// hang waits if the process hangs, or begins to here.
func (c *Process) hang(p Point, here bool) error {
	c.mu.Lock()
	if here && !c.hung {
		c.hung = true
		c.still()
	}
	hung := c.hung
	c.mu.Unlock()
	if !hung {
		return nil
	}
	select {
	case <-c.resume: // long ago
		return nil
	default:
	}
	<-c.resume
	if p == BeforeReport || p == BeforeVerify {
		return context.DeadlineExceeded
	}
	return nil
}

// still tells when the process has come to a standstill. It needs the lock.
func (c *Process) still() {
	if !c.hung || c.calls > 0 {
		return
	}
	select {
	case <-c.reached:
	default:
		close(c.reached)
	}
}

// enter and leave are around a call, which a process that hangs doesn't begin.
func (c *Process) enter(p Point) error {
	c.mu.Lock()
	c.calls++
	hung := c.hung
	if hung {
		c.calls--
	}
	c.mu.Unlock()
	if !hung {
		return nil
	}
	err := c.hang(p, false)
	c.mu.Lock()
	c.calls++
	c.mu.Unlock()
	return err
}

func (c *Process) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls--
	if c.reached != nil {
		c.still()
	}
}

// Ledger returns l as the process sees it.
func (c *Process) Ledger(l billing.Ledger) billing.Ledger { return mortalLedger{l, c} }

// Reporter returns r as the process sees it.
func (c *Process) Reporter(r billing.Reporter) billing.Reporter { return mortalReporter{r, c} }

// around calls f between two points; if the process dies at the second, f has
// had its effect but its result is lost.
func around[T any](c *Process, before, after Point, f func() (T, error)) (T, error) {
	var zero T
	if err := c.Step(before); err != nil {
		return zero, err
	}
	if err := c.enter(before); err != nil {
		return zero, err
	}
	v, err := f()
	c.leave()
	if dead := c.Step(after); dead != nil {
		return zero, dead
	}
	return v, err
}

type mortalLedger struct {
	billing.Ledger
	process *Process
}

func (m mortalLedger) Seal(ctx context.Context, id tenant.ID, now time.Time, caps func(billing.Target) billing.Caps) (int, error) {
	return around(m.process, BeforeSeal, AfterSeal, func() (int, error) { return m.Ledger.Seal(ctx, id, now, caps) })
}

func (m mortalLedger) Claim(ctx context.Context, target int64, now time.Time, lease time.Duration, caps billing.Caps, decide func(billing.Batch) billing.Decision) (*billing.Claim, error) {
	return around(m.process, BeforeClaim, AfterClaim, func() (*billing.Claim, error) {
		return m.Ledger.Claim(ctx, target, now, lease, caps, decide)
	})
}

func (m mortalLedger) Settle(ctx context.Context, c billing.Claim, now time.Time, v billing.Verdict) error {
	_, err := around(m.process, BeforeSettle, AfterSettle, func() (struct{}, error) {
		return struct{}{}, m.Ledger.Settle(ctx, c, now, v)
	})
	return err
}

type mortalReporter struct {
	billing.Reporter
	process *Process
}

func (m mortalReporter) Report(ctx context.Context, d billing.Delivery) (billing.Receipt, error) {
	return around(m.process, BeforeReport, AfterReport, func() (billing.Receipt, error) { return m.Reporter.Report(ctx, d) })
}

func (m mortalReporter) Verify(ctx context.Context, d billing.Delivery) (billing.Presence, error) {
	return around(m.process, BeforeVerify, AfterVerify, func() (billing.Presence, error) { return m.Reporter.Verify(ctx, d) })
}
