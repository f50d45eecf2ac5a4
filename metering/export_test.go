package metering

import "github.com/mcpsaas/mcpsaas/tenancy/tenant"

// Runs reports whether Run has begun.
func (l *Leased) Runs() bool { return l.runs() }

// Lends reports whether Run has begun, and units may be lent.
func (m *Meter) Lends() bool { return m.guard.leased.runs() }

// Asked reports whether the tenant's own threshold has been asked for.
func (m *Meter) Asked(id tenant.ID) bool {
	m.watch.mu.RLock()
	t := m.watch.tenants[id]
	m.watch.mu.RUnlock()
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.asked.IsZero()
}
