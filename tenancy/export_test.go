package tenancy

import (
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// What later doors are made of, for the tests of what it is made of itself.
var (
	CreateSchema  = createSchema
	ProtectSchema = protectSchema
	DropSchema    = dropSchema
)

// Token signs a context.
func (s *Signer) Token(id tenant.ID) string { return s.token(id) }

// Guard returns the hash in the name of a table's restrictive policy and what it says.
func Guard(owner tenant.ID, column, signed bool) string {
	s := shapeOf(owner, column, signed)
	return s.guard.hash + " " + s.guard.expr(owner)
}

// Known is how many databases are remembered.
func (c *CachedResolver) Known() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}

// SetStep has the mover tell at each point at which it may die.
func (m *Mover) SetStep(step func(string)) { m.step = step }

// UsePatience says how long a call looks for rows that are nowhere.
func (db *DB) UsePatience(d time.Duration) { db.patience = d }

// ForgetRoles makes the next check of the role read the catalog.
func (db *DB) ForgetRoles() { db.roles.digest.Store(nil) }
