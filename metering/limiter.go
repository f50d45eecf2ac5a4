package metering

import (
	"context"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Limiter counts units against limits. redisquota.Limiter is the one for
// production, [Memory] the one for a single process; meteringtest.TestLimiter
// is what both must pass. All methods are safe for concurrent use.
type Limiter interface {
	// Take takes r.Units from every bound of r at once, or from none: then
	// Decision.Allowed is false and nothing has changed. An error means that
	// the limiter can't be asked, never that a limit refused.
	Take(ctx context.Context, r Request) (Decision, error)

	// Peek tells what Take would decide, and changes nothing.
	Peek(ctx context.Context, r Request) (Decision, error)

	// Settle changes what an admitted call is charged from d.Units to units,
	// and returns what it is charged now. Less gives units back to the window
	// or period from which they were taken, even if that has ended; more takes
	// as many of the missing units as every bound still admits. Units that a
	// concurrent call with the same idempotency key relies on stay as they are.
	// Attempts are never given back.
	Settle(ctx context.Context, d Decision, units int64) (charged int64, err error)
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
}

// Bound is a [Limit] made concrete for one call.
type Bound struct {
	Limit

	// Tool restricts the bound to the units of one tool; empty means all tools
	// of the tenant.
	Tool string

	// Attempts makes every call count 1, replays too, and never be given back.
	Attempts bool

	// Start and End are the current period of a limit that has one.
	Start, End time.Time
}

// Weight is what a call of so many units takes from this bound.
func (b Bound) Weight(units int64) int64 {
	if b.Attempts {
		return 1
	}
	return units
}

// Source says who decided.
type Source string

// The sources of a decision.
const (
	SourceLimiter   Source = "limiter"   // the limiter, all processes together
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

	// Request is what was asked, for Settle.
	Request Request
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
