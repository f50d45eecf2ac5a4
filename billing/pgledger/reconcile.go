package pgledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// compareFor is how long after its end a billing period is compared with the
// provider's totals: until its invoice is final, and some days for a person to
// see that all is well again.
const compareFor = 3 * 24 * time.Hour

const (
	beginReconcileSQL = `
insert into mcpsaas.billing_signals as s (name, at) values ('reconciling', $1)
on conflict (name) do update set at = excluded.at where s.at <= $2`

	spansToCompareSQL = `
select distinct ` + targetColumns + `, t.id, p.period_start, p.period_end
from mcpsaas.billing_periods p join mcpsaas.billing_targets t on t.id = p.target_id
where p.period_end > $1 and p.since <= $2 and p.until > p.since
order by t.id, p.period_start`

	sumSQL = `
select coalesce(sum(quantity) filter (where state = 'confirmed'), 0)::bigint,
	coalesce(sum(quantity) filter (where state = 'confirmed' and confirmed_at > $2), 0)::bigint,
	coalesce(sum(quantity) filter (where state not in ('confirmed', 'voided') or state = 'voided' and last_sent_at > $2), 0)::bigint
from mcpsaas.usage_batches
where target_id = $1 and first_sent_at is not null and `
	slotSumSQL   = sumSQL + `slot >= $3 and slot < $4`
	periodSumSQL = sumSQL + `period_start = $3`
)

// BeginReconcile implements [billing.Ledger].
func (l *Ledger) BeginReconcile(ctx context.Context, now, since time.Time) (bool, error) {
	tag, err := l.pool.Exec(ctx, beginReconcileSQL, now, since)
	if err != nil {
		return false, fmt.Errorf("pgledger: begin to reconcile: %w", pgredact.Error(err))
	}
	return tag.RowsAffected() == 1, nil
}

// EndReconcile implements [billing.Ledger].
func (l *Ledger) EndReconcile(ctx context.Context, now time.Time) error {
	if _, err := l.pool.Exec(ctx, signalSQL, signalReconciled, now); err != nil {
		return fmt.Errorf("pgledger: end to reconcile: %w", pgredact.Error(err))
	}
	return nil
}

// Spans implements [billing.Ledger].
func (l *Ledger) Spans(ctx context.Context, now time.Time, caps func(billing.Target) billing.Caps) ([]billing.Span, error) {
	rows, err := l.pool.Query(ctx, spansToCompareSQL, now.Add(-compareFor), now)
	if err != nil {
		return nil, fmt.Errorf("pgledger: list spans: %w", pgredact.Error(err))
	}
	var spans []billing.Span
	var s billing.Span
	_, err = pgx.ForEachRow(rows, fieldsOf(&s.Target, &s.TargetID, &s.From, &s.To), func() error {
		s.From, s.To = s.From.UTC(), s.To.UTC()
		if s.Period = caps(s.Target).VerifyWindow == 0; s.Period {
			spans = append(spans, s)
			return nil
		}
		s.From, s.To = s.From.Truncate(time.Hour), ceil(s.To, time.Hour)
		if n := len(spans) - 1; n >= 0 && spans[n].TargetID == s.TargetID && !s.From.After(spans[n].To) {
			spans[n].To = later(spans[n].To, s.To)
			return nil
		}
		spans = append(spans, s)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("pgledger: list spans: %w", pgredact.Error(err))
	}
	return spans, nil
}

// Sum implements [billing.Ledger].
func (l *Ledger) Sum(ctx context.Context, s billing.Span, fresh time.Time) (sum billing.Sum, err error) {
	sql, args := slotSumSQL, []any{s.TargetID, fresh, s.From, s.To}
	if s.Period {
		sql, args = periodSumSQL, args[:3]
	}
	if err := l.pool.QueryRow(ctx, sql, args...).Scan(&sum.Confirmed, &sum.Fresh, &sum.Doubt); err != nil {
		return sum, fmt.Errorf("pgledger: sum batches: %w", pgredact.Error(err))
	}
	return sum, nil
}

const (
	goneSQL = `
update mcpsaas.billing_drift set settled_at = $4, reason = 'gone'
where target_id = $1 and window_from >= $2 and window_to <= $3 and settled_at is null
	and not (window_from, window_to) in (select * from unnest($5::timestamptz[], $6::timestamptz[]))`

	// driftSQL leaves alone what a person has accepted, unless it has changed.
	driftSQL = `
insert into mcpsaas.billing_drift as d (tenant_id, target_id, window_from, window_to, confirmed, provider, drift, found_at, checked_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $8)
on conflict (target_id, window_from, window_to) do update set
	confirmed = excluded.confirmed, provider = excluded.provider, drift = excluded.drift, checked_at = excluded.checked_at,
	found_at = case when d.settled_at is null then d.found_at else excluded.found_at end,
	settled_at = case when d.settled_by <> '' and d.drift = excluded.drift then d.settled_at end,
	settled_by = case when d.drift = excluded.drift then d.settled_by else '' end,
	reason = case when d.settled_by <> '' and d.drift = excluded.drift then d.reason else '' end`

	driftsSQL = `
select ` + targetColumns + `, d.id,
	d.window_from, d.window_to, d.confirmed, d.provider, d.drift, d.found_at, d.checked_at
from mcpsaas.billing_drift d join mcpsaas.billing_targets t on t.id = d.target_id
where d.settled_at is null and ($1::uuid is null or d.tenant_id = $1)
order by d.window_from, d.id`

	acceptDriftSQL = `
update mcpsaas.billing_drift set settled_at = $2, settled_by = $3, reason = $4 where id = $1 and settled_at is null`

	driftExistsSQL = `select exists (select from mcpsaas.billing_drift where id = $1)`
)

// SaveDrifts implements [billing.Ledger].
func (l *Ledger) SaveDrifts(ctx context.Context, s billing.Span, now time.Time, found []billing.Drift) error {
	var batch pgx.Batch
	from, to := make([]time.Time, len(found)), make([]time.Time, len(found))
	for i, d := range found {
		from[i], to[i] = d.From, d.To
	}
	batch.Queue(goneSQL, s.TargetID, s.From, s.To, now, from, to)
	for _, d := range found {
		batch.Queue(driftSQL, s.Target.Tenant, s.TargetID, d.From, d.To, d.Confirmed, d.Provider, d.Units, now)
	}
	if err := l.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("pgledger: save drifts: %w", pgredact.Error(err))
	}
	return nil
}

// Drifts returns the windows in which the provider has counted something else
// than what was confirmed, and that nobody has accepted; only those of one
// tenant unless id is zero.
func (l *Ledger) Drifts(ctx context.Context, id tenant.ID) ([]billing.Drift, error) {
	rows, err := l.pool.Query(ctx, driftsSQL, id)
	if err != nil {
		return nil, fmt.Errorf("pgledger: list drifts: %w", pgredact.Error(err))
	}
	drifts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d billing.Drift, err error) {
		err = row.Scan(fieldsOf(&d.Target, &d.ID, timeOrZero{&d.From}, timeOrZero{&d.To}, &d.Confirmed, &d.Provider, &d.Units,
			timeOrZero{&d.Found}, timeOrZero{&d.Checked})...)
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("pgledger: list drifts: %w", pgredact.Error(err))
	}
	return drifts, nil
}

// AcceptDrift takes a drift off the list, as long as it stays what it is; actor
// is the person who decided so. Asking twice is asking once. It returns
// [ErrNotFound] for an unknown id.
func (l *Ledger) AcceptDrift(ctx context.Context, drift int64, actor, reason string) error {
	if actor == "" {
		return errors.New("pgledger: accept drift: actor is empty")
	}
	tag, err := l.pool.Exec(ctx, acceptDriftSQL, drift, l.now(), clean(actor), clean(reason))
	if err != nil {
		return fmt.Errorf("pgledger: accept drift: %w", pgredact.Error(err))
	}
	if tag.RowsAffected() > 0 {
		return nil
	}
	var exists bool
	if err := l.pool.QueryRow(ctx, driftExistsSQL, drift).Scan(&exists); err != nil {
		return fmt.Errorf("pgledger: accept drift: %w", pgredact.Error(err))
	}
	if !exists {
		return ErrNotFound
	}
	return nil
}
