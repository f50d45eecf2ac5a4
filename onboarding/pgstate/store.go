package pgstate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Options configure a [Store].
type Options struct {
	// Place says where the rows of a new tenant are to live; see
	// [tenancy.DefaultTier]. It is asked when the tenant is asked for, and
	// never again: a change of plan moves nobody. It runs in a transaction, and
	// so does nothing but decide.
	// Defaults to the shared tables.
	Place func(id tenant.ID, plan tenant.Plan) tenancy.Placement

	// PlanChanged is called in the transaction that gives a tenant another plan,
	// after it has written and locked the tenant's row, so that what follows from
	// the plan, such as limits of its own ([tenancy.SetLimits]), is seen with it
	// and never without. An error keeps the plan as it was.
	// Defaults to nothing.
	PlanChanged func(ctx context.Context, tx pgx.Tx, id tenant.ID) error

	// Now is the clock that decides what is due.
	// Defaults to the database's.
	Now func() time.Time
}

// Store is an [onboarding.State] in PostgreSQL. It is safe for concurrent use.
type Store struct {
	pool  *pgxpool.Pool
	place func(tenant.ID, tenant.Plan) tenancy.Placement
	now   func() time.Time

	planChanged func(context.Context, pgx.Tx, tenant.ID) error
}

var _ onboarding.State = (*Store)(nil)

// New returns a store on the tables that [Migrate] makes. The pool's role needs
// the rights of mcpsaas_control. [Store.Watch] keeps one of its connections.
func New(pool *pgxpool.Pool, opts *Options) (*Store, error) {
	if pool == nil {
		return nil, errors.New("pgstate: pool is required")
	}
	s := &Store{pool: pool}
	if opts != nil {
		s.place, s.now, s.planChanged = opts.Place, opts.Now, opts.PlanChanged
	}
	if s.place == nil {
		s.place = func(tenant.ID, tenant.Plan) tenancy.Placement { return tenancy.Placement{} }
	}
	return s, nil
}

// clock is the first parameter of every statement that asks for the time: null
// for the database's own.
func (s *Store) clock() *time.Time {
	if s.now == nil {
		return nil
	}
	now := s.now().UTC()
	return &now
}

const columns = `tenant, state, desired, desired_version, observed_version, billing_seq, generation,
	fence, coalesce(lease_owner, ''), lease_until, next_at, failure, coalesce(archive_name, ''), coalesce(archive_digest, ''),
	created_at, updated_at, activated_at, closed_at, archived_at, buried_at, coalesce($1, clock_timestamp())`

func scan(row pgx.CollectableRow) (onboarding.Record, error) {
	var r onboarding.Record
	var spec []byte
	var failure []byte
	var until, next, activated, closed, archived, buried *time.Time
	err := row.Scan(&r.Tenant, &r.State, &spec, &r.SpecVersion, &r.ObservedVersion, &r.BillingSeq, &r.Generation,
		&r.Fence, &r.LeaseOwner, &until, &next, &failure, &r.ArchiveName, &r.ArchiveDigest,
		&r.CreatedAt, &r.UpdatedAt, &activated, &closed, &archived, &buried, &r.Now)
	if err != nil {
		return r, err
	}
	for _, t := range []struct {
		to   *time.Time
		from *time.Time
	}{
		{&r.LeaseUntil, until}, {&r.NextAt, next}, {&r.ActivatedAt, activated},
		{&r.ClosedAt, closed}, {&r.ArchivedAt, archived}, {&r.BuriedAt, buried},
	} {
		if t.from != nil {
			*t.to = t.from.UTC()
		}
	}
	r.CreatedAt, r.UpdatedAt, r.Now = r.CreatedAt.UTC(), r.UpdatedAt.UTC(), r.Now.UTC()
	if failure != nil {
		if err := json.Unmarshal(failure, &r.Failure); err != nil {
			return r, err
		}
	}
	return r, json.Unmarshal(spec, &r.Spec)
}

// one runs a statement that returns at most one record.
func one(ctx context.Context, q querier, sql string, args ...any) (onboarding.Record, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return onboarding.Record{}, err
	}
	return pgx.CollectExactlyOneRow(rows, scan)
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

const loadSQL = `select ` + columns + ` from mcpsaas.tenant_lifecycle where tenant = $2`

// Load implements [onboarding.State].
func (s *Store) Load(ctx context.Context, id tenant.ID) (onboarding.Record, error) {
	r, err := one(ctx, s.pool, loadSQL, s.clock(), id)
	return r, failed("load", id, err)
}

// Update implements [onboarding.State].
func (s *Store) Update(ctx context.Context, id tenant.ID, create bool, change onboarding.Change) (onboarding.Record, error) {
	var r onboarding.Record
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var err error
		r, err = s.edit(ctx, tx, id, create, 0, change)
		return err
	})
	return r, failed("update", id, err)
}

// Advance implements [onboarding.State].
func (s *Store) Advance(ctx context.Context, held onboarding.Record, change onboarding.Change) (onboarding.Record, error) {
	var r onboarding.Record
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var err error
		r, err = s.edit(ctx, tx, held.Tenant, false, held.Fence, change)
		return err
	})
	return r, failed("advance", held.Tenant, err)
}

// failed adds what was done to an error of the database; the errors that
// callers branch on are handed on as they are.
func failed(verb string, id tenant.ID, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrNoRows):
		return onboarding.ErrUnknownTenant
	case errors.Is(err, onboarding.ErrForbidden), errors.Is(err, onboarding.ErrInvalid),
		errors.Is(err, onboarding.ErrLeaseLost), errors.Is(err, onboarding.ErrUnknownTenant):
		return err
	}
	return fmt.Errorf("pgstate: %s tenant %s: %w", verb, id, pgredact.Error(err))
}
