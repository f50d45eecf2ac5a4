package metering

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const (
	maxSeeds    = 4096             // counters that wait to be looked at
	seenFor     = time.Hour        // how long one isn't looked at again
	seedRetry   = 10 * time.Second // after an error
	seedTimeout = 5 * time.Second
)

// seedPauses are the times between looks at the ledger: it lacks, at first, what
// is in the sinks of all processes.
func seedPauses() []time.Duration {
	return []time.Duration{5 * time.Second, time.Minute, 10 * time.Minute}
}

// seeder fills the counters of periods that the limiter has lost from the ledger.
// Calls tell it which there are; it asks beside them.
type seeder struct {
	limiter Seeder
	ledger  Ledger
	log     *slog.Logger
	now     func() time.Time
	queue   chan seeding
	pauses  []time.Duration
	outages *atomic.Int64 // how often the limiter was away

	mu   sync.Mutex
	seen map[seedKey]sighting
}

type seedKey struct {
	tenant tenant.ID
	tool   string
	period Period
	start  int64
}

type sighting struct {
	at      time.Time
	outages int64
	since   time.Time // the beginning that it was looked at for; zero if it was not yet
}

// seeding is one counter on its way.
type seeding struct {
	tenant tenant.ID
	bound  Bound
	since  time.Time // its beginning as of the last look
	looks  int       // at the ledger so far
}

func (s seeding) key() seedKey {
	return seedKey{s.tenant, s.bound.Tool, s.bound.Period, s.bound.Start.Unix()}
}

func newSeeder(limiter Seeder, ledger Ledger, log *slog.Logger, now func() time.Time, outages *atomic.Int64) *seeder {
	return &seeder{
		limiter: limiter, ledger: ledger, log: log, now: now, outages: outages,
		queue: make(chan seeding, maxSeeds), pauses: seedPauses(), seen: make(map[seedKey]sighting),
	}
}

// touch looks, after the limiter has admitted a call, for counters that have just
// begun: because their period has, or because they were lost.
func (s *seeder) touch(id tenant.ID, d Decision) {
	for i, b := range d.Request.Bounds {
		if i < len(d.Limits) {
			s.meet(id, b, !d.Replay && d.Limits[i].Units-d.Limits[i].Remaining == b.Weight(d.Units))
		}
	}
}

// meet has a counter looked at that may be new, or that this process has not met
// for a while: whoever saw it begin may have died.
func (s *seeder) meet(id tenant.ID, b Bound, isNew bool) {
	if b.Period == "" {
		return
	}
	next := seeding{tenant: id, bound: b}
	now := sighting{at: s.now(), outages: s.outages.Load()}
	s.mu.Lock()
	was, ok := s.seen[next.key()]
	known := ok && was.outages == now.outages && now.at.Sub(was.at) < seenFor
	if known {
		now.since = was.since
	}
	if !known || isNew {
		if len(s.seen) >= 16*maxSeeds {
			clear(s.seen) // looking twice costs a question
		}
		s.seen[next.key()] = now
	}
	s.mu.Unlock()
	if !known || isNew {
		s.put(next)
	}
}

// put queues a counter; if there is no room, the next call comes back to it.
func (s *seeder) put(next seeding) {
	select {
	case s.queue <- next:
	default:
		s.mu.Lock()
		delete(s.seen, next.key())
		s.mu.Unlock()
	}
}

// run looks at counters until ctx is done. One that is not through then is
// looked at by the next process that meets it.
func (s *seeder) run(ctx context.Context) error {
	for {
		select {
		case next := <-s.queue:
			again, pause, err := s.look(ctx, next)
			if err != nil && ctx.Err() == nil {
				s.log.LogAttrs(ctx, slog.LevelWarn, "counter of a period can't be compared with the ledger, trying again", slog.String("tenant", next.tenant.String()), slog.Any("err", err))
			}
			if pause > 0 {
				time.AfterFunc(pause, func() { s.put(again) })
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// look fills a counter with what the ledger knows by now. Pause is when to look
// again; 0 is never.
func (s *seeder) look(ctx context.Context, n seeding) (again seeding, pause time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, seedTimeout)
	defer cancel()
	since, final, err := s.limiter.Since(ctx, n.tenant, n.bound)
	if err != nil {
		return n, seedRetry, err
	}
	if final {
		return n, 0, nil
	}
	if !since.Equal(n.since) {
		if s.looksAt(n.key(), since) {
			return n, 0, nil // of this beginning already: its calls have cost nothing so far
		}
		n.since, n.looks = since, 0
	}
	units, err := s.ledger.Units(ctx, n.tenant, n.bound.Tool, n.bound.Start, since)
	if err != nil {
		return n, seedRetry, err
	}
	if units > 0 && n.looks == 0 {
		s.log.LogAttrs(ctx, slog.LevelWarn, "the limiter had lost the counter of a period, the ledger fills it", slog.String("tenant", n.tenant.String()), slog.String("limit", n.bound.Name), slog.Int64("units", units))
	}
	last := n.looks == len(s.pauses)
	if err := s.limiter.Seed(ctx, n.tenant, n.bound, since, units, last); err != nil {
		return n, seedRetry, err
	}
	if last {
		return n, 0, nil
	}
	n.looks++
	return n, s.pauses[n.looks-1], nil
}

// looksAt notes that a counter is being looked at for its beginning, and reports
// whether it was already.
func (s *seeder) looksAt(k seedKey, since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	saw, ok := s.seen[k]
	if ok && saw.since.Equal(since) {
		return true
	}
	if ok {
		saw.since = since
		s.seen[k] = saw
	}
	return false
}
