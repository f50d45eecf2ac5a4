package billingtest

import (
	"context"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
)

// Ticker makes one pass; a [billing.Worker] is one.
type Ticker interface {
	Tick(ctx context.Context) error
}

// World is what a scenario runs in: one tenant with one target or more, each of
// which gets all usage, and nothing produced or billed yet. It outlives the
// processes in it.
type World struct {
	// Now and Advance are the clock of everything in the world.
	Now     func() time.Time
	Advance func(time.Duration)

	// PeriodEnd is when the tenant's billing period ends, two hours or more
	// after the beginning and before 34 days; the next lasts for 40 days or
	// more. Renew tells of the next one, as a webhook would.
	PeriodEnd time.Time
	Renew     func(ctx context.Context) error

	// Produce stores a usage event of the given units that occurs now.
	Produce func(ctx context.Context, units int64) error

	// Fail has the next report to each target meet the fault.
	Fail func(Fault)

	// Start returns what reports usage in the process.
	Start func(p *Process) (Ticker, error)

	// Stats returns what is left to do.
	Stats func(ctx context.Context) (billing.Stats, error)

	// Accounts returns how the usage of each target stands now.
	Accounts func(ctx context.Context) ([]Account, error)
}

// Account is how the usage of one target stands: of the first billing period,
// and of what comes after it.
type Account struct {
	Billed [2]int64 // what the provider bills, whatever its totals show yet

	// Kept is what waits for a person and was surely not applied, Doubt each
	// batch of which nobody can tell.
	Kept  [2]int64
	Doubt [2][]int64

	// Moved is what is on record as billed with the second period though it is
	// of the first.
	Moved int64
}

// Outcome is how a scenario ended.
type Outcome struct {
	Produced [2]int64 // in the first billing period, and after it
	Accounts []Account
	Stats    billing.Stats // what was left
	Last     error         // of the last pass, if it failed
}

// Exact reports whether what was produced is billed, in its own billing period
// or on record as late, and nothing is left.
func (o Outcome) Exact() bool {
	return o.Honest() && o.Stats.Parked+o.Stats.Rejected == 0
}

// Honest reports whether each unit is accounted for: billed once, in its own
// billing period or on record as late, or shown to a person as not billed or in
// doubt.
func (o Outcome) Honest() bool {
	if o.Stats.Unsealed+o.Stats.Open > 0 || len(o.Accounts) == 0 {
		return false
	}
	shown := o.Stats.Parked + o.Stats.Rejected
	for _, a := range o.Accounts {
		moved := [2]int64{-a.Moved, a.Moved}
		for i := range a.Billed {
			missing := o.Produced[i] + moved[i] - a.Billed[i] - a.Kept[i]
			if !sums(a.Doubt[i], missing) || shown == 0 && (missing != 0 || a.Kept[i] != 0) {
				return false
			}
		}
	}
	return true
}

// sums reports whether some of the parts make up the whole.
func sums(parts []int64, whole int64) bool {
	if whole == 0 {
		return true
	}
	return whole > 0 && len(parts) > 0 && (sums(parts[1:], whole) || sums(parts[1:], whole-parts[0]))
}

// Run plays the scenario until nothing is left to do, or nothing moves any
// more.
func (s Scenario) Run(ctx context.Context, w World) (Outcome, error) {
	p := play{Scenario: s, w: w}
	err := p.run(ctx)
	return p.o, err
}

// play is a scenario on its way.
type play struct {
	Scenario
	w       World
	o       Outcome
	renewed bool
	err     error // what the world, not what is tested in it, failed at
}

func (p *play) run(ctx context.Context) error {
	if p.Close != Never {
		p.until(p.w.PeriodEnd.Add(-5 * time.Minute))
	}
	p.produce(ctx, 1)
	p.produce(ctx, 20)
	// What reporters that leave the last minute alone would see.
	p.w.Advance(2 * time.Minute)
	if p.Burst {
		p.until(p.w.Now().Truncate(time.Minute).Add(time.Minute))
		p.produce(ctx, 5)
		p.passes(ctx, NewProcess(Never, nil), 1)
	}
	p.produce(ctx, 3)
	p.w.Fail(p.Fault)
	var mu sync.Mutex // targets are worked on side by side
	arrivals := int64(0)
	first := NewProcess(p.Crash, func(at Point) {
		mu.Lock()
		defer mu.Unlock()
		if at == p.Close {
			p.close()
		}
		if p.Arrive && arrivals < 8 {
			arrivals++
			p.produce(ctx, 100+arrivals)
		}
	})
	goOn := func() {}
	if p.Hang {
		goOn = p.hang(ctx, first)
	} else {
		p.passes(ctx, first, 1)
	}
	if p.Burst {
		p.produce(ctx, 3) // as much as what may be in doubt: totals can't tell the two by size
	}
	if !p.Hang {
		p.passes(ctx, first, 2)
	}
	if p.Close != Never {
		p.close()
	}
	p.restart(ctx)
	if p.Second != Never || p.Hang {
		// Several passes, so that it gets as far as to verify.
		p.passes(ctx, NewProcess(p.Second, func(at Point) {
			if at == p.Second {
				goOn()
			}
		}), 3)
		goOn()
		p.restart(ctx)
	}
	ticker, err := p.w.Start(NewProcess(Never, nil))
	for range 30 {
		if p.err != nil || err != nil {
			break
		}
		p.o.Last = ticker.Tick(ctx)
		if p.o.Stats, err = p.w.Stats(ctx); err != nil || p.o.Stats.Unsealed+p.o.Stats.Open == 0 {
			break
		}
		p.w.Advance(6 * time.Minute)
	}
	if err == nil {
		err = p.err
	}
	if err == nil {
		p.o.Accounts, err = p.w.Accounts(ctx)
	}
	return err
}

// hang has a process make a pass in which it hangs at its point, and returns what
// lets it go on, and waits for the end of the pass.
func (p *play) hang(ctx context.Context, process *Process) (goOn func()) {
	reached, resume := process.Hang()
	ticker, err := p.w.Start(process)
	if err != nil {
		p.check(err)
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = ticker.Tick(ctx)
	}()
	select {
	case <-reached:
	case <-done:
	}
	return func() {
		resume()
		<-done
	}
}

// restart passes the time in which nobody is there.
func (p *play) restart(ctx context.Context) {
	p.w.Advance(p.Restart)
	if !p.renewed && !p.w.Now().Before(p.w.PeriodEnd) {
		p.renewed = true
		p.check(p.w.Renew(ctx))
	}
	p.produce(ctx, 7)
}

// passes has a process make its passes, or as many as it lives for.
func (p *play) passes(ctx context.Context, process *Process, n int) {
	ticker, err := p.w.Start(process)
	if err != nil {
		p.check(err)
		return
	}
	for range n {
		_ = ticker.Tick(ctx) // a dead process fails at everything
		p.w.Advance(5 * time.Second)
	}
}

func (p *play) produce(ctx context.Context, units int64) {
	if err := p.w.Produce(ctx, units); err != nil {
		p.check(err)
		return
	}
	period := 0
	if !p.w.Now().Before(p.w.PeriodEnd) {
		period = 1
	}
	p.o.Produced[period] += units
}

// close ends the billing period, unless it has ended.
func (p *play) close() { p.until(p.w.PeriodEnd.Add(time.Second)) }

func (p *play) until(at time.Time) {
	if d := at.Sub(p.w.Now()); d > 0 {
		p.w.Advance(d)
	}
}

func (p *play) check(err error) {
	if p.err == nil {
		p.err = err
	}
}
