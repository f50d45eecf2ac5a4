package billing

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// patience is how long a call may take before its target gives its place
	// to the next.
	patience = 100 * time.Millisecond
	// slowFactor is how many times Concurrency may be waiting for an answer.
	slowFactor = 16
	// turn is how many batches of a target are sent before others have theirs.
	turn = 8
)

// sending works on targets, a few of each provider and mode at a time, in the
// order in which they were put. None holds up the others: one whose calls take
// long gives up its place, one with much to send goes to the end after a turn,
// and one that fails waits until it is put again.
type sending struct {
	w       *Worker
	running sync.WaitGroup
	changed chan struct{} // a target is to be tried again

	mu     sync.Mutex
	lanes  map[bucketKey]*lane
	atWork map[int64]bool
	retry  time.Time // when the first of what was left behind is due; zero: none
	errs   []error   // at most a few
	fails  int
}

// lane is the targets of one provider and mode, which share its rate.
type lane struct {
	waiting []OpenTarget
	taken   int // places
	slow    int // at work without one
}

func newSending(w *Worker) *sending {
	return &sending{w: w, changed: make(chan struct{}, 1), lanes: make(map[bucketKey]*lane), atWork: make(map[int64]bool)}
}

// put has the targets worked on, instead of those that still wait from before.
func (s *sending) put(ctx context.Context, targets []OpenTarget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retry = time.Time{}
	for _, l := range s.lanes {
		l.waiting = nil
	}
	for _, t := range targets {
		if s.atWork[t.ID] {
			continue
		}
		key := keyOf(t.Target)
		if s.lanes[key] == nil {
			s.lanes[key] = new(lane)
		}
		s.lanes[key].waiting = append(s.lanes[key].waiting, t)
	}
	for _, l := range s.lanes {
		s.fill(ctx, l)
	}
}

// wait returns when nothing is left to do, with what went wrong.
func (s *sending) wait() error {
	s.running.Wait()
	return s.failures()
}

// fill gives places to those who wait. It needs the lock.
func (s *sending) fill(ctx context.Context, l *lane) {
	places := s.w.opts.Concurrency
	for l.taken < places && l.taken+l.slow < slowFactor*places && len(l.waiting) > 0 && ctx.Err() == nil {
		t := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.taken++
		s.atWork[t.ID] = true
		s.running.Go(func() { s.work(ctx, l, t) })
	}
}

func (s *sending) work(ctx context.Context, l *lane, t OpenTarget) {
	placed := true
	next, more, err := s.w.drain(ctx, t, turn, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if placed {
			placed = false
			l.taken--
			l.slow++
			s.fill(ctx, l)
		}
	})
	s.mu.Lock()
	delete(s.atWork, t.ID)
	if placed {
		l.taken--
	} else {
		l.slow--
	}
	if more {
		l.waiting = append(l.waiting, t)
	}
	if err != nil {
		// Ten thousand targets may fail for one reason.
		if s.fails++; len(s.errs) < 3 {
			s.errs = append(s.errs, err)
		}
	}
	if !next.IsZero() && (s.retry.IsZero() || next.Before(s.retry)) {
		s.retry = next
		select {
		case s.changed <- struct{}{}:
		default: // known already
		}
	}
	s.fill(ctx, l)
	s.mu.Unlock()
}

// nextRetry is when the first of what was left behind since put is due.
func (s *sending) nextRetry() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.retry
}

// failures returns what went wrong since it was last asked.
func (s *sending) failures() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := s.errs
	if more := s.fails - len(errs); more > 0 {
		errs = append(errs, fmt.Errorf("and %d more", more))
	}
	s.errs, s.fails = nil, 0
	return errors.Join(errs...)
}
