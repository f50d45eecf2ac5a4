package metering

import (
	"context"
	"maps"
	"sync"
	"time"
)

// MemoryAlerts is an AlertStore in the memory of one process. What waits there
// ends with the process.
type MemoryAlerts struct {
	now func() time.Time

	mu      sync.Mutex
	seen    map[string]time.Time // until when an ID is remembered
	waiting map[string]*waitingAlert
	sweepAt int
}

type waitingAlert struct {
	alert Alert
	due   time.Time
}

var _ AlertStore = (*MemoryAlerts)(nil)

// NewMemoryAlerts returns an empty store that tells time by now; nil means
// time.Now.
func NewMemoryAlerts(now func() time.Time) *MemoryAlerts {
	if now == nil {
		now = time.Now
	}
	return &MemoryAlerts{now: now, seen: make(map[string]time.Time), waiting: make(map[string]*waitingAlert), sweepAt: 1024}
}

// Add implements [AlertStore].
func (m *MemoryAlerts) Add(ctx context.Context, a Alert, forget time.Time) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if now.Before(m.seen[a.ID]) || m.waiting[a.ID] != nil {
		return false, nil
	}
	if len(m.seen) >= m.sweepAt {
		maps.DeleteFunc(m.seen, func(_ string, until time.Time) bool { return !now.Before(until) })
		m.sweepAt = max(1024, 2*len(m.seen))
	}
	a.Attempt = 0
	m.seen[a.ID], m.waiting[a.ID] = forget, &waitingAlert{alert: a, due: now}
	return true, nil
}

// Claim implements [AlertStore].
func (m *MemoryAlerts) Claim(ctx context.Context, most int, lease time.Duration) ([]Alert, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var alerts []Alert
	for _, w := range m.waiting {
		if len(alerts) == most {
			break
		}
		if !now.Before(w.due) {
			w.due = now.Add(lease)
			w.alert.Attempt++
			alerts = append(alerts, w.alert)
		}
	}
	return alerts, nil
}

// Release implements [AlertStore].
func (m *MemoryAlerts) Release(ctx context.Context, a Alert, again time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if again < 0 {
		delete(m.waiting, a.ID)
	} else if w := m.waiting[a.ID]; w != nil && w.alert.Attempt == a.Attempt {
		w.due = m.now().Add(again)
	}
	return nil
}
