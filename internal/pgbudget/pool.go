package pgbudget

import (
	"container/list"
	"time"

	"github.com/jackc/pgx/v5"
)

// pool is one database. The budget's lock is for all of it.
type pool struct {
	key  string
	used time.Time // last

	config     *pgx.ConnConfig // nil until it was resolved
	resolved   time.Time
	resolving  bool
	generation int  // counts the databases that config has led to
	verified   bool // a connection was opened since the last failure

	conns   int     // slots: in use, idle, being opened or being closed
	opening int     // among them
	idle    []*conn // the least recently used first

	waiters list.List     // of *waiter, the first to be served first
	hungry  *list.Element // in the budget's queue
	starved int           // callers that wait because the budget is spent

	err   error // of the last attempt, to be answered until retry
	retry time.Time
}

// conn is one connection of a pool.
type conn struct {
	pool       *pool
	conn       *pgx.Conn
	generation int
	opened     time.Time
	expires    time.Time
	idleSince  time.Time
	dead       bool  // it gave no answer
	prev, next *conn // in the budget's list of idle connections
}

// conns is a list of idle connections, which costs no allocation.
type conns struct {
	first, last *conn
	n           int
}

func (l *conns) push(c *conn) {
	c.prev, c.next = l.last, nil
	if l.last != nil {
		l.last.next = c
	} else {
		l.first = c
	}
	l.last = c
	l.n++
}

func (l *conns) remove(c *conn) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.last = c.prev
	}
	c.prev, c.next = nil, nil
	l.n--
}

// pool returns the pool of this key, a new one if there is none.
func (b *Budget) pool(key string, now time.Time) *pool {
	p, ok := b.pools[key]
	if !ok {
		if len(b.pools) >= b.opts.MaxPools {
			b.dropOldest()
		}
		p = &pool{key: key}
		b.pools[key] = p
	}
	p.used = now
	return p
}

// inUse reports whether the pool must stay.
func (p *pool) inUse() bool {
	return p.resolving || p.waiters.Len() > 0 || p.conns > len(p.idle)
}

// dropOldest drops the least recently used pool that isn't in use.
func (b *Budget) dropOldest() {
	var oldest *pool
	for _, p := range b.pools {
		if !p.inUse() && (oldest == nil || p.used.Before(oldest.used)) {
			oldest = p
		}
	}
	if oldest != nil {
		b.drop(oldest)
	}
}

// drop forgets a pool that isn't in use.
func (b *Budget) drop(p *pool) {
	b.count.dropped++
	delete(b.pools, p.key)
	b.dropIdle(p)
}

func (b *Budget) dropIdle(p *pool) {
	for len(p.idle) > 0 {
		c := p.idle[0]
		b.takeIdle(c)
		b.discard(c)
	}
}

// takeIdle takes a connection out of the idle ones.
func (b *Budget) takeIdle(c *conn) {
	p := c.pool
	for i, other := range p.idle {
		if other == c {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			break
		}
	}
	b.idle.remove(c)
}

// update decides what the pool's callers need, whenever something about the
// pool has changed: an answer, a configuration, a slot, or patience.
func (b *Budget) update(p *pool) {
	now := b.opts.Now()
	b.count.integrate(now)
	// A caller that isn't covered by a connection on its way.
	lacking := p.waiters.Len() > p.opening
	switch {
	case !lacking || p.resolving:
		lacking = false
	case p.err != nil && now.Before(p.retry):
		lacking = false // what is in use will be given back
		if p.conns == 0 {
			b.fail(p, p.err)
		}
	case p.config == nil:
		lacking = false
		p.resolving = true
		b.work.Go(func() { b.resolve(p) })
	default:
		lacking = p.conns < b.opts.MaxConnsPerPool && (p.verified || p.opening == 0) && !b.hosts[hostOf(p.config)].occupied()
	}
	switch {
	case lacking && p.hungry == nil:
		p.hungry = b.hungry.PushBack(p)
	case !lacking && p.hungry != nil:
		b.hungry.Remove(p.hungry)
		p.hungry = nil
	}
	b.count.starving -= p.starved
	p.starved = 0
	if lacking {
		p.starved = p.waiters.Len() - p.opening
	}
	b.count.starving += p.starved
}

// dispatch gives slots to the pools that need one, in their order, as long as
// there are any.
func (b *Budget) dispatch() {
	for b.hungry.Len() > 0 {
		p := b.hungry.Front().Value.(*pool)
		if b.update(p); p.hungry == nil {
			continue // its server is being tried by another pool
		}
		var victim *conn
		switch {
		case b.slots < b.opts.MaxConns:
			b.slots++
		case b.idle.n > 0:
			victim = b.idle.first
			b.takeIdle(victim)
			b.count.evicted++
		default:
			return
		}
		b.open(p, victim)
	}
}

// fail answers everybody who waits.
func (b *Budget) fail(p *pool, err error) {
	for p.waiters.Len() > 0 {
		p.waiters.Remove(p.waiters.Front()).(*waiter).answer <- answer{err: err}
	}
	b.update(p)
}
