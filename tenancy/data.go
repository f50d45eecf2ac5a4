package tenancy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Data makes, exports and erases what one tenant has, wherever its rows are
// placed, for onboarding and for operators. It works on the control pool, or as
// the owner of the tenant's database, on one tenant at a time and under that
// tenant's policies: a fault here can't reach another tenant's rows. It is safe
// for concurrent use.
//
// The tables are those of the catalog with a column tenant_id, outside of schema
// mcpsaas; in a tenant's own schema they are all there are. One that isn't
// protected makes every method but Prepare and Configure fail, before it has done
// anything. Materialized views aren't looked into: refresh them after an
// erasure.
//
// What one method does with a tenant keeps others from getting between, in any
// process: they wait for it, up to 10 s, and then fail with [ErrTenantBusy].
type Data struct {
	control *pgxpool.Pool
	pools   *ownerPools
	files   fs.FS
	batch   int
	turns   chan struct{}
}

// DataOptions configure [NewData]. The zero value is the default.
type DataOptions struct {
	// Databases finds the databases of tenants that have one to themselves, by
	// URLs that log in as the owner: not those that [Open] has, which log in as
	// the application's role.
	// Defaults to none: such a tenant is out of reach.
	Databases Resolver

	// Files are the application's tables, as [NewMigrator] takes them. A tenant that
	// gets a schema or a database to itself has them made by [Data.Prepare].
	// Defaults to none: such a place has our own tables only.
	Files fs.FS

	// BatchRows is how many rows one transaction erases.
	// Defaults to 5,000.
	BatchRows int
}

// NewData returns the data of tenants as the control pool reaches them.
func NewData(control *pgxpool.Pool, opts *DataOptions) (*Data, error) {
	if control == nil {
		return nil, errors.New("tenancy: new data: the control pool is nil")
	}
	if opts == nil {
		opts = &DataOptions{}
	}
	conns := int(control.Config().MaxConns)
	switch {
	case opts.BatchRows < 0:
		return nil, errors.New("tenancy: new data: DataOptions.BatchRows must not be negative")
	case conns < 2:
		return nil, errors.New("tenancy: new data: the control pool must have two connections at least")
	}
	if opts.Files != nil {
		if _, err := NewMigrator(opts.Files, targets{}, nil); err != nil {
			return nil, fmt.Errorf("tenancy: new data: DataOptions.Files: %w", err)
		}
	}
	return &Data{
		control: control,
		files:   opts.Files,
		pools:   &ownerPools{home: control, databases: opts.Databases},
		batch:   orDefault(opts.BatchRows, 5000),
		turns:   make(chan struct{}, conns/2),
	}, nil
}

// Close closes the connections that d has opened itself. Those of the control
// pool stay.
func (d *Data) Close() { d.pools.close() }

// within holds the tenant and runs fn in one transaction at its place.
func (d *Data) within(ctx context.Context, id tenant.ID, how holding, opts pgx.TxOptions, fn func(p place, tx pgx.Tx) error) error {
	return d.hold(ctx, id, how, func(_ pgx.Tx, _ home, p place) error {
		return p.within(ctx, opts, func(tx pgx.Tx) error { return fn(p, tx) })
	})
}

const (
	insertMarkerSQL = `insert into tenant_marker (tenant_id) values ($1) on conflict do nothing`
	selectMarkerSQL = `select marker::text from tenant_marker where tenant_id = $1`
	// The sentinel has no row in a tenant's own schema.
	selectSentinelSQL = `select marker::text from public.tenant_marker where tenant_id = $1`

	insertConfigSQL = `insert into tenant_config (tenant_id, key, value) values ($1, $2, $3) on conflict do nothing`
)

// Prepare makes the place of a tenant that is new, as its [Record.Placement] says,
// and returns the tenant's marker, which stays the same for the tenant's whole
// life. What is there already stays, so that it may be called again after any
// failure.
//
// A schema of the tenant's own is made with [DataOptions.Files] in it. A
// database must exist and be reached by [DataOptions.Databases], or it fails with
// [ErrDatabaseUnavailable]: there it runs [Migrate], the files, and [Protect] for
// every table with a column tenant_id. For the shared tables that is the
// operator's business.
func (d *Data) Prepare(ctx context.Context, id tenant.ID) (marker string, err error) {
	err = d.hold(ctx, id, holdExclusive, func(_ pgx.Tx, h home, p place) error {
		if h.status == tenant.Deleted {
			return ErrDeleted
		}
		if err := d.create(ctx, p); err != nil {
			return err
		}
		return p.within(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, insertMarkerSQL, id); err != nil {
				return err
			}
			return tx.QueryRow(ctx, selectMarkerSQL, id).Scan(&marker)
		})
	})
	if err != nil {
		return "", fmt.Errorf("tenancy: prepare tenant: %w", err)
	}
	return marker, nil
}

// Configure writes those settings of tenant_config that the tenant hasn't got
// yet, and leaves the ones that it has.
func (d *Data) Configure(ctx context.Context, id tenant.ID, defaults map[string]string) error {
	err := d.within(ctx, id, holdShared, pgx.TxOptions{}, func(_ place, tx pgx.Tx) error {
		batch := &pgx.Batch{}
		for key, value := range defaults {
			batch.Queue(insertConfigSQL, id, key, value)
		}
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return fmt.Errorf("tenancy: configure tenant: %w", err)
	}
	return nil
}

// Prove returns nil if the tenant's marker is the one that [Data.Prepare]
// returned, the sentinel's is there too, and every table is protected.
func (d *Data) Prove(ctx context.Context, id tenant.ID, marker string) error {
	err := d.within(ctx, id, holdShared, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(p place, tx pgx.Tx) error {
		if _, err := p.tables(ctx, tx); err != nil {
			return err
		}
		var stored string
		err := tx.QueryRow(ctx, selectMarkerSQL, id).Scan(&stored)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && stored != marker {
			return &CanaryError{CanaryBlind}
		}
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, actSQL, Sentinel.String()); err != nil {
			return err
		}
		err = tx.QueryRow(ctx, selectSentinelSQL, Sentinel).Scan(&stored)
		if errors.Is(err, pgx.ErrNoRows) {
			return &CanaryError{CanaryUnarmed}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("tenancy: prove tenant's place: %w", err)
	}
	return nil
}
