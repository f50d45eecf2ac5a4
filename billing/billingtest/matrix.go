package billingtest

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Scenario is one way for things to go wrong.
type Scenario struct {
	Crash   Point         // where the first process dies
	Fault   Fault         // what its first report meets
	Restart time.Duration // how long until another process takes over
	Arrive  bool          // whether more usage arrives between any two steps
	Second  Point         // where the second process dies; a third takes over
	Burst   bool          // whether all this befalls the second of three batches within one minute
	Lag     time.Duration // how late the provider's totals are
	Close   Point         // where the first process is when the billing period ends; by WhileDown it has ended
	Hang    bool          // whether the first process does not die but hangs, and goes on when the second dies or has made its passes
}

// String names the scenario.
func (s Scenario) String() string {
	name := "crash"
	if s.Hang {
		name = "hang"
	}
	name += fmt.Sprintf(" %s, fault %s, restart after %s, totals %s late", s.Crash, s.Fault, s.Restart, s.Lag)
	if s.Second != Never {
		name += ", again " + string(s.Second)
	}
	if s.Arrive {
		name += ", with arrivals"
	}
	if s.Burst {
		name += ", in a burst"
	}
	if s.Close != Never {
		name += ", period ends " + string(s.Close)
	}
	return name
}

// Open reports whether the billing period outlasts the scenario. Then all usage
// must end up billed; where a period ends in the middle, some may be for a
// person to decide.
func (s Scenario) Open() bool { return s.Close == Never && s.Restart < 30*24*time.Hour }

// Restarts are how long it takes until another process takes over: within
// every window that a provider remembers something for, at its very end, and
// long after it.
func Restarts() []time.Duration {
	const day = 24 * time.Hour
	return []time.Duration{time.Minute, day - time.Second, day, day + time.Second, 25 * time.Hour, 40 * day}
}

// Matrix returns more than 1,800 scenarios: every combination of a crash point,
// a fault, the time until the restart, and arrivals or none or a burst; for the
// faults that lose an answer, of a second crash while the first is being made
// good; and of a process that hangs for so long that another takes over. How late the totals are, and whether and where the billing period ends,
// is spread over them evenly, and the same each time.
func Matrix() []Scenario {
	var all []Scenario
	for _, crash := range Points() {
		for _, fault := range Faults() {
			for _, restart := range Restarts() {
				for _, company := range []struct{ arrive, burst bool }{{}, {arrive: true}, {burst: true}} {
					all = append(all, Scenario{
						Crash: crash, Fault: fault, Restart: restart, Arrive: company.arrive, Burst: company.burst, Second: Never,
					})
				}
			}
		}
	}
	for _, fault := range []Fault{DropBefore, DropAfter, FailAfter} {
		for _, second := range []Point{AfterClaim, AfterReport, BeforeVerify, AfterVerify, BeforeSettle, AfterSettle} {
			for _, restart := range []time.Duration{time.Minute, 25 * time.Hour} {
				for _, burst := range []bool{false, true} {
					all = append(all, Scenario{Crash: AfterReport, Fault: fault, Restart: restart, Second: second, Burst: burst})
				}
			}
		}
	}
	for _, hang := range []Point{AfterClaim, AfterReport, BeforeSettle} {
		for _, fault := range []Fault{NoFault, DropBefore, DropAfter, FailAfter, Limited, Denied} {
			for _, second := range []Point{Never, AfterClaim, AfterReport, BeforeSettle} {
				for _, restart := range []time.Duration{5 * time.Minute, 25 * time.Hour} {
					for _, burst := range []bool{false, true} {
						all = append(all, Scenario{Crash: hang, Hang: true, Fault: fault, Restart: restart, Second: second, Burst: burst})
					}
				}
			}
		}
	}
	random := rand.New(rand.NewPCG(1, 1))
	lags := []time.Duration{0, 10 * time.Minute, 30 * time.Minute}
	closes := []Point{Never, Never, Never, Never, AfterSeal, AfterClaim, AfterReport, WhileDown}
	for i := range all {
		all[i].Lag = lags[random.IntN(len(lags))]
		all[i].Close = closes[random.IntN(len(closes))]
	}
	return all
}
