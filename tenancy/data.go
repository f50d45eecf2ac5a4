package tenancy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Data makes, exports and erases what one tenant has in the shared tables, for
// onboarding and for operators. It works on the control pool, one tenant at a
// time and under that tenant's policies: a fault here can't reach another
// tenant's rows. It is safe for concurrent use.
//
// The tables are those of the catalog with a column tenant_id, outside of
// schema mcpsaas. One that isn't protected makes every method but Prepare and
// Configure fail, before it has done anything. Materialized views aren't looked
// into: refresh them after an erasure.
type Data struct {
	control *pgxpool.Pool
	batch   int
}

// DataOptions configure [NewData]. The zero value is the default.
type DataOptions struct {
	// BatchRows is how many rows one transaction erases.
	// Defaults to 5,000.
	BatchRows int
}

// NewData returns the data of tenants as the control pool reaches them.
func NewData(control *pgxpool.Pool, opts *DataOptions) (*Data, error) {
	if control == nil {
		return nil, errors.New("tenancy: new data: the control pool is nil")
	}
	d := &Data{control: control, batch: 5000}
	if opts != nil && opts.BatchRows != 0 {
		d.batch = opts.BatchRows
	}
	if d.batch < 0 {
		return nil, errors.New("tenancy: new data: DataOptions.BatchRows must not be negative")
	}
	return d, nil
}

// within runs fn in a transaction of the control role under the tenant's
// policies.
func (d *Data) within(ctx context.Context, id tenant.ID, opts pgx.TxOptions, fn func(tx pgx.Tx) error) error {
	if id.IsZero() || id == Sentinel {
		return ErrUnknownTenant
	}
	err := pgx.BeginTxFunc(ctx, d.control, opts, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, enterSQL, id.String()); err != nil {
			return err
		}
		return fn(tx)
	})
	return redact(err)
}

const (
	insertMarkerSQL = `insert into public.tenant_marker (tenant_id) values ($1) on conflict do nothing`
	selectMarkerSQL = `select marker::text from public.tenant_marker where tenant_id = $1`
	insertConfigSQL = `insert into public.tenant_config (tenant_id, key, value) values ($1, $2, $3) on conflict do nothing`
)

// Prepare writes the tenant's marker row, unless it is there, and returns the
// marker, which stays the same for the tenant's whole life.
func (d *Data) Prepare(ctx context.Context, id tenant.ID) (marker string, err error) {
	err = d.within(ctx, id, pgx.TxOptions{}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, insertMarkerSQL, id); err != nil {
			return err
		}
		return tx.QueryRow(ctx, selectMarkerSQL, id).Scan(&marker)
	})
	if err != nil {
		return "", fmt.Errorf("tenancy: prepare tenant: %w", err)
	}
	return marker, nil
}

// Configure writes those settings of tenant_config that the tenant hasn't got
// yet, and leaves the ones that it has.
func (d *Data) Configure(ctx context.Context, id tenant.ID, defaults map[string]string) error {
	err := d.within(ctx, id, pgx.TxOptions{}, func(tx pgx.Tx) error {
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
	err := d.within(ctx, id, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := d.tables(ctx, tx); err != nil {
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
		if _, err := tx.Exec(ctx, setSQL, Sentinel.String()); err != nil {
			return err
		}
		err = tx.QueryRow(ctx, selectMarkerSQL, Sentinel).Scan(&stored)
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

// dataTable is a table that has tenants' rows.
type dataTable struct {
	oid         uint32
	id          pgx.Identifier
	partitioned bool
	references  []uint32 // the tables that its foreign keys point at
}

func (t dataTable) name() string { return strings.Join(t.id, ".") }

const dataTablesSQL = `
select c.oid, n.nspname, c.relname, c.relkind = 'p',
	array(select distinct k.confrelid from pg_constraint k where k.conrelid = c.oid and k.contype = 'f'),
	row_security_active(c.oid) and has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'delete')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition
	and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'mcpsaas')
	and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped)
order by 2, 3`

// tables lists the tables, and fails if one of them isn't protected: its rows
// could be neither exported nor erased.
func (d *Data) tables(ctx context.Context, tx pgx.Tx) ([]dataTable, error) {
	rows, err := tx.Query(ctx, dataTablesSQL)
	if err != nil {
		return nil, err
	}
	var open []string
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (dataTable, error) {
		t := dataTable{id: make(pgx.Identifier, 2)}
		var protected bool
		err := row.Scan(&t.oid, &t.id[0], &t.id[1], &t.partitioned, &t.references, &protected)
		if !protected {
			open = append(open, t.name())
		}
		return t, err
	})
	if err != nil {
		return nil, err
	}
	if len(open) > 0 {
		return nil, fmt.Errorf("%w: %s: run tenancy.Protect", ErrUnprotected, strings.Join(open, ", "))
	}
	return tables, nil
}
