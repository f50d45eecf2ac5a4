package pgledger

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// backlogSQL skips from tenant to tenant along the index of due events, so it
// reads one entry for each tenant, however many events there are.
const backlogSQL = `
with recursive t as (
	(select tenant_id from mcpsaas.usage_events where due order by tenant_id limit 1)
	union all
	select (select e.tenant_id from mcpsaas.usage_events e where e.due and e.tenant_id > t.tenant_id
		order by e.tenant_id limit 1)
	from t where t.tenant_id is not null
)
select t.tenant_id
from t left join lateral (
	select min(p.period_end) as period_end from mcpsaas.billing_periods p
	where p.tenant_id = t.tenant_id and p.live) as p on true
where t.tenant_id is not null
order by case when p.period_end < $1 then p.period_end end nulls last, t.tenant_id`

const nextCloseSQL = `select min(period_end) from mcpsaas.billing_periods where live and period_end > $1`

// Backlog implements [billing.Ledger].
func (l *Ledger) Backlog(ctx context.Context, now, soon time.Time) (b billing.Backlog, err error) {
	var batch pgx.Batch
	batch.Queue(backlogSQL, soon).Query(func(rows pgx.Rows) (err error) {
		b.Tenants, err = pgx.CollectRows(rows, pgx.RowTo[tenant.ID])
		return err
	})
	batch.Queue(nextCloseSQL, now).QueryRow(func(row pgx.Row) error { return row.Scan(timeOrZero{&b.NextClose}) })
	if err := l.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return billing.Backlog{}, fmt.Errorf("pgledger: list usage to seal: %w", pgredact.Error(err))
	}
	return b, nil
}

// maxEvents bounds how many events one transaction seals.
const maxEvents = 100_000

// Seal implements [billing.Ledger].
func (l *Ledger) Seal(ctx context.Context, id tenant.ID, now time.Time, caps func(billing.Target) billing.Caps) (sealed int, err error) {
	from := time.Time{} // usage before it was sealed, or has to wait
	for {
		var n int
		err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) (err error) {
			if err := lockTenant(ctx, tx, id); err != nil {
				return err
			}
			s := sealer{tx: tx, tenant: id, now: now, caps: caps, late: l.late}
			n, from, err = s.next(ctx, from)
			return err
		})
		if errors.Is(err, errNoSlot) {
			n, err = 0, nil // rolled back: the events wait for a later call
		}
		if err != nil {
			return sealed, fmt.Errorf("pgledger: seal usage of tenant %s: %w", id, pgredact.Error(err))
		}
		sealed += n
		if from.IsZero() {
			return sealed, nil
		}
	}
}

// sealer makes the batches of one stretch of one tenant's time, in one
// transaction that holds the tenant's lock.
type sealer struct {
	tx     pgx.Tx
	tenant tenant.ID
	now    time.Time
	caps   func(billing.Target) billing.Caps
	late   map[tenant.Plan]billing.LatePolicy
}

const (
	firstDueSQL = `
select bill_at from mcpsaas.usage_events
where tenant_id = $1 and due and bill_at >= $2
order by bill_at limit 1`

	periodsSQL = `
select ` + targetColumns + `, p.target_id, p.period_start, p.period_end, p.since, p.until, p.live, s.plan
from mcpsaas.billing_periods p
join mcpsaas.billing_targets t on t.id = p.target_id
join mcpsaas.billing_subscriptions s on s.id = p.subscription_id
where p.tenant_id = $1 and p.until > $2 and p.until > p.since
order by p.since, p.id`
)

// period is one row of billing_periods with its target.
type period struct {
	targetID     int64
	start, end   time.Time
	since, until time.Time
	live         bool
	target       billing.Target
	plan         tenant.Plan
}

// next seals the first due usage at or after from. Between two neighbouring
// bounds of periods all usage goes to the same targets; it seals from such a
// stretch as many events as fit one batch. It returns how many batches it made
// and where to go on, zero when there is no more; with errNoSlot the latter
// counts too.
func (s sealer) next(ctx context.Context, from time.Time) (sealed int, goOn time.Time, err error) {
	var first time.Time
	switch err := s.tx.QueryRow(ctx, firstDueSQL, s.tenant, from).Scan(&first); {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, time.Time{}, nil
	case err != nil:
		return 0, time.Time{}, err
	}
	rows, err := s.tx.Query(ctx, periodsSQL, s.tenant, first)
	if err != nil {
		return 0, time.Time{}, err
	}
	periods, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p period, err error) {
		err = row.Scan(fieldsOf(&p.target, &p.targetID, &p.start, &p.end, &p.since, &p.until, &p.live, &p.plan)...)
		return p, err
	})
	if err != nil {
		return 0, time.Time{}, err
	}
	covering, bound := stretch(periods, first)
	if len(covering) == 0 {
		// Not known yet to which period it belongs: the last one has ended and
		// the provider has not told of the next.
		return 0, bound, nil
	}
	switch s.lateness(periods, covering, first) {
	case moves:
		return 0, first, s.move(ctx, covering[0], first, bound)
	case waiting:
		return 0, bound, nil
	case writtenOff:
		full, err := s.seal(ctx, covering, first, bound, billing.StateWrittenOff)
		if full {
			bound = first
		}
		return 0, bound, err
	}
	full, err := s.seal(ctx, covering, first, bound, billing.StateSealed)
	if full {
		bound = first
	}
	return len(covering), bound, err
}

// stretch returns the periods that cover at, one for each target, and the next
// time after at where that changes; zero: never.
func stretch(periods []period, at time.Time) (covering []period, bound time.Time) {
	for _, p := range periods {
		for _, b := range []time.Time{p.since, p.until} {
			if b.After(at) && (bound.IsZero() || b.Before(bound)) {
				bound = b
			}
		}
		if at.Before(p.since) || !at.Before(p.until) {
			continue
		}
		// Should two periods of a target overlap, the later one has it: usage is
		// billed once.
		covering = slices.DeleteFunc(covering, func(c period) bool { return c.targetID == p.targetID })
		covering = append(covering, p)
	}
	return covering, bound
}

// attachSQL takes the oldest events up to a number and a sum, but at least one,
// and returns what it really took, and how much of it occurred between which of
// the bounds $7.
const attachSQL = `
with first as (
	select event_id, bill_at, units from mcpsaas.usage_events
	where tenant_id = $2 and due and bill_at >= $3 and bill_at < $4
	order by bill_at, event_id limit $5
), fitting as (
	select event_id from (
		select event_id, sum(units) over w as total, row_number() over w as n
		from first window w as (order by bill_at, event_id)) as f
	where total <= $6 or n = 1
), attached as (
	update mcpsaas.usage_events e set batch_id = $1, due = false
	from fitting f where e.event_id = f.event_id and e.batch_id is null
	returning e.event_id, e.units, e.bill_at, e.occurred_at
)
select count(*), coalesce(sum(units), 0)::bigint, min(bill_at), max(bill_at),
	min(event_id::text collate "C"), max(event_id::text collate "C"),
	(select count(*) from first) = $5 or (select count(*) from fitting) < (select count(*) from first),
	(select array_agg(array[place, units] order by place) from (
		select width_bucket(occurred_at, $7)::bigint as place, sum(units)::bigint as units from attached group by 1) as p)
from attached`

const insertBatchSQL = `
insert into mcpsaas.usage_batches (id, events_in, tenant_id, target_id, period_start, period_end,
	quantity, events, first_event, last_event, slot, sealed_at, next_at, first_id, last_id, state, reason, granted, confirmed_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12, $13, $14, $15, $16, $17,
	case when $15 = 'confirmed' then $12::timestamptz end)`

// coveredByGrants is the reason of a batch that leaves nothing to be reported.
const coveredByGrants = "grants cover all of it"

// seal makes a batch for each of the periods out of the due events in [from,
// to): sealed, or written off. Of what is sealed grants pay their part first;
// where nothing remains the batch is settled with that. full is set when more are left there than fit.
func (s sealer) seal(ctx context.Context, periods []period, from, to time.Time, state billing.State) (full bool, err error) {
	limit := int64(math.MaxInt64)
	for _, p := range periods {
		if most := s.caps(p.target).MaxQuantity; most > 0 {
			limit = min(limit, most)
		}
	}
	ids := make([]tenant.ID, len(periods)) // any new UUIDv7 will do
	for i := range ids {
		ids[i] = tenant.NewID()
	}
	grants, bounds, err := s.left(ctx)
	if err != nil {
		return false, err
	}
	var quantity, covered int64
	var usage [][]int64
	var events int
	var earliest, latest time.Time
	var firstID, lastID string
	err = s.tx.QueryRow(ctx, attachSQL, ids[0], s.tenant, from, to, maxEvents, limit, bounds).
		Scan(&events, &quantity, &earliest, &latest, &firstID, &lastID, &full, &usage)
	if err != nil {
		return false, err
	}
	actor, reason := worker, ""
	if state == billing.StateWrittenOff {
		actor, reason = policy, lateWrittenOff
	} else {
		var burns []burn
		burns, covered = cover(grants, bounds, usage)
		if err := s.burn(ctx, burns, ids[0]); err != nil {
			return false, err
		}
		if quantity -= covered; quantity == 0 {
			state, reason = billing.StateConfirmed, coveredByGrants
		}
	}
	for i, p := range periods {
		slot, err := s.slot(ctx, p, latest)
		if err != nil {
			return false, err
		}
		_, err = s.tx.Exec(ctx, insertBatchSQL, ids[i], ids[0], s.tenant, p.targetID, p.start, p.end,
			quantity, events, earliest, latest, slot, s.now, firstID, lastID, state, reason, covered)
		if err != nil {
			return false, err
		}
		if err := logBatch(ctx, s.tx, ids[i].String(), s.now, 0, state, actor, "", reason); err != nil {
			return false, err
		}
	}
	return full, nil
}
