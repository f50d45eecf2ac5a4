package pgbudget

import "time"

// Stats is a snapshot of a budget. Counters count since Open.
type Stats struct {
	MaxConns int // the budget
	Conns    int // open, being opened or being closed: never more than MaxConns
	InUse    int // lent
	Idle     int // open, and lent to nobody
	Pools    int // databases that are known at the moment
	Waiting  int // callers that wait for a connection

	Opened  int64 // connections
	Evicted int64 // connections closed in favour of another database
	Dropped int64 // pools: not used for long, or one too many
	Refused int64 // callers that got ErrExhausted

	Waits  int64         // callers that had to wait, for whatever reason
	Waited time.Duration // the sum of that

	// Starved is the sum of the time that callers waited because the budget was
	// spent: neither for a connection that was being opened, nor because their
	// own database had as many as it may. Its growth by a second in a second is
	// one caller that always waits.
	Starved time.Duration
}

type counters struct {
	leased                            int
	opened, evicted, dropped, refused int64
	waits                             int64
	waited                            time.Duration

	starving int // callers, from since on
	since    time.Time
	starved  time.Duration
}

// integrate adds up the time for which callers were starving, before their
// number changes.
func (c *counters) integrate(now time.Time) {
	c.starved += time.Duration(c.starving) * now.Sub(c.since)
	c.since = now
}

// Stats returns a snapshot.
func (b *Budget) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count.integrate(b.opts.Now())
	s := Stats{
		MaxConns: b.opts.MaxConns, Conns: b.slots, InUse: b.count.leased, Idle: b.idle.n, Pools: len(b.pools),
		Opened: b.count.opened, Evicted: b.count.evicted, Dropped: b.count.dropped, Refused: b.count.refused,
		Waits: b.count.waits, Waited: b.count.waited, Starved: b.count.starved,
	}
	for _, p := range b.pools {
		s.Waiting += p.waiters.Len()
	}
	return s
}
