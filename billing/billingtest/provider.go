package billingtest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
)

// Memory of the provider, as Stripe documents it: for idempotency keys, for
// the identifiers of meter events, how late its totals are and by what they are
// rounded, how old and how far ahead a meter event may be, and when the invoice
// of a period is final.
const (
	keyMemory        = 24 * time.Hour
	identifierMemory = 24 * time.Hour
	summaryLag       = 10 * time.Minute
	summaryWindow    = time.Minute
	maxAge           = 35 * 24 * time.Hour
	maxFuture        = 5 * time.Minute
	finalAfter       = time.Hour
	always           = 10 * 365 * 24 * time.Hour
)

// Provider is a [billing.Reporter] that is its own provider, in memory: it
// forgets idempotency keys and identifiers after 24 hours, replays the failure
// that it saved under a key, shows its totals late, and takes usage of a period
// whose invoice is final without billing it. It outlives the workers that report
// to it, and is safe for concurrent use.
type Provider struct {
	mode billing.Mode
	now  func() time.Time

	mu      sync.Mutex
	lag     time.Duration
	faults  []Fault
	keys    map[string]saved
	seen    map[string]time.Time // identifiers
	entries []entry
	calls   int
}

// saved is what the provider remembers under an idempotency key.
type saved struct {
	at   time.Time
	fail bool
}

// entry is an amount of usage that the provider has taken.
type entry struct {
	id       string // of the delivery
	target   billing.Target
	at       time.Time // the usage's own time
	quantity int64
	taken    time.Time
	gone     time.Time // when it was taken back; zero: it was not
	lost     bool      // its invoice was final
}

var (
	_ billing.Reporter = (*Provider)(nil)
	_ billing.Totaler  = (*Provider)(nil)
	_ billing.Voider   = (*Provider)(nil)
)

// NewProvider returns a provider of the given mode that lives by the clock
// now. One of [billing.ModeInvoiceItem] counts an item at the start of the billing
// period that it is of.
func NewProvider(mode billing.Mode, now func() time.Time) *Provider {
	return &Provider{mode: mode, now: now, lag: summaryLag, keys: make(map[string]saved), seen: make(map[string]time.Time)}
}

// Fail has the next reports meet the faults, one each.
func (p *Provider) Fail(faults ...Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, faults...)
}

// Lag sets how late the provider's totals are: 10 minutes until then. Its Caps
// allow for 5 minutes more.
func (p *Provider) Lag(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lag = d
}

// Total returns what the provider would bill the target for usage in [from,
// to).
func (p *Provider) Total(t billing.Target, from, to time.Time) (total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.entries {
		if e.target == place(t) && !e.lost && e.gone.IsZero() && !e.at.Before(from) && e.at.Before(to) {
			total += e.quantity
		}
	}
	return total
}

// Calls returns how many reports have reached the provider.
func (p *Provider) Calls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

// Caps implements [billing.Reporter].
func (p *Provider) Caps(t billing.Target) billing.Caps {
	p.mu.Lock()
	lag := p.lag + 5*time.Minute
	p.mu.Unlock()
	if p.mode == billing.ModeUsageRecord {
		return billing.Caps{
			Overwrite: !t.Additive, KeyOnly: t.Additive, DedupeWindow: keyMemory - time.Hour,
			VerifyLag: lag, SlotGranularity: time.Second,
		}
	}
	if p.mode == billing.ModeInvoiceItem {
		return billing.Caps{
			KeyOnly: true, DedupeWindow: keyMemory - time.Hour, VerifyLag: lag, SlotGranularity: time.Second,
			LateGrace: always, VoidWindow: always,
		}
	}
	return billing.Caps{
		DedupeWindow: identifierMemory - time.Hour, VerifyLag: lag,
		SlotGranularity: time.Second, VerifyWindow: summaryWindow, MaxAge: maxAge, MaxFuture: maxFuture, LateGrace: finalAfter,
		VoidWindow: identifierMemory - time.Minute,
	}
}

// Report implements [billing.Reporter].
func (p *Provider) Report(ctx context.Context, d billing.Delivery) (billing.Receipt, error) {
	if err := p.refuses(ctx, d); err != nil {
		return billing.Receipt{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fault := p.fault()
	if r, ok := turnedAway[fault]; ok {
		return r, nil
	}
	p.calls++
	now := p.now()
	if s, ok := p.keys[d.IdempotencyKey]; ok && now.Sub(s.at) < keyMemory {
		if s.fail {
			return billing.Receipt{Reason: "internal error, replayed", NewEpoch: true}, nil
		}
		return p.answer(fault, billing.Accepted), nil
	}
	p.keys[d.IdempotencyKey] = saved{at: now, fail: fault == FailBefore || fault == FailAfter}
	if fault == FailBefore {
		return billing.Receipt{Reason: "internal error", NewEpoch: true}, nil
	}
	return p.answer(fault, p.take(d, now)), nil
}

// refuses returns an error for what is no request to this provider.
func (p *Provider) refuses(ctx context.Context, d billing.Delivery) error {
	if d.Target.Mode != p.mode {
		return errors.New("billingtest: target of another mode")
	}
	return ctx.Err()
}

// turnedAway are the answers to requests that don't come to anything.
var turnedAway = map[Fault]billing.Receipt{
	DropBefore: {Reason: "connection reset"},
	Limited:    {Result: billing.NotApplied, RetryAfter: time.Second, Reason: "rate limit"},
	Conflict:   {RetryAfter: 2 * time.Second, Reason: "another request is using this key"},
	Denied:     {Result: billing.Unauthorized, Reason: "invalid key"},
	Refused:    {Result: billing.Rejected, Reason: "no such target"},
}

// fault returns what the next report meets.
func (p *Provider) fault() Fault {
	if len(p.faults) == 0 {
		return NoFault
	}
	f := p.faults[0]
	p.faults = p.faults[1:]
	return f
}

// place is what doesn't change of a target.
func place(t billing.Target) billing.Target {
	t.Additive = false
	return t
}

// take applies a delivery by the rules of the mode.
func (p *Provider) take(d billing.Delivery, now time.Time) billing.Result {
	e := entry{id: d.ID, target: place(d.Target), at: d.Slot, quantity: d.Quantity, taken: now}
	if p.mode == billing.ModeInvoiceItem {
		e.at = d.PeriodStart
		p.entries = append(p.entries, e)
		return billing.Accepted
	}
	if p.mode == billing.ModeUsageRecord {
		if d.Slot.After(now) || !d.Slot.After(d.PeriodStart) || !now.Before(d.PeriodEnd) {
			return billing.Rejected
		}
		for i, old := range p.entries {
			if !d.Target.Additive && old.target == e.target && old.at.Equal(e.at) {
				p.entries[i] = e
				return billing.Accepted
			}
		}
		p.entries = append(p.entries, e)
		return billing.Accepted
	}
	if now.Sub(d.Slot) > maxAge || d.Slot.Sub(now) > maxFuture {
		return billing.Rejected
	}
	if at, ok := p.seen[d.ID]; ok && now.Sub(at) < identifierMemory {
		return billing.AlreadyAccepted
	}
	p.seen[d.ID] = now
	e.lost = !now.Before(d.PeriodEnd.Add(finalAfter)) && !d.PeriodEnd.IsZero()
	p.entries = append(p.entries, e)
	return billing.Accepted
}

// Void implements [billing.Voider]: a meter takes back what it has got within 24
// hours, a usage record is set to nothing while its period is open, unless it was
// added; an invoice item is deleted.
func (p *Provider) Void(ctx context.Context, d billing.Delivery) (billing.Receipt, error) {
	if err := p.refuses(ctx, d); err != nil {
		return billing.Receipt{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fault := p.fault()
	if r, ok := turnedAway[fault]; ok {
		return r, nil
	}
	if fault == FailBefore {
		return billing.Receipt{Reason: "internal error"}, nil
	}
	return p.answer(fault, p.takeBack(d)), nil
}

func (p *Provider) takeBack(d billing.Delivery) billing.Result {
	for i := range p.entries {
		e := &p.entries[i]
		if e.id != d.ID || e.target != place(d.Target) {
			continue
		}
		switch {
		case !e.gone.IsZero():
			return billing.AlreadyAccepted
		case p.mode == billing.ModeMeter && p.now().Sub(e.taken) >= identifierMemory,
			p.mode == billing.ModeUsageRecord && (d.Target.Additive || !p.now().Before(d.PeriodEnd)):
			return billing.Rejected
		}
		e.gone = p.now()
		return billing.Accepted
	}
	return billing.Rejected
}

// answer is how a result arrives at the caller.
func (p *Provider) answer(fault Fault, r billing.Result) billing.Receipt {
	switch fault {
	case DropAfter:
		return billing.Receipt{Reason: "connection reset"}
	case FailAfter:
		return billing.Receipt{Reason: "internal error", NewEpoch: true}
	case Truncated:
		return billing.Receipt{Reason: "unexpected end of JSON"}
	}
	receipt := billing.Receipt{Result: r, RequestID: "req_test"}
	if r == billing.Rejected {
		receipt.Reason = "timestamp outside of what is taken"
	}
	return receipt
}

// Verify implements [billing.Reporter].
func (p *Provider) Verify(ctx context.Context, d billing.Delivery) (billing.Presence, error) {
	if err := p.refuses(ctx, d); err != nil {
		return billing.Ambiguous, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == billing.ModeInvoiceItem { // each is listed
		for _, e := range p.entries {
			if e.id == d.ID && e.gone.IsZero() {
				return billing.Present, nil
			}
		}
		return billing.Absent, nil
	}
	from, to := d.PeriodStart, d.PeriodEnd
	if p.mode == billing.ModeMeter {
		from = d.Slot.Truncate(summaryWindow)
		to = from.Add(summaryWindow)
	}
	return d.Proved(p.shown(d.Target, from, to)), nil
}

// UsageTotal implements [billing.Totaler].
func (p *Provider) UsageTotal(ctx context.Context, t billing.Target, from, to time.Time) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shown(t, from, to), nil
}

// Add has the provider count usage that nobody reported, or, if it is negative,
// lose some that was.
func (p *Provider) Add(t billing.Target, quantity int64, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entries = append(p.entries, entry{target: place(t), at: at, quantity: quantity})
}

// shown is the total of [from, to) as far as it is shown by now: what came, and
// what went, is as late.
func (p *Provider) shown(t billing.Target, from, to time.Time) (total int64) {
	for _, e := range p.entries {
		there := p.now().Sub(e.taken) >= p.lag && (e.gone.IsZero() || p.now().Sub(e.gone) < p.lag)
		if there && e.target == place(t) && !e.at.Before(from) && e.at.Before(to) {
			total += e.quantity
		}
	}
	return total
}

// ErrLost is what [Provider.Increment] returns when the caller can't know
// whether it was applied.
var ErrLost = errors.New("billingtest: no readable answer")

// Increment adds usage as a call with an idempotency key alone does it: the
// interface that reporters without batches use. It is there to measure such a
// reporter by the same faults.
func (p *Provider) Increment(key string, t billing.Target, quantity int64, at time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	fault := p.fault()
	switch fault {
	case DropBefore:
		return ErrLost
	case Limited, Conflict, Denied, Refused:
		return errors.New("billingtest: refused")
	}
	p.calls++
	now := p.now()
	if s, ok := p.keys[key]; ok && now.Sub(s.at) < keyMemory {
		if s.fail {
			return ErrLost
		}
		return nil
	}
	p.keys[key] = saved{at: now, fail: fault == FailBefore || fault == FailAfter}
	if fault == FailBefore {
		return ErrLost
	}
	p.entries = append(p.entries, entry{target: place(t), at: at, quantity: quantity, taken: now})
	if fault == DropAfter || fault == FailAfter || fault == Truncated {
		return ErrLost
	}
	return nil
}
