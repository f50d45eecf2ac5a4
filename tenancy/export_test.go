package tenancy

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

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

// UseDatabases has db reach databases of tenants' own by pools of the test's.
func (db *DB) UseDatabases(pools map[string]*pgxpool.Pool) { db.databases = testDatabases(pools) }

type testDatabases map[string]*pgxpool.Pool

func (d testDatabases) acquire(ctx context.Context, ref string) (lease, error) {
	return acquireFrom(ctx, d[ref])
}
