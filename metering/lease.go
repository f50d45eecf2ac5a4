package metering

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// maxWaits is how many blocks of others a call waits for before it asks for
// itself.
const maxWaits = 8

// account is what a process remembers of a tenant. Its lock is not held while
// the limiter is asked.
type account struct {
	mu    sync.Mutex
	lines []*line  // one for each set of bounds, so few
	back  []*grant // that are being returned

	returns int // blocks returned so far
}

// line is what a process holds of one set of bounds.
type line struct {
	account *account
	tenant  tenant.ID
	bounds  []Bound
	ttl     time.Duration

	grant   *grant        // nil if nothing is held
	spare   string        // the name of a loan of which nothing was left, for the next one
	calls   int64         // how many calls the next block is for; 0: calls are far apart
	asked   time.Time     // when the limiter was asked last
	alone   time.Time     // until when every call asks for itself, because a limit is near
	asking  chan struct{} // closed when the block that is being asked for has come
	waiting int64         // calls that have waited for the last one

	refusals  []refusal // one for each number of units
	keys      int       // calls with new idempotency keys that were asked for although they are refused
	keysSince time.Time // since when
}

// grant is one block. Each is an object of its own: units that are put back
// into an earlier one must never end up in a later one, to be spent twice.
type grant struct {
	line   *line
	left   Block
	lent   int64
	at     time.Time    // by the limiter's clock
	sent   time.Time    // by the local clock, before the limiter was asked
	states []LimitState // without what is left
	closed bool         // nothing is spent or put back any more

	returning chan struct{} // closed when somebody who returns what is left has tried; or nil
}

// ended reports whether nothing of g may be spent any more. It ends by a clock
// that was read before the limiter read its own.
func (g *grant) ended(now time.Time) bool {
	return g == nil || g.closed || now.Sub(g.sent) >= g.left.Hold
}

// close ends g; what is left of it, if anything is, must be returned. A block
// of which half was of no use makes the next one smaller.
func (g *grant) close() {
	if g.closed {
		return
	}
	g.closed = true
	if 2*g.left.Units > g.lent {
		g.line.calls /= 2
	}
	if g.line.grant == g {
		g.line.grant = nil
	}
	if g.left.Units+g.left.Calls == 0 {
		g.line.spare = g.left.ID
		return
	}
	g.line.account.back = append(g.line.account.back, g)
}

// spend takes the units of a call from the block, if it has them.
func (n *line) spend(r Request, now time.Time) (Decision, bool) {
	g := n.grant
	if g.ended(now) || r.Key != "" || g.left.Units < r.Units || g.left.Calls < 1 {
		return Decision{}, false
	}
	g.left.Units -= r.Units
	g.left.Calls--
	if g.left.Units == 0 && now.Sub(g.sent) < g.left.Hold/2 {
		n.calls *= 2 // used up early
	}
	limits := make([]LimitState, len(g.states))
	for i, s := range g.states {
		s.Remaining += n.bounds[i].lent(g.left)
		limits[i] = s
	}
	return Decision{
		Allowed: true, ID: r.ID, Units: r.Units, Refused: -1, Limits: limits,
		Time: g.at.Add(now.Sub(g.sent)), Source: SourceLease, Request: r, grant: g,
	}, true
}

// decide answers from memory, if it can.
func (l *Leased) decide(r Request) (Decision, bool) {
	a := l.account(r.Tenant)
	if a == nil {
		return Decision{}, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.find(r)
	if n == nil {
		return Decision{}, false
	}
	now := l.now()
	if d, ok := n.repeat(r, now); ok {
		return d, true
	}
	return n.spend(r, now)
}

// take asks the limiter, for a block besides if calls follow one another.
func (l *Leased) take(ctx context.Context, r Request) (Decision, error) {
	most := l.most(r)
	if most < r.Units {
		if r.Key != "" {
			return l.askKey(ctx, r)
		}
		return l.ask(ctx, r)
	}
	n := l.line(r)
	a := n.account
	a.mu.Lock()
	now := l.now()
	for waited := 0; ; waited++ {
		if d, ok := n.repeat(r, now); ok {
			a.mu.Unlock()
			return d, nil
		}
		if d, ok := n.spend(r, now); ok {
			a.mu.Unlock()
			return d, nil
		}
		wait := n.asking
		if wait == nil {
			break
		}
		n.waiting++
		a.mu.Unlock()
		if waited == maxWaits {
			return l.ask(ctx, r)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return Decision{}, ctx.Err()
		}
		a.mu.Lock()
		now = l.now()
	}
	if n.calls == 0 && now.Sub(n.asked) < l.ttl/2 {
		n.calls = 1
	}
	n.asked = now
	if n.calls == 0 || now.Before(n.alone) || !l.runs() {
		a.mu.Unlock()
		return l.ask(ctx, r)
	}
	n.calls = min(n.calls, max(1, most/r.Units))
	calls := min(max(n.calls, n.waiting), max(1, most/r.Units))
	loan := n.spare
	if loan == "" {
		loan = tenant.NewID().String()
	}
	wait := make(chan struct{})
	n.spare, n.asking, n.waiting = "", wait, 0
	a.mu.Unlock()

	plain := r
	r.Block = Block{ID: loan, Units: calls * r.Units, Calls: calls, Hold: l.ttl}
	d, err := l.ask(ctx, r)
	a.mu.Lock()
	n.asking = nil
	close(wait)
	if err != nil || d.Block.Units == 0 {
		if err == nil {
			n.alone = now.Add(l.ttl)
		}
		a.mu.Unlock()
		return d, err
	}
	g := &grant{line: n, left: d.Block, lent: d.Block.Units, at: d.Time, sent: now, states: slices.Clone(d.Limits)}
	if n.grant != nil {
		n.grant.close() // its time is over, or it had too little left for this call
	}
	n.grant = g
	for i, b := range n.bounds {
		d.Limits[i].Remaining += b.lent(d.Block)
	}
	a.mu.Unlock()
	d.Block, d.Request = Block{Hold: l.ttl}, plain // for Settle to find the units
	if !l.keep(g) {                                // Run has ended meanwhile
		l.giveBack(ctx, r.Tenant)
	}
	return d, nil
}

// ask asks the limiter behind, and remembers a refusal. It may be refused for
// want of what this process holds itself: that is returned first.
func (l *Leased) ask(ctx context.Context, r Request) (Decision, error) {
	sent, returns := l.now(), l.returns(r.Tenant)
	d, err := l.takeBehind(ctx, r)
	if err == nil && !d.Allowed && l.giveBack(ctx, r.Tenant) != returns {
		sent = l.now()
		d, err = l.takeBehind(ctx, r)
	}
	if err != nil {
		return d, err
	}
	if d.Allowed {
		if d.Block.Units == 0 {
			l.note(r, d)
		}
		return d, nil
	}
	holds := d.RetryAfter()
	if holds < 0 || holds > maxRefusal {
		holds = maxRefusal
	}
	n := l.line(r)
	n.account.mu.Lock()
	defer n.account.mu.Unlock()
	n.refuse(d, sent, sent.Add(holds))
	return d, nil
}

// returns returns how many blocks of a tenant have been returned so far.
func (l *Leased) returns(id tenant.ID) int {
	a := l.account(id)
	if a == nil {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.returns
}

// note tells a block what is left beside it, and d what is left in the block.
func (l *Leased) note(r Request, d Decision) {
	a := l.account(r.Tenant)
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := a.find(r); n != nil && !n.grant.ended(l.now()) {
		copy(n.grant.states, d.Limits)
		for i, b := range n.bounds {
			d.Limits[i].Remaining += b.lent(n.grant.left)
		}
	}
}

// held returns what this process holds of each bound of r.
func (l *Leased) held(r Request) []int64 {
	held := make([]int64, len(r.Bounds))
	a := l.account(r.Tenant)
	if a == nil {
		return held
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.lines {
		if n.grant.ended(l.now()) {
			continue
		}
		for i, b := range r.Bounds {
			if slices.Contains(n.bounds, b) {
				held[i] += b.lent(n.grant.left)
			}
		}
	}
	return held
}

func (l *Leased) account(id tenant.ID) *account {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.accounts[id]
}

// find returns the line of r's bounds, or nil.
func (a *account) find(r Request) *line {
	for _, n := range a.lines {
		if slices.Equal(n.bounds, r.Bounds) {
			return n
		}
	}
	return nil
}

// line returns the line of r's bounds, a new one if there is none.
func (l *Leased) line(r Request) *line {
	a := l.account(r.Tenant)
	if a == nil {
		l.mu.Lock()
		if a = l.accounts[r.Tenant]; a == nil {
			l.sweep()
			a = &account{}
			l.accounts[r.Tenant] = a
		}
		l.mu.Unlock()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.find(r)
	if n == nil {
		now := l.now() // plans and periods change: what is not used any more goes
		a.lines = slices.DeleteFunc(a.lines, func(n *line) bool { return n.idle(now) })
		n = &line{account: a, tenant: r.Tenant, bounds: slices.Clone(r.Bounds), ttl: l.ttl}
		a.lines = append(a.lines, n)
	}
	return n
}

func (n *line) idle(now time.Time) bool {
	return n.grant == nil && n.asking == nil && now.Sub(n.asked) > time.Minute && n.refusing(now) == 0
}

// sweep forgets tenants that are idle once there are twice as many, so that its
// cost stays constant per call. l.mu is held.
func (l *Leased) sweep() {
	if len(l.accounts) < l.sweepAt {
		return
	}
	now := l.now()
	for id, a := range l.accounts {
		a.mu.Lock()
		if !slices.ContainsFunc(a.lines, func(n *line) bool { return !n.idle(now) }) {
			delete(l.accounts, id)
		}
		a.mu.Unlock()
	}
	l.sweepAt = max(1024, 2*len(l.accounts))
}

// most returns how many units may be lent beside a call at once; 0 means none.
func (l *Leased) most(r Request) int64 {
	if r.Key != "" || r.Units < 1 || len(r.Bounds) == 0 {
		return 0
	}
	most := l.maxBlock
	for _, b := range r.Bounds {
		if b.Hold > 0 || b.Units <= l.minUnits || b.Window > 0 && b.Resolution() < l.ttl {
			return 0
		}
		most = min(most, max(1, b.Units/blockPart))
	}
	return most
}
