package metering

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// LeasedOptions are the settings of a [Leased] limiter, and of what a [Meter]
// answers by itself. The zero value works.
type LeasedOptions struct {
	// MinUnits is the largest limit that is never leased: of a call all of
	// whose limits allow more, units may be leased. So small plans are exact to
	// the unit in what they show, and large ones are fast. MaxUnits leases of
	// none. Defaults to 1,000.
	MinUnits int64

	// MaxBlock is the most units that are lent at once. A block is also at most
	// a fiftieth of the smallest limit, and an eighth of what is left of any.
	// Defaults to 1,000.
	MaxBlock int64

	// TTL is how long a block may be spent; what is left of it is returned. A
	// window releases units of a block up to TTL later than others. Limits with
	// a Resolution below TTL are not leased. Defaults to 200 ms.
	TTL time.Duration

	// Now is the local clock. Defaults to time.Now.
	Now func() time.Time
}

// blockPart is the part of a limit that a block may be.
const blockPart = 50

// Leased is a [Limiter] that answers from memory where it may: it takes blocks
// of units from the limiter behind it and spends them by itself, and it repeats
// a refusal for as long as the limiter said that it holds, at most a second. A
// call of a large plan then costs a microsecond instead of a round trip, and an
// agent that calls in a loop while it is refused costs one question a second.
//
// No window and no period ever holds more than its limit, on any number of
// processes: what is lent is counted as used from the loan on until the last
// moment at which it may be spent. A call with a [Concurrent] limit is always
// asked for, and a tenant whose calls are far apart is not lent to. A call with an
// idempotency key is never served from a block; while a limit refuses, four a
// second are asked for that no earlier charge has paid for, and the others are
// refused, whoever may have paid for them.
//
// A limiter may take units for a call that has given up waiting. Its answer is
// waited for, and the units given back.
//
// Another plan or period is another set of bounds, which neither a block nor a
// refusal of the old one answers for. A process that dies takes at most one
// block of each tenant and set of limits with it, until a window has passed or
// the period has ended.
//
// Nothing is lent unless [Leased.Run] runs, which returns what is left. All
// methods are safe for concurrent use.
//
// A Meter makes its own. Make one for a Limiter that is asked without a Meter.
type Leased struct {
	limiter  Limiter
	minUnits int64
	maxBlock int64
	ttl      time.Duration
	now      func() time.Time

	mu       sync.RWMutex
	running  int // how many Runs run
	accounts map[tenant.ID]*account
	sweepAt  int
	grants   []*grant // that have not been collected

	late atomic.Int64 // questions that nobody waits for any more

	// unsettled is told of what could not be settled behind the calls, unanswered
	// of every request that was not answered.
	unsettled  func(ctx context.Context, d Decision, units int64, cause error)
	unanswered func(ctx context.Context, r Request, cause error)
}

var (
	_ Limiter  = (*Leased)(nil)
	_ Renewer  = (*Leased)(nil)
	_ Resetter = (*Leased)(nil)
)

// NewLeased returns a limiter that asks limiter. It reports every mistake in
// opts by the name of its field. Nil opts mean the defaults.
func NewLeased(limiter Limiter, opts *LeasedOptions) (*Leased, error) {
	if opts == nil {
		opts = &LeasedOptions{}
	}
	o := opts.withDefaults()
	errs := []error{o.validate("")}
	if limiter == nil {
		errs = append(errs, errors.New("limiter is nil"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("metering: configure leased limiter: %w", err)
	}
	return newLeased(limiter, o), nil
}

func newLeased(limiter Limiter, o LeasedOptions) *Leased {
	return &Leased{
		limiter: limiter, minUnits: o.MinUnits, maxBlock: o.MaxBlock, ttl: o.TTL, now: o.Now,
		accounts: make(map[tenant.ID]*account), sweepAt: 1024,
		unsettled:  func(context.Context, Decision, int64, error) {},
		unanswered: func(context.Context, Request, error) {},
	}
}

func (o LeasedOptions) withDefaults() LeasedOptions {
	if o.MinUnits == 0 {
		o.MinUnits = 1_000
	}
	if o.MaxBlock == 0 {
		o.MaxBlock = 1_000
	}
	if o.TTL == 0 {
		o.TTL = 200 * time.Millisecond
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

func (o LeasedOptions) validate(prefix string) error {
	var errs []error
	if o.MinUnits < 1 {
		errs = append(errs, fmt.Errorf("%sMinUnits: %d is negative", prefix, o.MinUnits))
	}
	if o.MaxBlock < 1 || o.MaxBlock > MaxUnits {
		errs = append(errs, fmt.Errorf("%sMaxBlock: %d is not within 1 and %d", prefix, o.MaxBlock, int64(MaxUnits)))
	}
	if o.TTL < 10*time.Millisecond || o.TTL > 10*time.Second || o.TTL%time.Millisecond != 0 {
		errs = append(errs, fmt.Errorf("%sTTL: %v is not a number of milliseconds within 10ms and 10s", prefix, o.TTL))
	}
	return errors.Join(errs...)
}

// Take implements [Limiter].
func (l *Leased) Take(ctx context.Context, r Request) (Decision, error) {
	if err := ctx.Err(); err != nil {
		return Decision{}, err
	}
	if d, ok := l.decide(r); ok {
		return d, nil
	}
	return l.take(ctx, r)
}

// Peek implements [Limiter]. Units that other processes have leased count as
// used; those of this one don't.
func (l *Leased) Peek(ctx context.Context, r Request) (Decision, error) {
	held := l.held(r)
	d, err := l.limiter.Peek(ctx, r)
	if err != nil || d.Replay {
		return d, err
	}
	allowed, refused := true, -1
	for i, b := range r.Bounds {
		s, w := &d.Limits[i], b.Weight(r.Units)
		left := s.Remaining + held[i]
		if d.Allowed {
			s.Remaining = min(left, b.Units)
			continue
		}
		if s.RetryAfter != 0 && left >= w && b.Units >= w {
			s.RetryAfter = 0
		}
		if s.RetryAfter != 0 && allowed {
			allowed, refused = false, i
		}
		s.Remaining = min(left, b.Units)
	}
	if !d.Allowed {
		d.Allowed, d.Refused = allowed, refused
		if allowed {
			d.Units = r.Units
			for i, b := range r.Bounds {
				d.Limits[i].Remaining = max(0, d.Limits[i].Remaining-b.Weight(r.Units))
			}
		}
	}
	return d, nil
}

// Settle implements [Limiter]. Units of a block that may still be spent go back
// into it, those of others to the limiter behind.
func (l *Leased) Settle(ctx context.Context, d Decision, units int64) (int64, error) {
	if d.grant != nil {
		if charged, ok := l.settleLocal(d, units); ok {
			return charged, nil
		}
		// They were counted from when they were lent on; looking for them at a
		// later time could find another call's.
		d.Time, d.Block = d.grant.at, Block{Hold: d.grant.left.Hold}
	}
	return l.settleBehind(ctx, d, units)
}

// settleLocal settles a decision from a block without asking, if it can.
func (l *Leased) settleLocal(d Decision, units int64) (charged int64, ok bool) {
	g := d.grant
	if g == nil {
		return 0, false
	}
	if units == d.Units {
		return units, true
	}
	a := g.line.account
	a.mu.Lock()
	defer a.mu.Unlock()
	more := units - d.Units
	if g.ended(l.now()) || more > g.left.Units {
		return 0, false
	}
	g.left.Units -= more
	if more < 0 {
		for _, n := range a.lines {
			n.refusals = nil
		}
	}
	return units, true
}

// Renew implements [Renewer], if the limiter behind does.
func (l *Leased) Renew(ctx context.Context, d Decision) error {
	if r, ok := l.limiter.(Renewer); ok {
		return r.Renew(ctx, d)
	}
	return nil
}

// Reset implements [Resetter], if the limiter behind does. Blocks of the tenant
// end.
func (l *Leased) Reset(ctx context.Context, r Request) error {
	resetter, ok := l.limiter.(Resetter)
	if !ok {
		return errors.New("metering: reset limits: the limiter can't")
	}
	l.giveBack(ctx, r.Tenant)
	defer l.forgive(r.Tenant)
	return resetter.Reset(ctx, r)
}
