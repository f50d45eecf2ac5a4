package meteringtest

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Clock is a clock that moves only when it is told to. It is safe for
// concurrent use.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that shows a time in the middle of a month.
func NewClock() *Clock {
	return &Clock{now: time.Date(2026, time.November, 11, 12, 0, 0, 0, time.UTC)}
}

// Now returns the time shown.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock by d.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// NewLimiter returns a limiter in memory that goes by the clock it returns.
func NewLimiter() (*metering.Memory, *Clock) {
	c := NewClock()
	return metering.NewMemory(c.Now), c
}

// Sink is a usage.Sink that remembers. The zero value works; it is safe for
// concurrent use.
type Sink struct {
	mu     sync.Mutex
	events []usage.Event
	err    error
}

var _ usage.Sink = (*Sink)(nil)

// Record implements usage.Sink.
func (s *Sink) Record(ctx context.Context, e usage.Event) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.Validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if !slices.ContainsFunc(s.events, func(old usage.Event) bool { return old.ID == e.ID }) {
		s.events = append(s.events, e)
	}
	return nil
}

// Fail makes Record return err and remember nothing, until Fail(nil).
func (s *Sink) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Events returns the events in the order in which they came, each once.
func (s *Sink) Events() []usage.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// Units returns what the events charge a tenant in all.
func (s *Sink) Units(id tenant.ID) int64 {
	var units int64
	for _, e := range s.Events() {
		if e.Tenant == id {
			units += e.Units
		}
	}
	return units
}

// Store is a usage.Store in memory. The zero value works; it is safe for
// concurrent use.
type Store struct {
	mu     sync.Mutex
	events map[string]usage.Event
	order  []string
	twice  int
	err    error
}

var _ usage.Store = (*Store)(nil)

// Append implements usage.Store.
func (s *Store) Append(ctx context.Context, events []usage.Event) (added int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	if s.events == nil {
		s.events = make(map[string]usage.Event)
	}
	for _, e := range events {
		if _, ok := s.events[e.ID]; ok {
			s.twice++
			continue
		}
		s.events[e.ID] = e
		s.order = append(s.order, e.ID)
		added++
	}
	return added, nil
}

// Fail makes Append return err and store nothing, until Fail(nil).
func (s *Store) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Events returns the stored events in the order in which they came.
func (s *Store) Events() []usage.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := make([]usage.Event, len(s.order))
	for i, id := range s.order {
		events[i] = s.events[id]
	}
	return events
}

// Len returns how many events are stored.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.order)
}

// Repeated returns how many events came again after they had been stored.
func (s *Store) Repeated() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.twice
}
