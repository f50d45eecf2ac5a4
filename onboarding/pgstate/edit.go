package pgstate

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const (
	// The row is made first and locked then: of several that make the same
	// tenant at once, all but one wait here, and find it made.
	createSQL = `
insert into mcpsaas.tenant_lifecycle
	(tenant, state, desired, desired_version, observed_version, billing_seq, generation, fence, created_at)
values ($2, 'requested', '{}', 0, 0, 0, 0, 0, coalesce($1, clock_timestamp()))
on conflict (tenant) do nothing`

	lockSQL = loadSQL + ` for update`

	// The row is locked, so state and fence can't have changed since they were
	// read; the condition says so to the database as well.
	writeSQL = `
update mcpsaas.tenant_lifecycle set
	state = $5, desired = $6, desired_version = $7, observed_version = $8, billing_seq = $9, generation = $10,
	lease_owner = $11, lease_until = $12, next_at = $13, failure = $14, archive_name = nullif($15, ''),
	archive_digest = nullif($16, ''), activated_at = $17, closed_at = $18, archived_at = $19, buried_at = $20,
	updated_at = coalesce($1, clock_timestamp())
where tenant = $2 and state = $3 and fence = $4`

	auditSQL = `
insert into mcpsaas.audit_log (at, tenant, actor, action, reason, from_state, to_state)
values (coalesce($1, clock_timestamp()), $2, $3, $4, $5, $6, $7)`

	notifySQL = `select pg_notify('` + channel + `', '')`
)

// edit does what a change of a record consists of, within tx. fence is zero for
// whoever holds no lease.
func (s *Store) edit(ctx context.Context, tx pgx.Tx, id tenant.ID, create bool, fence int64, change onboarding.Change) (onboarding.Record, error) {
	clock := s.clock()
	if create {
		if _, err := tx.Exec(ctx, createSQL, clock, id); err != nil {
			return onboarding.Record{}, err
		}
	}
	old, err := one(ctx, tx, lockSQL, clock, id)
	if err != nil {
		return old, err
	}
	if fence != 0 && old.Fence != fence {
		return old, onboarding.ErrLeaseLost
	}
	r := old
	r.Spec.Holds = maps.Clone(old.Spec.Holds)
	entries, err := change(&r)
	if err != nil {
		return old, err
	}
	spec, err := json.Marshal(r.Spec)
	if err != nil {
		return old, fmt.Errorf("encode spec: %w", err)
	}
	var failure []byte
	if r.Failure != nil {
		if failure, err = json.Marshal(r.Failure); err != nil {
			return old, fmt.Errorf("encode failure: %w", err)
		}
	}
	var owner *string
	if r.LeaseOwner != "" {
		owner = &r.LeaseOwner
	}
	tag, err := tx.Exec(ctx, writeSQL, clock, id, old.State, old.Fence,
		r.State, spec, r.SpecVersion, r.ObservedVersion, r.BillingSeq, r.Generation,
		owner, timeOrNull(r.LeaseUntil), timeOrNull(r.NextAt), failure, r.ArchiveName, r.ArchiveDigest,
		timeOrNull(r.ActivatedAt), timeOrNull(r.ClosedAt), timeOrNull(r.ArchivedAt), timeOrNull(r.BuriedAt))
	if err != nil {
		return old, err
	}
	if tag.RowsAffected() != 1 {
		return old, onboarding.ErrLeaseLost
	}
	if old.SpecVersion == 0 || directoryDiffers(old, r) {
		entry := tenancy.Record{
			ID: id, Name: r.Spec.Name, Plan: r.Spec.Plan, Status: r.State,
			PeriodStart: r.Spec.PeriodStart, PeriodEnd: r.Spec.PeriodEnd,
		}
		if old.SpecVersion == 0 {
			entry.Placement = s.place(id, r.Spec.Plan)
		}
		if _, err := tenancy.PutTenant(ctx, tx, entry); err != nil {
			return old, err
		}
		if s.planChanged != nil && old.SpecVersion != 0 && old.Spec.Plan != r.Spec.Plan {
			if err := s.planChanged(ctx, tx, id); err != nil {
				return old, fmt.Errorf("follow the change of plan: %w", err)
			}
		}
	}
	for _, e := range entries {
		if _, err := tx.Exec(ctx, auditSQL, clock, id, e.Actor, e.Action, e.Reason, e.From, e.To); err != nil {
			return old, err
		}
	}
	if !r.NextAt.IsZero() && !r.NextAt.After(r.Now) || r.State != old.State {
		if _, err := tx.Exec(ctx, notifySQL); err != nil {
			return old, err
		}
	}
	return r, nil
}

// directoryDiffers reports whether what the replicas know of a tenant has
// changed.
func directoryDiffers(a, b onboarding.Record) bool {
	return a.State != b.State || a.Spec.Plan != b.Spec.Plan || a.Spec.Name != b.Spec.Name ||
		!a.Spec.PeriodStart.Equal(b.Spec.PeriodStart) || !a.Spec.PeriodEnd.Equal(b.Spec.PeriodEnd)
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
