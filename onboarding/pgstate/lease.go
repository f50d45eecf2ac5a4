package pgstate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// channel is what the provisioners of all replicas listen to. The message says
// nothing: whoever hears it asks for what is due.
const channel = "mcpsaas_lifecycle"

const (
	claimSQL = `
update mcpsaas.tenant_lifecycle set
	lease_owner = $2, lease_until = clock_timestamp() + $3::interval, fence = fence + 1
where tenant = (
	select tenant from mcpsaas.tenant_lifecycle
	where next_at <= coalesce($1, clock_timestamp())
		and (lease_until is null or lease_until <= clock_timestamp())
	order by next_at
	limit 1
	for update skip locked)
returning ` + columns

	renewSQL = `
update mcpsaas.tenant_lifecycle set lease_until = clock_timestamp() + $3::interval
where tenant = $1 and fence = $2 and lease_owner is not null`
)

// Claim implements [onboarding.State]. Leases run by the database's clock,
// whatever Options.Now says.
func (s *Store) Claim(ctx context.Context, owner string, ttl time.Duration) (onboarding.Record, error) {
	r, err := one(ctx, s.pool, claimSQL, s.clock(), owner, ttl)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, onboarding.ErrNoneDue
	}
	if err != nil {
		return r, fmt.Errorf("pgstate: claim: %w", pgredact.Error(err))
	}
	return r, nil
}

// Renew implements [onboarding.State].
func (s *Store) Renew(ctx context.Context, held onboarding.Record, ttl time.Duration) error {
	tag, err := s.pool.Exec(ctx, renewSQL, held.Tenant, held.Fence, ttl)
	if err != nil {
		return fmt.Errorf("pgstate: renew lease of tenant %s: %w", held.Tenant, pgredact.Error(err))
	}
	if tag.RowsAffected() == 0 {
		return onboarding.ErrLeaseLost
	}
	return nil
}

const (
	stepsSQL = `
select op, name, state, attempt, next_at, failure, output, started_at, ended_at
from mcpsaas.tenant_steps where tenant = $1 and ($2 = '' or op = $2) order by ordinal`

	// The share lock keeps a new owner from taking over between the check of
	// the fence and the write.
	putStepSQL = `
with held as (
	select tenant from mcpsaas.tenant_lifecycle
	where tenant = $1 and state = $2 and fence = $3
	for share)
insert into mcpsaas.tenant_steps (tenant, op, name, state, attempt, next_at, failure, output, started_at, ended_at)
select tenant, $4, $5, $6, $7, $8, $9, $10, $11, $12 from held
on conflict (tenant, op, name) do update set
	state = excluded.state, attempt = excluded.attempt, next_at = excluded.next_at, failure = excluded.failure,
	output = excluded.output, started_at = excluded.started_at, ended_at = excluded.ended_at`
)

// Steps implements [onboarding.State]; with an empty op it returns those of all
// operations.
func (s *Store) Steps(ctx context.Context, id tenant.ID, op string) ([]onboarding.StepRecord, error) {
	rows, err := s.pool.Query(ctx, stepsSQL, id, op)
	if err != nil {
		return nil, fmt.Errorf("pgstate: read steps of tenant %s: %w", id, pgredact.Error(err))
	}
	steps, err := pgx.CollectRows(rows, scanStep)
	if err != nil {
		return nil, fmt.Errorf("pgstate: read steps of tenant %s: %w", id, pgredact.Error(err))
	}
	return steps, nil
}

func scanStep(row pgx.CollectableRow) (onboarding.StepRecord, error) {
	var r onboarding.StepRecord
	var failure, output []byte
	var next, started, ended *time.Time
	if err := row.Scan(&r.Op, &r.Name, &r.State, &r.Attempt, &next, &failure, &output, &started, &ended); err != nil {
		return r, err
	}
	if next != nil {
		r.NextAt = next.UTC()
	}
	if started != nil {
		r.StartedAt = started.UTC()
	}
	if ended != nil {
		r.EndedAt = ended.UTC()
	}
	r.Output = output
	if failure != nil {
		return r, json.Unmarshal(failure, &r.Failure)
	}
	return r, nil
}

// PutStep implements [onboarding.State].
func (s *Store) PutStep(ctx context.Context, held onboarding.Record, step onboarding.StepRecord) error {
	var failure []byte
	if step.Failure != nil {
		var err error
		if failure, err = json.Marshal(step.Failure); err != nil {
			return fmt.Errorf("pgstate: encode failure: %w", err)
		}
	}
	tag, err := s.pool.Exec(ctx, putStepSQL, held.Tenant, held.State, held.Fence,
		step.Op, step.Name, step.State, step.Attempt, timeOrNull(step.NextAt), failure, []byte(step.Output),
		timeOrNull(step.StartedAt), timeOrNull(step.EndedAt))
	if err != nil {
		return fmt.Errorf("pgstate: write step %s of tenant %s: %w", step.Name, held.Tenant, pgredact.Error(err))
	}
	if tag.RowsAffected() == 0 {
		return onboarding.ErrLeaseLost
	}
	return nil
}

// Watch implements [onboarding.State]. It keeps a connection of the pool, and
// needs one that isn't behind a transaction pooler; without it the provisioner
// polls.
func (s *Store) Watch(ctx context.Context, wake func()) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("pgstate: watch: %w", pgredact.Error(err))
	}
	defer func() {
		// It still listens: nobody else may have it.
		conn.Hijack().Close(context.WithoutCancel(ctx))
	}()
	if _, err := conn.Exec(ctx, `listen `+channel); err != nil {
		return fmt.Errorf("pgstate: watch: %w", pgredact.Error(err))
	}
	wake() // for what was said before we listened
	for {
		if _, err := conn.Conn().WaitForNotification(ctx); err != nil {
			return fmt.Errorf("pgstate: watch: %w", pgredact.Error(err))
		}
		wake()
	}
}
