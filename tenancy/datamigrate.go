package tenancy

import (
	"context"
	"errors"
	"fmt"
)

// Migrate brings the application's tables up to date wherever tenants' rows are,
// as [Migrator.Migrate] does, and protects every table that a file has made: until
// then the application's role has no privilege on it. In databases that tenants
// have to themselves it brings our own tables up to date as well. With nothing
// to do it takes two queries for all that is in one database.
//
// A table of schema public is tenants' if it has a column tenant_id, one of a
// tenant's own schema in any case.
func (d *Data) Migrate(ctx context.Context, opts *MigratorOptions) (*MigrationResult, error) {
	if d.files == nil {
		return nil, errors.New("tenancy: migrate: DataOptions.Files is nil")
	}
	m, err := NewMigrator(d.files, d, opts)
	if err != nil {
		return nil, err
	}
	result, err := m.Migrate(ctx)
	if result == nil {
		return nil, err
	}
	// Also after an error: what was migrated is in use.
	if e := d.protectAll(ctx, m, result); e != nil {
		err = errors.Join(err, fmt.Errorf("tenancy: migrate: %w", e))
	}
	return result, err
}

// protectAll looks at each database once.
func (d *Data) protectAll(ctx context.Context, m *Migrator, result *MigrationResult) error {
	applied := make(map[MigrationDB][]string)
	var dbs []MigrationDB
	for _, o := range result.Outcomes {
		if o.State == MigrationFailed && !o.Target.Tenant.IsZero() && o.Target.Schema == "public" {
			continue // a database that may be out of reach
		}
		if _, ok := applied[o.Target.DB]; !ok {
			applied[o.Target.DB] = nil
			dbs = append(dbs, o.Target.DB)
		}
		if len(o.Applied) > 0 {
			applied[o.Target.DB] = append(applied[o.Target.DB], o.Target.Schema)
		}
	}
	errs := make([]error, len(dbs))
	m.each(ctx, len(dbs), func(i int) {
		errs[i] = func() error {
			conn, err := dbs[i].Acquire(ctx)
			if err != nil {
				return redact(err)
			}
			defer conn.Release()
			return protectPlaces(ctx, conn.Conn(), applied[dbs[i]]...)
		}()
	}, nil)
	return errors.Join(append(errs, ctx.Err())...)
}
