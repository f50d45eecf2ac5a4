package tenancy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// channel announces changes of the table of tenants. It carries no payload:
// any role of the database may listen.
const channel = "mcpsaas_tenants"

// Record is a tenant as it is stored.
type Record struct {
	ID     tenant.ID
	Name   string // for people; may be empty
	Plan   tenant.Plan
	Status tenant.Status

	// PeriodStart and PeriodEnd bound the billing period; both zero without a
	// subscription.
	PeriodStart, PeriodEnd time.Time

	// Placement is where the rows of a new tenant are to live. Writing it for a
	// tenant that exists does nothing: a [Mover] changes it.
	Placement Placement

	// Epoch counts the tenant's moves, from 1. It is read, never written.
	Epoch int64

	// Limits are the tenant's own. They are read, and written by [SetLimits]
	// alone.
	Limits []tenant.Limit
}

// putSQL doesn't touch a tombstone, and then returns no row.
const putSQL = `
insert into mcpsaas.tenants as t (id, name, plan, status, period_start, period_end, placement, schema_name, database_ref, deleted_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, case when $4 = 'deleted' then now() end)
on conflict (id) do update set
	name = excluded.name, plan = excluded.plan, status = excluded.status,
	period_start = excluded.period_start, period_end = excluded.period_end, deleted_at = excluded.deleted_at,
	version = t.version + 1, changed = pg_current_xact_id(), updated_at = now()
where t.status <> 'deleted'
returning version`

const setStatusSQL = `
update mcpsaas.tenants
set status = $2, deleted_at = case when $2 = 'deleted' then now() end,
	version = version + 1, changed = pg_current_xact_id(), updated_at = now()
where id = $1 and status <> 'deleted'
returning version`

const lockSQL = `
select name, plan, status, period_start, period_end, placement, database_ref, epoch, limits
from mcpsaas.tenants where id = $1 for update`

const notifySQL = `select pg_notify('` + channel + `', '')`

// PutTenant writes the tenant's row, new or not, and returns its new version.
// Every replica's [Directory] knows of it within a second of the commit. tx is
// a transaction of the control pool, so that what the row belongs to can be
// written in the same one. A tombstone is left as it is: [ErrDeleted].
//
// The whole record is written. To change a part of one, read it by
// [LockTenant] first.
func PutTenant(ctx context.Context, tx pgx.Tx, r Record) (version int64, err error) {
	if err := r.validate(); err != nil {
		return 0, fmt.Errorf("tenancy: put tenant: %w", err)
	}
	tier, schema, database := r.Placement.columns(r.ID)
	version, err = writeTenant(ctx, tx, putSQL, r.ID, r.Name, r.Plan, r.Status, timeOrNull(r.PeriodStart), timeOrNull(r.PeriodEnd), tier, schema, database)
	if err != nil {
		return 0, fmt.Errorf("tenancy: put tenant: %w", err)
	}
	return version, nil
}

// SetStatus changes the tenant's status alone; all else is as with
// [PutTenant]. [ErrUnknownTenant] means that there is no such tenant.
func SetStatus(ctx context.Context, tx pgx.Tx, id tenant.ID, status tenant.Status) (version int64, err error) {
	if status == "" {
		return 0, errors.New("tenancy: set status: the status is empty")
	}
	if version, err = setTenant(ctx, tx, setStatusSQL, id, status); err != nil {
		return 0, fmt.Errorf("tenancy: set status: %w", err)
	}
	return version, nil
}

// setTenant changes a part of the tenant's row by sql, which changes no
// tombstone and returns the new version, and has the replicas told.
func setTenant(ctx context.Context, tx pgx.Tx, sql string, id tenant.ID, value any) (version int64, err error) {
	version, err = writeTenant(ctx, tx, sql, id, value)
	if errors.Is(err, ErrDeleted) {
		if _, unknown := LockTenant(ctx, tx, id); unknown != nil {
			err = unknown
		}
	}
	return version, err
}

// writeTenant has the replicas told of what sql writes.
func writeTenant(ctx context.Context, tx pgx.Tx, sql string, args ...any) (version int64, err error) {
	batch := &pgx.Batch{}
	batch.Queue(sql, args...).QueryRow(func(row pgx.Row) error { return row.Scan(&version) })
	batch.Queue(notifySQL)
	err = tx.SendBatch(ctx, batch).Close()
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrDeleted
	}
	return version, err
}

// LockTenant reads the tenant's row and locks it until tx ends.
// [ErrUnknownTenant] means that there is none.
func LockTenant(ctx context.Context, tx pgx.Tx, id tenant.ID) (Record, error) {
	r := Record{ID: id}
	var start, end *time.Time
	var tier string
	var database *string
	err := tx.QueryRow(ctx, lockSQL, id).Scan(&r.Name, &r.Plan, &r.Status, &start, &end, &tier, &database, &r.Epoch, &r.Limits)
	if errors.Is(err, pgx.ErrNoRows) {
		return Record{}, ErrUnknownTenant
	}
	if err != nil {
		return Record{}, fmt.Errorf("tenancy: lock tenant: %w", err)
	}
	r.PeriodStart, r.PeriodEnd, r.Limits = utc(start), utc(end), orNone(r.Limits)
	r.Placement = placementOf(tier, database)
	return r, nil
}

func (r Record) validate() error {
	switch {
	case r.ID.IsZero():
		return errors.New("Record.ID is zero")
	case r.ID == Sentinel:
		return errors.New("Record.ID is the sentinel's")
	case r.Plan == "":
		return errors.New("Record.Plan is empty")
	case r.Status == "":
		return errors.New("Record.Status is empty")
	case r.PeriodStart.IsZero() != r.PeriodEnd.IsZero():
		return errors.New("Record.PeriodStart and Record.PeriodEnd must be given together")
	case !r.PeriodEnd.IsZero() && !r.PeriodEnd.After(r.PeriodStart):
		return errors.New("Record.PeriodEnd must be after Record.PeriodStart")
	}
	if err := r.Placement.validate(); err != nil {
		return fmt.Errorf("Record.%w", err)
	}
	return nil
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func utc(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
