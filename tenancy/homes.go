package tenancy

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/internal/pgmigrate"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// create makes what the place lacks: the schema or, in a database that exists,
// our own tables; the application's tables; the policies on them. Each step can be
// run again, and until the last one is done the application's role has no
// privilege there. The shared tables are the operator's to make.
func (d *Data) create(ctx context.Context, p place) error {
	target := MigrationTarget{Schema: p.schema, DB: p.owner}
	switch p.at.Tier {
	case TierShared:
		return nil
	case TierSchema:
		target.Tenant = p.tenant
		err := p.asOwner(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error { return createSchema(ctx, tx, p.tenant) })
		if err != nil {
			return err
		}
	case TierDatabase:
		db := &migrationDatabase{place: p}
		target.DB = db
		conn, err := db.Acquire(ctx) // also where there are no files
		if err != nil {
			return err
		}
		conn.Release()
	}
	if d.files != nil {
		m, err := NewMigrator(d.files, targets{target}, &MigratorOptions{Workers: 1})
		if err != nil {
			return err
		}
		if _, err := m.Migrate(ctx); err != nil {
			return err
		}
	}
	return p.protect(ctx)
}

// targets are MigrationTargets that are known.
type targets []MigrationTarget

func (t targets) MigrationTargets(context.Context) ([]MigrationTarget, error) { return t, nil }

// protect protects every table of the place that isn't.
func (p place) protect(ctx context.Context) error {
	conn, err := p.acquire(ctx, p.owner)
	if err != nil {
		return err
	}
	defer conn.Release()
	return protectPlaces(ctx, conn.Conn(), p.schema)
}

// openTablesSQL lists the tables that tenants' rows can be in and that lack the
// policies: one query, whatever the number of schemas.
const openTablesSQL = `
select n.nspname::text, c.relname::text
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition
	and (n.nspname ~ '^t_[0-9a-f]{32}$' or n.nspname = 'public' and exists (select from pg_attribute a
		where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped))
	and not (c.relrowsecurity and c.relforcerowsecurity
		and exists (select from pg_policy p where p.polrelid = c.oid and not p.polpermissive and p.polname ~ '^tenant_guard_[0-9a-f]{8}$')
		and exists (select from pg_policy p where p.polrelid = c.oid and p.polpermissive and p.polname ~ '^tenant_access_[0-9a-f]{8}$'))
order by 1, 2`

// protectPlaces protects what isn't protected in a database, and looks closer at
// the schemas that are named: public, or tenants' own. conn is the owner's.
func protectPlaces(ctx context.Context, conn *pgx.Conn, schemas ...string) error {
	look := make(map[string]bool)
	for _, schema := range schemas {
		look[schema] = true
	}
	rows, err := conn.Query(ctx, openTablesSQL)
	if err != nil {
		return err
	}
	var schema, name string
	var shared []pgx.Identifier
	_, err = pgx.ForEachRow(rows, []any{&schema, &name}, func() error {
		look[schema] = true
		if schema == "public" {
			shared = append(shared, pgx.Identifier{schema, name})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(shared) > 0 {
		if err := protect(ctx, conn, shared); err != nil {
			return err
		}
	}
	for schema := range look {
		id, err := tenantOfSchema(schema)
		if err != nil {
			continue // public
		}
		if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return protectSchema(ctx, tx, id) }); err != nil {
			return err
		}
	}
	return nil
}

// tenantOfSchema is the inverse of SchemaName.
func tenantOfSchema(schema string) (tenant.ID, error) {
	if !tenantSchema.MatchString(schema) {
		return tenant.ID{}, fmt.Errorf("schema %q is no tenant's", schema)
	}
	h := schema[len(schemaPrefix):]
	return tenant.ParseID(h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:])
}

// migrationDatabase lends connections to a tenant's own database as its owner.
// Before the first it sees to it that our own tables there are those of this
// version: in two queries, if they are.
type migrationDatabase struct {
	place

	mu      sync.Mutex
	current bool
}

// Acquire implements [MigrationDB].
func (m *migrationDatabase) Acquire(ctx context.Context) (*pgxpool.Conn, error) {
	conn, err := m.place.acquire(ctx, m.owner)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current {
		return conn, nil
	}
	if err := updateDatabase(ctx, conn.Conn()); err != nil {
		conn.Release()
		return nil, fmt.Errorf("database %q: %w", m.at.Database, err)
	}
	m.current = true
	return conn, nil
}

func updateDatabase(ctx context.Context, conn *pgx.Conn) error {
	missing, err := pgmigrate.Pending(ctx, conn, "tenancy", migrations)
	if err != nil || len(missing) == 0 {
		return err
	}
	return Migrate(ctx, conn)
}

// placesSQL lists the schemas that exist: one that doesn't is made with all its
// tables by [Data.Prepare].
const placesSQL = `
select id, placement, database_ref from mcpsaas.tenants
where status <> 'deleted' and (placement = 'database'
	or placement = 'schema' and exists (select from pg_namespace where nspname = schema_name))
order by created_at, id`

var _ MigrationTargets = (*Data)(nil)

// MigrationTargets implements [MigrationTargets]: the shared tables, which go
// first and alone, then each tenant's own schema and each database that tenants
// have to themselves. It takes one query.
func (d *Data) MigrationTargets(ctx context.Context) ([]MigrationTarget, error) {
	home, err := d.pools.get("", true)
	if err != nil {
		return nil, err
	}
	all := []MigrationTarget{{Schema: "public", DB: home, Canary: true}}
	rows, err := d.control.Query(ctx, placesSQL)
	if err != nil {
		return nil, redact(err)
	}
	var id tenant.ID
	var tier string
	var database *string
	at := make(map[string]int) // where the database is in the list
	_, err = pgx.ForEachRow(rows, []any{&id, &tier, &database}, func() error {
		p, err := d.placeAt(id, placementOf(tier, database))
		if err != nil {
			return err
		}
		if p.at.Tier == TierSchema {
			all = append(all, MigrationTarget{Tenant: id, Schema: p.schema, DB: home})
			return nil
		}
		if i, ok := at[p.at.Database]; ok {
			all[i].Tenant = tenant.ID{} // it is several tenants'
			return nil
		}
		at[p.at.Database] = len(all)
		all = append(all, MigrationTarget{Tenant: id, Schema: p.schema, DB: &migrationDatabase{place: p}})
		return nil
	})
	if err != nil {
		return nil, redact(err)
	}
	return all, nil
}
