package pgbudget

import (
	"container/list"
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// checkAfter is how long a connection may idle before it is asked whether it
// is alive.
const checkAfter = time.Second

// checkTimeout bounds that question.
const checkTimeout = 2 * time.Second

// Conn is a connection on loan.
type Conn struct {
	budget *Budget
	conn   *conn
	back   atomic.Bool
}

// Conn returns the connection. It must not be used after Release.
func (c *Conn) Conn() *pgx.Conn { return c.conn.conn }

// Release gives the connection back. One that is closed, busy or in a
// transaction is closed and replaced. It is safe to call it again.
func (c *Conn) Release() {
	if c.back.CompareAndSwap(false, true) {
		c.budget.release(c.conn)
	}
}

// waiter is a caller that waits for a connection of its pool.
type waiter struct {
	answer chan answer // of one
}

type answer struct {
	conn *conn
	err  error
}

// Acquire lends a connection to the database key. The caller must release it.
// It fails with [ErrExhausted] when there was none in time, with ctx's error,
// and with what kept a connection from being opened.
func (b *Budget) Acquire(ctx context.Context, key string) (*Conn, error) {
	// One that turns out to be dead is replaced, by a caller that has had its
	// turn already. The pool's others may be dead as well.
	for first := false; ; first = true {
		c, fresh, err := b.take(ctx, key, first)
		if err != nil {
			return nil, err
		}
		if fresh || b.alive(ctx, c) {
			return &Conn{budget: b, conn: c}, nil
		}
		b.release(c)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// alive asks an idle connection for an answer; one that gives none is closed by
// that.
func (b *Budget) alive(ctx context.Context, c *conn) bool {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if c.conn.Ping(ctx) == nil {
		return true
	}
	c.dead = true
	_ = c.conn.Close(ctx)
	return false
}

// take takes a connection that is idle, or waits for one; first is for a
// caller that goes before all others. fresh means that there is no need to ask
// whether it is alive.
func (b *Budget) take(ctx context.Context, key string, first bool) (c *conn, fresh bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	now := b.opts.Now()
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, false, ErrClosed
	}
	p := b.pool(key, now)
	for n := len(p.idle); n > 0; n = len(p.idle) {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		b.idle.remove(c)
		if c.stale(now) {
			b.discard(c)
			continue
		}
		b.count.leased++
		b.mu.Unlock()
		return c, now.Sub(c.idleSince) <= checkAfter, nil
	}
	if p.waiters.Len() >= b.opts.MaxWaiting {
		b.count.refused++
		b.mu.Unlock()
		return nil, false, ErrExhausted
	}
	w := &waiter{answer: make(chan answer, 1)}
	var place *list.Element
	if first {
		place = p.waiters.PushFront(w)
	} else {
		place = p.waiters.PushBack(w)
	}
	b.update(p)
	b.dispatch()
	b.mu.Unlock()

	patience := time.NewTimer(b.opts.MaxWait)
	defer patience.Stop()
	var a answer
	select {
	case a = <-w.answer:
	case <-ctx.Done():
		a.err = b.giveUp(p, place, w, ctx.Err())
	case <-patience.C:
		a.err = b.giveUp(p, place, w, ErrExhausted)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count.waits++
	b.count.waited += b.opts.Now().Sub(now)
	return a.conn, true, a.err
}

// giveUp ends the wait of a caller whose patience is over. It may have been
// answered at the same moment.
func (b *Budget) giveUp(p *pool, place *list.Element, w *waiter, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == ErrExhausted {
		b.count.refused++
	}
	select {
	case a := <-w.answer:
		if a.conn != nil {
			b.put(a.conn)
		}
	default:
		p.waiters.Remove(place)
		b.update(p)
	}
	b.dispatch()
	return err
}

// hand gives a connection to the caller that has waited for the longest.
func (b *Budget) hand(c *conn) {
	p := c.pool
	b.count.leased++
	p.waiters.Remove(p.waiters.Front()).(*waiter).answer <- answer{conn: c}
	b.update(p)
}

func (c *conn) stale(now time.Time) bool {
	return c.generation != c.pool.generation || !now.Before(c.expires)
}

// release takes back a connection.
func (b *Budget) release(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.put(c)
	b.dispatch()
}

// put decides who is next to have a connection that was given back.
func (b *Budget) put(c *conn) {
	p, now := c.pool, b.opts.Now()
	b.count.leased--
	p.used = now
	pg := c.conn.PgConn()
	if b.closed || c.conn.IsClosed() || pg.IsBusy() || pg.TxStatus() != 'I' || c.stale(now) {
		b.discard(c)
		return
	}
	b.place(c, now)
}

// place gives a connection that is fit to be used to its next user.
func (b *Budget) place(c *conn, now time.Time) {
	p := c.pool
	own := p.waiters.Len() > 0
	if next := b.hungry.Front(); next != nil && next != p.hungry && !(own && now.Sub(c.opened) < quantum) {
		b.count.evicted++
		b.open(next.Value.(*pool), c)
		b.update(p)
		return
	}
	if own {
		b.hand(c)
		return
	}
	c.idleSince = now
	p.idle = append(p.idle, c)
	b.idle.push(c)
}
