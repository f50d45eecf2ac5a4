package pgbudget

import "time"

// sweepEvery is how often connections and pools are looked at that nobody uses.
const sweepEvery = 15 * time.Second

func (b *Budget) sweepUntilClosed() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
			b.sweep()
		}
	}
}

// sweep closes what has been idle for too long, and forgets pools that nobody
// has used for longer still.
func (b *Budget) sweep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.opts.Now()
	for _, p := range b.pools {
		if !p.inUse() && now.Sub(p.used) >= b.opts.PoolTTL {
			b.drop(p)
		}
	}
	for c := b.idle.first; c != nil; {
		next := c.next
		if c.stale(now) || now.Sub(c.idleSince) >= b.opts.MaxConnIdleTime {
			b.takeIdle(c)
			b.discard(c)
		}
		c = next
	}
	for len(b.pools) > b.opts.MaxPools {
		before := len(b.pools)
		if b.dropOldest(); len(b.pools) == before {
			break // all are in use
		}
	}
	for name, h := range b.hosts {
		if h.users == 0 {
			delete(b.hosts, name) // at worst, one attempt too many is made
		}
	}
}
