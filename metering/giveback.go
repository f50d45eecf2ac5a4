package metering

import (
	"context"
	"slices"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Run returns what is left of blocks when their time is over, and of all when
// ctx is done (a Meter with a journal returns later what it can't); then it waits for late answers too, two seconds in all. While it
// does not run, nothing is lent.
func (l *Leased) Run(ctx context.Context) error {
	l.mu.Lock()
	l.running++
	l.mu.Unlock()
	ticker := time.NewTicker(max(l.ttl/4, time.Millisecond))
	defer ticker.Stop()
	var again time.Time // after a failure
	for {
		select {
		case <-ticker.C:
			if now := time.Now(); !now.Before(again) && !l.collect(ctx, false) {
				again = now.Add(time.Second)
			}
		case <-ctx.Done():
			l.mu.Lock()
			l.running--
			l.mu.Unlock()
			// The units would be lost until a window has passed.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
			defer cancel()
			if !l.collect(ctx, true) {
				l.abandon(ctx)
			}
			for l.late.Load() > 0 && ctx.Err() == nil {
				select {
				case <-ticker.C:
				case <-ctx.Done():
				}
			}
			return nil
		}
	}
}

// collect returns the blocks whose time is over, or all, and reports whether it
// could. After a failure it keeps the others for the next time.
func (l *Leased) collect(ctx context.Context, all bool) bool {
	ok := true
	l.mu.Lock()
	grants := l.grants
	l.grants = nil
	l.mu.Unlock()
	kept := grants[:0]
	for _, g := range grants {
		a := g.line.account
		a.mu.Lock()
		over := all || g.ended(l.now())
		if over {
			g.close()
		}
		a.mu.Unlock()
		if over && ok {
			ok = l.returnWithin(ctx, g)
		}
		if !over || !ok && l.now().Sub(g.sent) <= loanKept {
			kept = append(kept, g)
		}
	}
	l.mu.Lock()
	l.grants = append(kept, l.grants...)
	l.mu.Unlock()
	return ok
}

// abandon has what could not be returned noted, for the next process.
func (l *Leased) abandon(ctx context.Context) {
	l.mu.Lock()
	grants := l.grants
	l.grants = nil
	l.mu.Unlock()
	for _, g := range grants {
		a := g.line.account
		a.mu.Lock()
		d := g.decision()
		a.mu.Unlock()
		l.unsettled(context.WithoutCancel(ctx), d, 0, errBreakerOpen)
	}
}

// returnWithin returns a block, but does not wait for ever for a limiter that
// hangs: there are others.
func (l *Leased) returnWithin(ctx context.Context, g *grant) bool {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	return l.giveBackGrant(ctx, g)
}

// keep notes a block for collect; false if there is nobody to collect it.
func (l *Leased) keep(g *grant) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running > 0 {
		l.grants = append(l.grants, g)
	}
	return l.running > 0
}

func (l *Leased) runs() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.running > 0
}

// giveBack returns what this process holds of a tenant, and how many blocks have
// been returned so far, by whomever.
func (l *Leased) giveBack(ctx context.Context, id tenant.ID) (returns int) {
	a := l.account(id)
	if a == nil {
		return 0
	}
	a.mu.Lock()
	for _, n := range a.lines {
		if n.grant != nil {
			n.grant.close()
		}
	}
	back := slices.Clone(a.back)
	a.mu.Unlock()
	for _, g := range back {
		l.giveBackGrant(ctx, g)
	}
	return l.returns(id)
}

// decision is what is settled to return what is left of a block.
func (g *grant) decision() Decision {
	return Decision{Allowed: true, Refused: -1, Time: g.at, Block: g.left, Request: Request{Tenant: g.line.tenant, Bounds: g.line.bounds}}
}

// giveBackGrant returns what is left of a block that is closed, or waits until
// somebody else has who began before. If that fails it may be tried again: the
// limiter takes a block back once.
func (l *Leased) giveBackGrant(ctx context.Context, g *grant) bool {
	n := g.line
	a := n.account
	a.mu.Lock()
	for g.returning != nil {
		returning := g.returning
		a.mu.Unlock()
		select {
		case <-returning:
		case <-ctx.Done():
			return false
		}
		a.mu.Lock()
	}
	if !slices.Contains(a.back, g) {
		a.mu.Unlock()
		return true
	}
	d := g.decision()
	g.returning = make(chan struct{})
	a.mu.Unlock()
	_, err := l.limiter.Settle(ctx, d, 0)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil || l.now().Sub(g.sent) > loanKept {
		a.back = slices.DeleteFunc(a.back, func(other *grant) bool { return other == g })
		a.returns++
	}
	close(g.returning)
	g.returning = nil
	return err == nil
}
