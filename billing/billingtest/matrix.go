package billingtest

import (
	"context"
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
)

// Scenario is one way for things to go wrong.
type Scenario struct {
	Crash   Point         // where the first process dies
	Fault   Fault         // what its first report meets
	Restart time.Duration // how long until another process takes over
	Arrive  bool          // whether more usage arrives between any two steps
	Second  Point         // where the second process dies; a third takes over
	Burst   bool          // whether all this befalls the second of three batches within one minute
}

// String names the scenario.
func (s Scenario) String() string {
	name := fmt.Sprintf("crash %s, fault %s, restart after %s", s.Crash, s.Fault, s.Restart)
	if s.Second != Never {
		name += ", again " + string(s.Second)
	}
	if s.Arrive {
		name += ", with arrivals"
	}
	if s.Burst {
		name += ", in a burst"
	}
	return name
}

// Matrix returns every combination of a crash point, a fault, a restart after
// a minute or after 25 hours, and arrivals or none or a burst; and, for the
// faults that lose an answer, of a second crash while the first is being made
// good, in a burst or not.
func Matrix() []Scenario {
	var all []Scenario
	for _, crash := range Points() {
		for _, fault := range Faults() {
			for _, restart := range []time.Duration{time.Minute, 25 * time.Hour} {
				for _, arrive := range []bool{false, true} {
					all = append(all, Scenario{crash, fault, restart, arrive, Never, false})
				}
				all = append(all, Scenario{crash, fault, restart, false, Never, true})
			}
		}
	}
	for _, fault := range []Fault{DropBefore, DropAfter, FailAfter} {
		for _, second := range []Point{AfterClaim, AfterReport, BeforeVerify, AfterVerify, BeforeSettle, AfterSettle} {
			for _, restart := range []time.Duration{time.Minute, 25 * time.Hour} {
				for _, burst := range []bool{false, true} {
					all = append(all, Scenario{AfterReport, fault, restart, false, second, burst})
				}
			}
		}
	}
	return all
}

// Ticker makes one pass; a [billing.Worker] is one.
type Ticker interface {
	Tick(ctx context.Context) error
}

// World is what a scenario runs in: one tenant with one target, nothing
// produced or billed yet. It outlives the processes in it.
type World struct {
	// Now and Advance are the clock of everything in the world.
	Now     func() time.Time
	Advance func(time.Duration)

	// Produce stores a usage event of the given units that occurs now.
	Produce func(ctx context.Context, units int64) error

	// Fail has the next report meet the fault.
	Fail func(Fault)

	// Start returns what reports usage in the process.
	Start func(p *Process) (Ticker, error)

	// Stats returns what is left to do.
	Stats func(ctx context.Context) (billing.Stats, error)

	// Billed returns what the provider would bill now.
	Billed func() int64
}

// Outcome is how a scenario ended.
type Outcome struct {
	Produced, Billed int64
	Stats            billing.Stats // what was left
	Last             error         // of the last pass, if it failed
}

// Exact reports whether what was produced is billed, and nothing is left.
func (o Outcome) Exact() bool {
	return o.Produced == o.Billed && o.Stats.Unsealed+o.Stats.Open+o.Stats.Parked+o.Stats.Rejected == 0
}

// Run plays the scenario until nothing is left to do, or nothing moves any
// more.
func (s Scenario) Run(ctx context.Context, w World) (o Outcome, err error) {
	produce := func(units int64) {
		if e := w.Produce(ctx, units); e != nil {
			err = e
			return
		}
		o.Produced += units
	}
	produce(1)
	produce(20)
	// What reporters that leave the last minute alone would see.
	w.Advance(2 * time.Minute)
	if s.Burst {
		w.Advance(w.Now().Truncate(time.Minute).Add(time.Minute).Sub(w.Now()))
		produce(5)
		healthy, startErr := w.Start(NewProcess(Never, nil))
		if startErr != nil {
			return o, startErr
		}
		_ = healthy.Tick(ctx)
		w.Advance(5 * time.Second)
	}
	produce(3)
	w.Fail(s.Fault)
	for i, crash := range []Point{s.Crash, s.Second} {
		arrivals := int64(0)
		process := NewProcess(crash, func(Point) {
			if s.Arrive && arrivals < 8 {
				arrivals++
				produce(100 + arrivals)
			}
		})
		// Several passes, so that the second process gets as far as to verify.
		ticker, startErr := w.Start(process)
		if startErr != nil {
			return o, startErr
		}
		for pass := range 3 {
			_ = ticker.Tick(ctx) // a dead process fails at everything
			w.Advance(5 * time.Second)
			if s.Burst && i == 0 && pass == 0 {
				produce(3) // as much as what may be in doubt: totals can't tell the two by size
			}
		}
		w.Advance(s.Restart)
		produce(7)
		if s.Second == Never {
			break
		}
	}
	ticker, startErr := w.Start(NewProcess(Never, nil))
	if startErr != nil {
		return o, startErr
	}
	for range 12 {
		o.Last = ticker.Tick(ctx)
		if o.Stats, err = w.Stats(ctx); err != nil || o.Stats.Unsealed+o.Stats.Open == 0 {
			break
		}
		w.Advance(6 * time.Minute)
	}
	o.Billed = w.Billed()
	return o, err
}
