package pgledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Question is what [Ledger.Explain] is asked about: a batch, an event, or the
// billing period of a tenant.
type Question struct {
	Batch string // one batch, by its id
	Event string // the batches that have one event

	Tenant tenant.ID // else all targets of the tenant
	Item   string    // of these only the subscription item's
	At     time.Time // in the billing period that this lies in; zero: now

	// Events has the ids of the events in the answer; about a batch they are
	// there anyway.
	Events bool
}

// Explanation is what became of one target's usage of a billing period, which
// is what a line of an invoice is about: down to the batches and, where asked
// for, their events.
type Explanation struct {
	Target      billing.Target `json:"target"`
	PeriodStart time.Time      `json:"period_start"`
	PeriodEnd   time.Time      `json:"period_end"`

	Units   Units            `json:"units"`
	Agrees  bool             `json:"agrees"` // Units add up, and each batch is the sum of its events
	Batches []ExplainedBatch `json:"batches"`
}

// Units is where units went. Each of Produced is in exactly one of the others.
type Units struct {
	Produced   int64 `json:"produced"`
	Billed     int64 `json:"billed"`
	Open       int64 `json:"open"`     // in no batch yet, or in one on its way
	Unsealed   int64 `json:"unsealed"` // of that, in no batch yet
	Parked     int64 `json:"parked"`   // or being voided
	Rejected   int64 `json:"rejected"`
	WrittenOff int64 `json:"written_off"`
	Voided     int64 `json:"voided"`
	Moved      int64 `json:"moved"` // to batches of later periods, or to invoice items
}

// ExplainedBatch is a batch, and what it was made of.
type ExplainedBatch struct {
	ID        string        `json:"id"`
	State     billing.State `json:"state"`
	Quantity  int64         `json:"quantity"`
	Slot      time.Time     `json:"slot"` // its time at the provider
	Sealed    time.Time     `json:"sealed"`
	FirstSent time.Time     `json:"first_sent,omitzero"`
	Confirmed time.Time     `json:"confirmed,omitzero"`
	Attempts  int           `json:"attempts"`
	RequestID string        `json:"request_id,omitempty"`
	Reason    string        `json:"reason,omitempty"`
	MovedFrom string        `json:"moved_from,omitempty"`
	MovedTo   string        `json:"moved_to,omitempty"`

	Events     int      `json:"events"`      // that it was made of
	EventsKept int      `json:"events_kept"` // of these, not older than the ledger's Retention
	EventUnits int64    `json:"event_units"` // theirs
	EventIDs   []string `json:"event_ids,omitempty"`
	Log        []Entry  `json:"log,omitempty"` // about a batch or an event
}

// Entry is a step in the life of a batch.
type Entry struct {
	At        time.Time     `json:"at"`
	State     billing.State `json:"state"`
	Attempt   int           `json:"attempt"`
	Actor     string        `json:"actor"`
	RequestID string        `json:"request_id,omitempty"`
	Reason    string        `json:"reason,omitempty"`
}

const (
	explainPeriodsSQL = `
select distinct on (t.id, p.period_start) ` + targetColumns + `, t.id, p.period_start, p.period_end
from (select target_id, period_start, period_end from mcpsaas.billing_periods where tenant_id = $1
	union all
	select target_id, period_start, period_end from mcpsaas.usage_batches b where tenant_id = $1 and moved_from is not null and exists (
		select from mcpsaas.billing_targets t where t.id = b.target_id and t.mode = 'invoice_item')) as p
join mcpsaas.billing_targets t on t.id = p.target_id
where p.period_start <= $2 and p.period_end > $2 and ($3 = '' or t.item = $3)
order by t.id, p.period_start, p.period_end desc`

	explainBatchPeriodsSQL = `
select ` + targetColumns + `, t.id, b.period_start, b.period_end
from mcpsaas.usage_batches b join mcpsaas.billing_targets t on t.id = b.target_id
where b.id = any ($1)
order by t.id, b.period_start`

	batchesOfEventSQL = `
select coalesce(array_agg(b.id::text) filter (where b.id is not null), '{}') from mcpsaas.usage_events e
left join mcpsaas.usage_batches b on b.events_in = e.batch_id
where e.event_id = $1 having count(*) > 0`

	explainBatchesSQL = `
select b.id::text, b.state, b.quantity, b.slot, b.sealed_at, b.first_sent_at, b.confirmed_at, b.attempt, b.request_id, b.reason,
	coalesce(b.moved_from::text, ''), coalesce((select s.id::text from mcpsaas.usage_batches s where s.moved_from = b.id), ''),
	b.events, e.kept, e.units, e.ids
from mcpsaas.usage_batches b cross join lateral (
	select count(*) as kept, coalesce(sum(e.units), 0)::bigint as units,
		case when $3 then array_agg(e.event_id::text order by e.event_id) end as ids
	from mcpsaas.usage_events e
	where e.batch_id = b.events_in
		and e.event_id >= coalesce(b.first_id, '00000000-0000-0000-0000-000000000000')
		and e.event_id <= coalesce(b.last_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff')) as e
where b.target_id = $1 and b.period_start = $2 and ($4::uuid[] is null or b.id = any ($4))
order by b.slot, b.id`

	unsealedSQL = `
select coalesce(sum(e.units), 0)::bigint from mcpsaas.usage_events e
where e.tenant_id = $1 and e.due and exists (
	select from mcpsaas.billing_periods p
	where p.target_id = $2 and p.period_start = $3 and e.bill_at >= p.since and e.bill_at < p.until)`

	batchLogSQL = `
select at, state, attempt, actor, request_id, reason from mcpsaas.usage_batch_log where batch_id = $1 order by id`
)

// Explain says what became of usage: what was billed, in which batches, made of
// which events, and what was not, and why. About a batch or an event it tells of
// those batches alone, with their history. It sees one moment, and returns
// [ErrNotFound] for a batch or an event that it doesn't have.
func (l *Ledger) Explain(ctx context.Context, q Question) (all []Explanation, err error) {
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, l.pool, opts, func(tx pgx.Tx) error {
		all, err = l.explain(ctx, tx, q)
		return err
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("pgledger: explain: %w", pgredact.Error(err))
	}
	return all, err
}

func (l *Ledger) explain(ctx context.Context, tx pgx.Tx, q Question) ([]Explanation, error) {
	var only []string // batches; nil: all of the period
	var rows pgx.Rows
	var err error
	var id pgtype.UUID
	switch {
	case q.Batch != "" && id.Scan(q.Batch) != nil, q.Event != "" && id.Scan(q.Event) != nil:
		return nil, ErrNotFound
	case q.Batch != "":
		only = []string{q.Batch}
	case q.Event != "":
		err := tx.QueryRow(ctx, batchesOfEventSQL, q.Event).Scan(&only)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, ErrNotFound
		}
		if err != nil {
			return nil, err
		}
	}
	if only != nil {
		rows, err = tx.Query(ctx, explainBatchPeriodsSQL, only)
	} else {
		at := q.At
		if at.IsZero() {
			at = l.now()
		}
		rows, err = tx.Query(ctx, explainPeriodsSQL, q.Tenant, at, q.Item)
	}
	if err != nil {
		return nil, err
	}
	type place struct {
		target int64
		e      Explanation
	}
	places, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p place, err error) {
		err = row.Scan(fieldsOf(&p.e.Target, &p.target, timeOrZero{&p.e.PeriodStart}, timeOrZero{&p.e.PeriodEnd})...)
		return p, err
	})
	if err != nil {
		return nil, err
	}
	if q.Batch != "" && len(places) == 0 {
		return nil, ErrNotFound
	}
	all := make([]Explanation, len(places))
	for i, p := range places {
		all[i] = p.e
		if err := all[i].fill(ctx, tx, p.target, only, q.Events || q.Batch != ""); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// fill adds the batches to an explanation, and adds up.
func (x *Explanation) fill(ctx context.Context, tx pgx.Tx, target int64, only []string, ids bool) error {
	rows, err := tx.Query(ctx, explainBatchesSQL, target, x.PeriodStart, ids, only)
	if err != nil {
		return err
	}
	x.Batches, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (b ExplainedBatch, err error) {
		err = row.Scan(&b.ID, &b.State, &b.Quantity, timeOrZero{&b.Slot}, timeOrZero{&b.Sealed}, timeOrZero{&b.FirstSent},
			timeOrZero{&b.Confirmed}, &b.Attempts, &b.RequestID, &b.Reason, &b.MovedFrom, &b.MovedTo,
			&b.Events, &b.EventsKept, &b.EventUnits, &b.EventIDs)
		return b, err
	})
	if err != nil {
		return err
	}
	if only == nil {
		if err := tx.QueryRow(ctx, unsealedSQL, x.Target.Tenant, target, x.PeriodStart).Scan(&x.Units.Unsealed); err != nil {
			return err
		}
	}
	x.Agrees = true
	x.Units.Open, x.Units.Produced = x.Units.Unsealed, x.Units.Unsealed
	for i := range x.Batches {
		b := &x.Batches[i]
		whole := b.EventsKept == b.Events
		if whole {
			x.Units.Produced += b.EventUnits
		} else {
			x.Units.Produced += b.Quantity // its events are older than what is kept
		}
		x.Agrees = x.Agrees && b.EventsKept <= b.Events && (!whole || b.EventUnits == b.Quantity)
		*x.Units.of(b.State) += b.Quantity
		if only == nil {
			continue
		}
		rows, err := tx.Query(ctx, batchLogSQL, b.ID)
		if err != nil {
			return err
		}
		b.Log, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Entry, err error) {
			err = row.Scan(timeOrZero{&e.At}, &e.State, &e.Attempt, &e.Actor, &e.RequestID, &e.Reason)
			return e, err
		})
		if err != nil {
			return err
		}
	}
	u := x.Units
	x.Agrees = x.Agrees && u.Produced == u.Billed+u.Open+u.Parked+u.Rejected+u.WrittenOff+u.Voided+u.Moved
	return nil
}

// of returns where the units of a batch in that state are counted.
func (u *Units) of(s billing.State) *int64 {
	switch s {
	case billing.StateConfirmed:
		return &u.Billed
	case billing.StateParked, billing.StateVoiding:
		return &u.Parked
	case billing.StateRejected:
		return &u.Rejected
	case billing.StateWrittenOff:
		return &u.WrittenOff
	case billing.StateVoided:
		return &u.Voided
	case billing.StateMoved:
		return &u.Moved
	}
	return &u.Open
}
