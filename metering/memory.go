package metering

import (
	"context"
	"maps"
	"slices"
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
	loans   map[chargeKey]time.Time            // until when each block may be given back
	slots   map[memoryKey]map[string]time.Time // until when each slot is held
	named   uint64                             // slots so far
	sweepAt int                                // size at which what has expired is thrown away
}

var (
	_ Limiter  = (*Memory)(nil)
	_ Renewer  = (*Memory)(nil)
	_ Resetter = (*Memory)(nil)
)

type memoryKey struct {
	tenant   string
	tool     string
	attempts bool
	limit    string
}

type chargeKey struct{ tenant, key string }

// loanKept is how long after its end a loan may be given back: longer than the
// limiter is away.
const loanKept = 24 * time.Hour

// counter counts a period.
type counter struct {
	units int64
	end   time.Time
	reset time.Time // when it was set to zero: nothing from before is given back
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
		loans:   make(map[chargeKey]time.Time),
		slots:   make(map[memoryKey]map[string]time.Time),
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
	tenant, block, holds := r.Tenant.String(), r.Block, false
	for i, b := range r.Bounds {
		used, w := m.used(tenant, b, now), weight(b)
		room := max(0, b.Units-used-w) / lendable
		switch {
		case b.Hold > 0:
			holds, block.Units = true, 0 // a slot belongs to one call
		case b.Attempts:
			block.Calls = min(block.Calls, room)
		default:
			block.Units = min(block.Units, room)
		}
		state := LimitState{Name: b.Name, Units: b.Units, Remaining: max(0, b.Units-used)}
		if w > 0 && used+w > b.Units {
			if d.Allowed {
				d.Allowed, d.Refused = false, i
			}
			state.RetryAfter = m.retryAfter(tenant, b, used+w-b.Units, w, now)
		}
		d.Limits[i] = state
	}
	if !d.Allowed {
		d.Units = 0
		return d
	}
	attempts := slices.ContainsFunc(r.Bounds, func(b Bound) bool { return b.Attempts })
	if block.ID != "" && r.Key == "" && block.Units > 0 && (block.Calls > 0 || !attempts) {
		d.Block = block
		if take {
			m.loans[chargeKey{tenant, block.ID}] = now.Add(block.Hold + loanKept)
		}
	}
	if take && holds {
		m.named++
		d.Slot = strconv.FormatUint(m.named, 36)
	}
	for i, b := range r.Bounds {
		w := weight(b) + b.lent(d.Block)
		d.Limits[i].Remaining = max(0, d.Limits[i].Remaining-w)
		switch {
		case !take:
		case b.Hold > 0:
			m.hold(tenant, b, d.Slot, now)
		default:
			m.add(tenant, b, w, now, d.Block.Hold)
		}
	}
	switch {
	case !take || r.Key == "":
	case seen != nil:
		seen.holders++
	default:
		m.charges[chargeKey{tenant, r.Key}] = &charge{
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
	loan := chargeKey{r.Tenant.String(), d.Block.ID}
	_, lent := m.loans[loan]
	delete(m.loans, loan)
	for _, b := range r.Bounds {
		if b.Hold > 0 {
			delete(m.slots[key(r.Tenant.String(), b)], d.Slot)
		} else if left := b.lent(d.Block); lent && left > 0 {
			m.sub(r.Tenant.String(), b, left, at, d.Block.Hold)
		}
	}
	if units == d.Units && !d.Replay {
		return units, nil
	}
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
			if b.refundable() {
				m.sub(r.Tenant.String(), b, d.Units-units, at, d.Block.Hold)
			}
		}
	} else {
		more := units - d.Units
		for _, b := range r.Bounds {
			if b.refundable() {
				more = min(more, max(0, b.Units-m.used(r.Tenant.String(), b, now)))
			}
		}
		for _, b := range r.Bounds {
			if b.refundable() {
				m.add(r.Tenant.String(), b, more, now, 0)
			}
		}
		units = d.Units + more
	}
	if seen != nil && units > 0 {
		seen.units = units
	}
	return units, nil
}

// Renew implements [Renewer].
func (m *Memory) Renew(ctx context.Context, d Decision) error {
	if err := ctx.Err(); err != nil || d.Slot == "" {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range d.Request.Bounds {
		if b.Hold > 0 {
			m.hold(d.Request.Tenant.String(), b, d.Slot, m.now())
		}
	}
	return nil
}

// Reset implements [Resetter].
func (m *Memory) Reset(ctx context.Context, r Request) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range r.Bounds {
		delete(m.windows, key(r.Tenant.String(), b))
		if c := m.periods[key(r.Tenant.String(), b)]; c != nil {
			c.units, c.reset = 0, m.now()
		}
	}
	maps.DeleteFunc(m.loans, func(k chargeKey, _ time.Time) bool { return k.tenant == r.Tenant.String() })
	return nil
}

// forgetKeys forgets idempotency keys, and leaves the counters.
func (m *Memory) forgetKeys() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.charges) > 0 {
		m.charges = make(map[chargeKey]*charge)
	}
}

func key(tenant string, b Bound) memoryKey {
	k := memoryKey{tenant: tenant, tool: b.Tool, attempts: b.Attempts, limit: b.id()}
	if b.Period != "" {
		k.limit += strconv.FormatInt(b.Start.Unix(), 10)
	}
	return k
}

// hold takes a slot of a bound, or renews it.
func (m *Memory) hold(tenant string, b Bound, slot string, now time.Time) {
	k := key(tenant, b)
	if m.slots[k] == nil {
		m.sweep(now)
		m.slots[k] = make(map[string]time.Time)
	}
	m.slots[k][slot] = now.Add(b.Hold)
}

func (m *Memory) used(tenant string, b Bound, now time.Time) int64 {
	if b.Hold > 0 {
		slots := m.slots[key(tenant, b)]
		maps.DeleteFunc(slots, func(_ string, until time.Time) bool { return !now.Before(until) })
		return int64(len(slots))
	}
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

func (m *Memory) add(tenant string, b Bound, units int64, now time.Time, ahead time.Duration) {
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
	w.add(now, ahead, units, b.Resolution())
}

func (m *Memory) sub(tenant string, b Bound, units int64, at time.Time, ahead time.Duration) {
	k := key(tenant, b)
	if b.Period != "" {
		if c := m.periods[k]; c != nil && at.After(c.reset) {
			c.units = max(0, c.units-units)
		}
		return
	}
	if w := m.windows[k]; w != nil {
		w.sub(at, ahead, units)
	}
}

func (m *Memory) retryAfter(tenant string, b Bound, missing, weight int64, now time.Time) time.Duration {
	if weight > b.Units {
		return -1
	}
	if b.Period != "" {
		return max(b.End.Sub(now), time.Millisecond)
	}
	if b.Hold > 0 {
		retry := time.Second // when a call will end nobody knows
		for _, until := range m.slots[key(tenant, b)] {
			retry = min(retry, until.Sub(now))
		}
		return retry
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
	size := func() int { return len(m.windows) + len(m.periods) + len(m.charges) + len(m.loans) + len(m.slots) }
	if size() < m.sweepAt {
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
	maps.DeleteFunc(m.loans, func(_ chargeKey, until time.Time) bool { return !now.Before(until) })
	for k, slots := range m.slots {
		maps.DeleteFunc(slots, func(_ string, until time.Time) bool { return !now.Before(until) })
		if len(slots) == 0 {
			delete(m.slots, k)
		}
	}
	m.sweepAt = max(1024, 2*size())
}
