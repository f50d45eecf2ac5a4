package metering

import (
	"context"
	"slices"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// maxRefusal bounds how long a refusal is repeated without asking again: units
// that another process gives back are admitted that much later at most.
const maxRefusal = time.Second

// maxKeys is how many calls with new idempotency keys are asked for in a second
// while a limit refuses: an agent that is refused must not cost a question for
// each key that it makes up.
const maxKeys = 4

// maxWeights is how many refusals of calls of different weights are remembered.
const maxWeights = 8

// refusal is a decision of the limiter that is repeated without asking.
type refusal struct {
	Decision
	asked, until time.Time
}

// refuse remembers a refusal, instead of one for as many units.
func (n *line) refuse(d Decision, asked, until time.Time) {
	n.refusing(asked)
	n.refusals = slices.DeleteFunc(n.refusals, func(f refusal) bool { return f.Request.Units == d.Request.Units })
	if len(n.refusals) == maxWeights {
		n.refusals = slices.Delete(n.refusals, 0, 1)
	}
	d.Limits = slices.Clone(d.Limits)
	n.refusals = append(n.refusals, refusal{d, asked, until})
}

// refusing returns how many refusals hold, and forgets the others.
func (n *line) refusing(now time.Time) int {
	n.refusals = slices.DeleteFunc(n.refusals, func(f refusal) bool { return !now.Before(f.until) })
	return len(n.refusals)
}

// refused returns the refusal that holds for r, unless an earlier charge under its
// idempotency key has paid for it: that of as many units, or of the most below.
func (n *line) refused(r Request, now time.Time) (found refusal, ok bool) {
	if n.refusing(now) == 0 {
		return refusal{}, false
	}
	for _, f := range n.refusals {
		if f.Request.Units <= r.Units && (!ok || f.Request.Units > found.Request.Units) {
			found, ok = f, true
		}
	}
	return found, ok
}

// repeat repeats a refusal, if one holds for r. How long a call has to wait is
// known for its own weight only, so the first of each is asked for; if there are
// too many, one waits until nothing at all is used any more.
//
// An idempotency key may belong to a charge that another process knows of:
// besides itself, others are refused only if there are too many of them.
func (n *line) repeat(r Request, now time.Time) (Decision, bool) {
	f, ok := n.refused(r, now)
	if !ok {
		return Decision{}, false
	}
	if r.Key != "" && r.Key != f.Request.Key && (n.keys < maxKeys || now.Sub(n.keysSince) >= maxRefusal) {
		return Decision{}, false
	}
	heavier := r.Units > f.Request.Units
	if heavier && len(n.refusals) < maxWeights {
		return Decision{}, false
	}
	d, passed := f.Decision, now.Sub(f.asked)
	d.ID, d.Request, d.Source, d.Time = r.ID, r, SourceRefusal, d.Time.Add(passed)
	d.Limits = slices.Clone(d.Limits)
	for i, s := range d.Limits {
		b, retry := r.Bounds[i], s.RetryAfter
		if retry > 0 {
			retry = max(0, retry-passed) // those of other limits may take longer
		}
		if heavier && b.Window > 0 {
			retry = max(retry, b.Window+b.Resolution()+n.ttl)
		}
		if b.Weight(r.Units) > s.Units {
			retry = -1
		}
		d.Limits[i].RetryAfter = retry
	}
	for i, s := range d.Limits[d.Refused:] {
		if s.RetryAfter != 0 {
			d.Refused += i
			break
		}
	}
	return d, true
}

// askKey asks for a call with an idempotency key, which an earlier charge may
// have paid for even where a limit refuses.
func (l *Leased) askKey(ctx context.Context, r Request) (Decision, error) {
	a := l.account(r.Tenant)
	if a == nil {
		return l.ask(ctx, r)
	}
	a.mu.Lock()
	n := a.find(r)
	if n == nil {
		a.mu.Unlock()
		return l.ask(ctx, r)
	}
	now := l.now()
	d, refused := n.repeat(r, now)
	_, counts := n.refused(r, now)
	if counts = counts && !refused; counts {
		if now.Sub(n.keysSince) >= maxRefusal {
			n.keys, n.keysSince = 0, now
		}
		n.keys++
	}
	a.mu.Unlock()
	if refused {
		return d, nil
	}
	d, err := l.ask(ctx, r)
	if counts && err == nil && d.Replay {
		a.mu.Lock()
		n.keys = max(0, n.keys-1)
		a.mu.Unlock()
	}
	return d, err
}

// forgive ends the refusals of a tenant.
func (l *Leased) forgive(id tenant.ID) {
	if a := l.account(id); a != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, n := range a.lines {
			n.refusals = nil
		}
	}
}
