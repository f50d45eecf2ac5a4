package metering

import (
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Runs reports whether Run has begun.
func (l *Leased) Runs() bool { return l.runs() }

// Lends reports whether units may be lent: Run has begun, or nothing is leased.
func (m *Meter) Lends() bool { return m.guard.leased == nil || m.guard.leased.runs() }

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

// Waits reports whether answers are waited for behind the calls.
func (m *Meter) Waits() bool { return m.guard.leased.late.Load() > 0 }

// LookSoon has the ledger asked again after the given times. Call it before Run.
func (m *Meter) LookSoon(pauses ...time.Duration) { m.seeder.pauses = pauses }

// LocalKeys returns how many idempotency keys are remembered in place of the limiter.
func (m *Meter) LocalKeys() int {
	m.guard.local.mu.Lock()
	defer m.guard.local.mu.Unlock()
	return len(m.guard.local.charges)
}
