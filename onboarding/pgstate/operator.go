package pgstate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Filter chooses tenants. The zero Filter is the first page of all of them.
type Filter struct {
	States []tenant.Status // empty: all
	After  tenant.ID       // the last one of the page before

	// Limit is how many are returned at most, up to 1,000.
	// Defaults to 100.
	Limit int
}

const listSQL = `
select ` + columns + ` from mcpsaas.tenant_lifecycle
where (cardinality($2::text[]) = 0 or state = any($2)) and ($3::uuid is null or tenant > $3)
order by tenant limit $4`

// List returns the tenants that f chooses, by id. Ids that [tenant.NewID] made
// sort by their time.
func (s *Store) List(ctx context.Context, f Filter) ([]onboarding.Record, error) {
	states := make([]string, 0, len(f.States))
	for _, st := range f.States {
		states = append(states, string(st))
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	rows, err := s.pool.Query(ctx, listSQL, s.clock(), states, f.After, min(limit, 1000))
	if err != nil {
		return nil, fmt.Errorf("pgstate: list tenants: %w", pgredact.Error(err))
	}
	list, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("pgstate: list tenants: %w", pgredact.Error(err))
	}
	return list, nil
}

// patience is how long work may wait before something is wrong.
const patience = time.Minute

const stuckSQL = `
select
	count(*) filter (where next_at < coalesce($1, clock_timestamp()) - $2::interval
		and (lease_until is null or lease_until < clock_timestamp() - $2::interval)),
	count(*) filter (where state in ('failed', 'update_failed', 'deprovision_failed'))
from mcpsaas.tenant_lifecycle
where next_at is not null or state in ('failed', 'update_failed', 'deprovision_failed')`

// Check fails when a tenant has had work waiting for a minute and nobody has
// taken it, because no provisioner is running, or not enough of them; and while
// an operation on a tenant has failed, so that somebody who has paid is not
// served. It is what package health runs.
func (s *Store) Check(ctx context.Context) error {
	var waiting, failed int
	if err := s.pool.QueryRow(ctx, stuckSQL, s.clock(), patience).Scan(&waiting, &failed); err != nil {
		return fmt.Errorf("pgstate: check: %w", pgredact.Error(err))
	}
	var errs []error
	if waiting > 0 {
		errs = append(errs, fmt.Errorf("pgstate: %d tenants have waited for the provisioner for more than %v", waiting, patience))
	}
	if failed > 0 {
		errs = append(errs, fmt.Errorf("pgstate: the operations of %d tenants have failed", failed))
	}
	return errors.Join(errs...)
}

const auditOfSQL = `
select tenant, at, actor, action, reason, from_state, to_state
from mcpsaas.audit_log where tenant = $1 order by id desc limit $2`

// Audit returns what the audit log says of a tenant, the latest first.
func (s *Store) Audit(ctx context.Context, id tenant.ID, limit int) ([]onboarding.Entry, error) {
	rows, err := s.pool.Query(ctx, auditOfSQL, id, limit)
	if err != nil {
		return nil, fmt.Errorf("pgstate: read audit log of tenant %s: %w", id, pgredact.Error(err))
	}
	entries, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (onboarding.Entry, error) {
		var e onboarding.Entry
		err := row.Scan(&e.Tenant, &e.At, &e.Actor, &e.Action, &e.Reason, &e.From, &e.To)
		e.At = e.At.UTC()
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("pgstate: read audit log of tenant %s: %w", id, pgredact.Error(err))
	}
	return entries, nil
}
