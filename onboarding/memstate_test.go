package onboarding_test

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// memory is a State without a database, for what has nothing to do with one.
// The tests of package pgstate run the real one.
type memory struct {
	mu      sync.Mutex
	records map[tenant.ID]onboarding.Record
	steps   map[tenant.ID][]onboarding.StepRecord
	audit   []onboarding.Entry
	ahead   time.Duration // how far its clock was put forward
}

var _ onboarding.State = (*memory)(nil)

func newMemory() *memory {
	return &memory{
		records: make(map[tenant.ID]onboarding.Record),
		steps:   make(map[tenant.ID][]onboarding.StepRecord),
	}
}

func (m *memory) now() time.Time { return time.Now().Add(m.ahead).UTC() }

// pass lets time pass.
func (m *memory) pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ahead += d
}

func (m *memory) Load(_ context.Context, id tenant.ID) (onboarding.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.load(id)
}

func (m *memory) load(id tenant.ID) (onboarding.Record, error) {
	r, ok := m.records[id]
	if !ok {
		return r, onboarding.ErrUnknownTenant
	}
	r.Now = m.now()
	r.Spec.Holds = maps.Clone(r.Spec.Holds)
	return r, nil
}

func (m *memory) edit(r onboarding.Record, change onboarding.Change) (onboarding.Record, error) {
	entries, err := change(&r)
	if err != nil {
		return r, err
	}
	m.records[r.Tenant] = r
	m.audit = append(m.audit, entries...)
	return m.load(r.Tenant)
}

func (m *memory) Update(_ context.Context, id tenant.ID, create bool, change onboarding.Change) (onboarding.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.load(id)
	if err != nil && create {
		r = onboarding.Record{Tenant: id, State: tenant.Requested, CreatedAt: m.now(), Now: m.now()}
	} else if err != nil {
		return r, err
	}
	return m.edit(r, change)
}

func (m *memory) Advance(_ context.Context, held onboarding.Record, change onboarding.Change) (onboarding.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.load(held.Tenant)
	if err != nil {
		return r, err
	}
	if r.Fence != held.Fence {
		return r, onboarding.ErrLeaseLost
	}
	return m.edit(r, change)
}

func (m *memory) Claim(_ context.Context, owner string, ttl time.Duration) (onboarding.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, r := range m.records {
		if !r.NextAt.IsZero() && !r.NextAt.After(m.now()) && !r.LeaseUntil.After(m.now()) {
			r.Fence++
			r.LeaseOwner, r.LeaseUntil = owner, m.now().Add(ttl)
			m.records[id] = r
			return m.load(id)
		}
	}
	return onboarding.Record{}, onboarding.ErrNoneDue
}

func (m *memory) Renew(_ context.Context, held onboarding.Record, ttl time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.records[held.Tenant]
	if r.Fence != held.Fence || r.LeaseOwner == "" {
		return onboarding.ErrLeaseLost
	}
	r.LeaseUntil = m.now().Add(ttl)
	m.records[held.Tenant] = r
	return nil
}

func (m *memory) Steps(_ context.Context, id tenant.ID, op string) ([]onboarding.StepRecord, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []onboarding.StepRecord
	for _, s := range m.steps[id] {
		if op == "" || s.Op == op {
			list = append(list, s)
		}
	}
	return list, nil
}

func (m *memory) PutStep(_ context.Context, held onboarding.Record, step onboarding.StepRecord) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.records[held.Tenant]
	if r.Fence != held.Fence || r.State != held.State {
		return onboarding.ErrLeaseLost
	}
	list := m.steps[held.Tenant]
	i := slices.IndexFunc(list, func(s onboarding.StepRecord) bool { return s.Op == step.Op && s.Name == step.Name })
	if i < 0 {
		m.steps[held.Tenant] = append(list, step)
	} else {
		list[i] = step
	}
	return nil
}

func (m *memory) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}
