package metering

import (
	"context"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Limiter counts units against limits. redisquota.Limiter is the one for
// production, [Memory] the one for a single process; meteringtest.TestLimiter
// is what both must pass. All methods are safe for concurrent use.
//
// What a limiter can do besides is known by its methods: [Renewer], [Resetter],
// [Restorer], where it says what errors may tell, and [Seeder]. A Meter looks for
// two more:
//
//   - Check(context.Context) error reports whether it can be asked. Meter.Check asks
//     it, and [Meter.Run] once a second while the limiter is away, so that no call
//     has to; without it, calls do, and Meter.Check tells how the last of them went.
//   - AtOnce() int is how many questions it is good for at once; a Meter asks at
//     most so many, 16 if it is less or not said, and has the others wait.
type Limiter interface {
	// Take takes r.Units from every bound of r at once, or from none: then
	// Decision.Allowed is false and nothing has changed. An error means that
	// the limiter can't be asked, never that a limit refused.
	Take(ctx context.Context, r Request) (Decision, error)

	// Peek tells what Take would decide, and changes nothing. What the call would
	// take counts as used, as it does then: of no units still a slot and an attempt.
	Peek(ctx context.Context, r Request) (Decision, error)

	// Settle ends an admitted call: it changes what the call is charged from
	// d.Units to units, and returns what it is charged now. Less gives units
	// back to the window or period from which they were taken, even if that has
	// ended; more takes as many of the missing units as every bound still
	// admits. Units that a concurrent call with the same idempotency key relies
	// on stay as they are. Attempts are never given back. The slots that the
	// call holds are freed, and what d.Block says is given back, once. A call that
	// holds neither and is charged what it was admitted for need not be settled.
	Settle(ctx context.Context, d Decision, units int64) (charged int64, err error)
}

// Renewer is what a Limiter is besides if slots of [Concurrent] limits can be
// held longer than Limit.Hold.
type Renewer interface {
	// Renew holds the slots of an admitted call for another Limit.Hold from
	// now. Slots that were lost meanwhile are taken again without a question:
	// the call that holds them is running.
	Renew(ctx context.Context, d Decision) error
}

// Resetter is what a Limiter is besides if its counters can be set to zero.
type Resetter interface {
	// Reset sets the counters of r's bounds to zero. Calls that were admitted
	// before give nothing back to them any more. Idempotency keys and the
	// slots of calls in flight stay.
	Reset(ctx context.Context, r Request) error
}

// Request is what one call draws on.
type Request struct {
	Tenant tenant.ID
	Units  int64
	Bounds []Bound

	// ID is the id of the usage event if this call is charged.
	ID string

	// Key is set for a call with an idempotency key: a hash of tool, arguments
	// and key. While the limiter remembers a charge under the same Key of the
	// tenant, at least for KeyTTL, Take admits the call as a replay: no units
	// are taken, and the decision carries the ID and Units of the first charge.
	Key    string
	KeyTTL time.Duration

	// Receipt asks a limiter that is a [Restorer] to remember, for a day, that it
	// carried out this request, and what follows from it, so that it can be asked
	// if the answer was lost. That costs it some percent of its speed.
	Receipt bool

	// Block asks for units beside those of the call, for the process to spend
	// by itself; not for a call with a Key. A limiter that does not lend leaves
	// it.
	Block Block
}

// Block is what a limiter lends to a process: units and attempts that count as
// used from the loan on until the last moment at which they may be spent, and
// a window longer, so that spending them late never lets a window hold more
// than its limit.
type Block struct {
	// ID names the loan; nothing is lent without it. What is left of a loan is
	// given back once, however often that is tried, within a day. The name of
	// one of which nothing is left may be used again.
	ID string

	Units int64         // of each bound that counts units
	Calls int64         // of each bound that counts attempts
	Hold  time.Duration // how long after the decision they may be spent
}

// lendable is the part of what a bound has left that Block may take: near a
// limit, processes must not hold what another one could use.
const lendable = 8

// Bound is a [Limit] made concrete for one call.
type Bound struct {
	Limit

	// Tool restricts the bound to the units of one tool; empty means all tools
	// of the tenant.
	Tool string

	// Attempts makes every call count 1, replays too, and never be given back.
	// It needs a Window.
	Attempts bool

	// Start and End are the current period of a limit that has one.
	Start, End time.Time
}

// Weight is what a call of so many units takes from this bound.
func (b Bound) Weight(units int64) int64 {
	if b.Attempts || b.Hold > 0 {
		return 1
	}
	return units
}

// lent is what a block takes from this bound.
func (b Bound) lent(block Block) int64 {
	switch {
	case b.Hold > 0:
		return 0
	case b.Attempts:
		return block.Calls
	default:
		return block.Units
	}
}

// refundable reports whether a bound gets back what a call did not need.
func (b Bound) refundable() bool { return !b.Attempts && b.Hold == 0 }

// Source says who decided.
type Source string

// The sources of a decision.
const (
	SourceLimiter   Source = "limiter"   // the limiter, all processes together
	SourceLease     Source = "lease"     // this process, from units that the limiter lent it
	SourceRefusal   Source = "refusal"   // this process, from what the limiter said a moment ago
	SourceLocal     Source = "local"     // this process alone, the limiter being away
	SourceUnlimited Source = "unlimited" // nobody: the plan has no limit, or the tool is free
)

// Decision is a limiter's answer.
type Decision struct {
	Allowed bool

	// ID and Units are the event id and the units that the call is charged
	// under, of the first charge if Replay is set.
	ID     string
	Units  int64
	Replay bool

	// Limits is the state of each bound after the decision, in the order of
	// Request.Bounds.
	Limits []LimitState

	// Refused is the index in Limits of the first bound that refused, -1 if
	// none did.
	Refused int

	// Time is when the decision was made, by the limiter's clock.
	Time time.Time

	// Source is SourceLimiter when a limiter returns the decision.
	Source Source

	// Slot is the name under which the call holds slots of Concurrent limits
	// until it is settled; empty if it holds none.
	Slot string

	// Block is what was lent beside the call's own units; zero if nothing was.
	Block Block

	// Request is what was asked, for Settle.
	Request Request

	grant *grant // of a Leased limiter, that the units are from
}

// LimitState is where one limit stands.
type LimitState struct {
	Name  string
	Units int64 // what the limit allows

	// Remaining is how many units are left, never negative.
	Remaining int64

	// RetryAfter is when this limit would admit the call that it refused:
	// always sufficient if nobody else takes units meanwhile. It is 0 if the
	// limit admits the call now, and negative if it never will, because the
	// call alone costs more than the limit allows.
	RetryAfter time.Duration

	// Mode is that of the limit, as [Meter.Remaining] returns it; limiters
	// leave it.
	Mode Mode
}

// RetryAfter is when every limit would admit a refused call: the longest of
// its limits, negative if one never will.
func (d Decision) RetryAfter() time.Duration {
	var longest time.Duration
	for _, l := range d.Limits {
		if l.RetryAfter < 0 {
			return -1
		}
		longest = max(longest, l.RetryAfter)
	}
	return longest
}
