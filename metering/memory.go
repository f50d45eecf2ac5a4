package metering

import (
	"context"
	"strconv"
	"sync"
	"time"
)

// Memory is a Limiter in the memory of one process: for tests, for a server
// that runs as a single process, and for what a plan gets while the shared
// limiter is away. Its counts end with the process.
type Memory struct {
	now func() time.Time

	mu      sync.Mutex
	windows map[memoryKey]*window
	periods map[memoryKey]*counter
	charges map[chargeKey]*charge
	sweepAt int // size at which what has expired is thrown away
}

var _ Limiter = (*Memory)(nil)

type memoryKey struct {
	tenant   string
	tool     string
	attempts bool
	limit    string
}

type chargeKey struct{ tenant, key string }

// counter counts a period.
type counter struct {
	units int64
	end   time.Time
}

// charge is what an idempotency key stands for.
type charge struct {
	id      string
	units   int64
	holders int // calls that rely on it and have not given it back
	at      time.Time
	bounds  []Bound // what was drawn on
	expires time.Time
}

// NewMemory returns an empty limiter that tells time by now; nil means
// time.Now.
func NewMemory(now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	return &Memory{
		now:     now,
		windows: make(map[memoryKey]*window),
		periods: make(map[memoryKey]*counter),
		charges: make(map[chargeKey]*charge),
		sweepAt: 1024,
	}
}

// Take implements [Limiter].
func (m *Memory) Take(ctx context.Context, r Request) (Decision, error) {
	if err := ctx.Err(); err != nil {
		return Decision{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.decide(r, true), nil
}

// Peek implements [Limiter].
func (m *Memory) Peek(ctx context.Context, r Request) (Decision, error) {
	if err := ctx.Err(); err != nil {
		return Decision{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.decide(r, false), nil
}

func (m *Memory) decide(r Request, take bool) Decision {
	now := m.now().Truncate(time.Millisecond)
	d := Decision{
		Allowed: true, ID: r.ID, Units: r.Units, Refused: -1,
		Limits: make([]LimitState, len(r.Bounds)),
		Time:   now, Source: SourceLimiter, Request: r,
	}
	seen := m.charge(r, now)
	weight := func(b Bound) int64 { return b.Weight(r.Units) }
	if seen != nil {
		d.ID, d.Units, d.Replay = seen.id, seen.units, true
		weight = func(b Bound) int64 { return b.Weight(0) }
	}
	for i, b := range r.Bounds {
		used, w := m.used(r.Tenant.String(), b, now), weight(b)
		state := LimitState{Name: b.Name, Units: b.Units, Remaining: max(0, b.Units-used)}
		if w > 0 && used+w > b.Units {
			if d.Allowed {
				d.Allowed, d.Refused = false, i
			}
			state.RetryAfter = m.retryAfter(r.Tenant.String(), b, used+w-b.Units, w, now)
		}
		d.Limits[i] = state
	}
	if !d.Allowed {
		d.Units = 0
		return d
	}
	for i, b := range r.Bounds {
		w := weight(b)
		d.Limits[i].Remaining = max(0, d.Limits[i].Remaining-w)
		if take {
			m.add(r.Tenant.String(), b, w, now)
		}
	}
	switch {
	case !take || r.Key == "":
	case seen != nil:
		seen.holders++
	default:
		m.charges[chargeKey{r.Tenant.String(), r.Key}] = &charge{
			id: r.ID, units: r.Units, holders: 1, at: now, bounds: r.Bounds, expires: now.Add(r.KeyTTL),
		}
	}
	return d
}

// Settle implements [Limiter].
func (m *Memory) Settle(ctx context.Context, d Decision, units int64) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now().Truncate(time.Millisecond)
	r, at := d.Request, d.Time
	seen := m.charge(r, now)
	switch {
	case r.Key == "":
	case seen == nil || seen.id != d.ID:
		if d.Replay {
			return units, nil // the charge is long gone; there is nothing to change
		}
		seen = nil
	case seen.holders > 1:
		if units == 0 {
			seen.holders--
			return 0, nil
		}
		return seen.units, nil
	default:
		at = seen.at
		if units == 0 {
			delete(m.charges, chargeKey{r.Tenant.String(), r.Key})
		}
		if d.Replay {
			if units != 0 {
				return seen.units, nil
			}
			r.Bounds, d.Units = seen.bounds, seen.units
		}
	}
	if units <= d.Units {
		for _, b := range r.Bounds {
			if !b.Attempts {
				m.sub(r.Tenant.String(), b, d.Units-units, at)
			}
		}
	} else {
		more := units - d.Units
		for _, b := range r.Bounds {
			if !b.Attempts {
				more = min(more, max(0, b.Units-m.used(r.Tenant.String(), b, now)))
			}
		}
		for _, b := range r.Bounds {
			if !b.Attempts {
				m.add(r.Tenant.String(), b, more, now)
			}
		}
		units = d.Units + more
	}
	if seen != nil && units > 0 {
		seen.units = units
	}
	return units, nil
}

func key(tenant string, b Bound) memoryKey {
	k := memoryKey{tenant: tenant, tool: b.Tool, attempts: b.Attempts, limit: b.id()}
	if b.Period != "" {
		k.limit += strconv.FormatInt(b.Start.Unix(), 10)
	}
	return k
}

func (m *Memory) used(tenant string, b Bound, now time.Time) int64 {
	if b.Period != "" {
		if c := m.periods[key(tenant, b)]; c != nil {
			return c.units
		}
		return 0
	}
	if w := m.windows[key(tenant, b)]; w != nil {
		return w.used(now, b.Window)
	}
	return 0
}

func (m *Memory) add(tenant string, b Bound, units int64, now time.Time) {
	if units == 0 {
		return
	}
	k := key(tenant, b)
	if b.Period != "" {
		c := m.periods[k]
		if c == nil {
			m.sweep(now)
			c = &counter{end: b.End}
			m.periods[k] = c
		}
		c.units += units
		return
	}
	w := m.windows[k]
	if w == nil {
		m.sweep(now)
		w = &window{}
		m.windows[k] = w
	}
	w.length = b.Window
	w.add(now, units, b.Resolution())
}

func (m *Memory) sub(tenant string, b Bound, units int64, at time.Time) {
	k := key(tenant, b)
	if b.Period != "" {
		if c := m.periods[k]; c != nil {
			c.units = max(0, c.units-units)
		}
		return
	}
	if w := m.windows[k]; w != nil {
		w.sub(at, units)
	}
}

func (m *Memory) retryAfter(tenant string, b Bound, missing, weight int64, now time.Time) time.Duration {
	if weight > b.Units {
		return -1
	}
	if b.Period != "" {
		return max(b.End.Sub(now), time.Millisecond)
	}
	return m.windows[key(tenant, b)].retryAfter(now, b.Window, missing)
}

func (m *Memory) charge(r Request, now time.Time) *charge {
	if r.Key == "" {
		return nil
	}
	c := m.charges[chargeKey{r.Tenant.String(), r.Key}]
	if c == nil || !now.Before(c.expires) {
		return nil
	}
	return c
}

// sweep throws away what has expired once the maps have doubled, so that its
// cost stays constant per call.
func (m *Memory) sweep(now time.Time) {
	if len(m.windows)+len(m.periods)+len(m.charges) < m.sweepAt {
		return
	}
	for k, w := range m.windows {
		if w.used(now, w.length) == 0 {
			delete(m.windows, k)
		}
	}
	for k, c := range m.periods {
		if now.After(c.end) {
			delete(m.periods, k)
		}
	}
	for k, c := range m.charges {
		if !now.Before(c.expires) {
			delete(m.charges, k)
		}
	}
	m.sweepAt = max(1024, 2*(len(m.windows)+len(m.periods)+len(m.charges)))
}
