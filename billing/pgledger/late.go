package pgledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// staleAfter is the age from which on usage is not moved to another period by
// itself, where the provider sets no limit: nobody expects it on an invoice any
// more. It is Stripe's (https://docs.stripe.com/api/billing/meter-event/create).
const staleAfter = 35 * 24 * time.Hour

// lateWrittenOff is the reason of a batch that a policy gave up.
const lateWrittenOff = "its billing period takes no more usage, and the plan's policy is to write it off"

const moveSQL = `
update mcpsaas.usage_events set bill_at = $4, mark = 'late', late_for = $5
where event_id in (
	select event_id from mcpsaas.usage_events
	where tenant_id = $1 and due and bill_at >= $2 and bill_at < $3 limit $6)`

// lateness is what becomes of usage whose billing period is over.
type lateness int

const (
	inTime     lateness = iota // sealed into its period, which takes it, or else see settleLate
	moves                      // billed with the present period, and marked
	waiting                    // for the provider to tell of the present period
	writtenOff                 // sealed as such
)

// lateness decides about usage of the time first, which the given periods
// cover.
func (s sealer) lateness(periods, covering []period, first time.Time) lateness {
	for _, p := range covering {
		caps := s.caps(p.target)
		if s.now.Before(p.end.Add(caps.LateGrace)) || s.now.Sub(first) >= oldest(caps) {
			return inTime
		}
	}
	switch s.late[covering[0].plan] {
	case billing.LatePark, billing.LateInvoiceItem:
		return inTime
	case billing.LateWriteOff:
		return writtenOff
	}
	late := inTime // the subscription is over: there is no other period
	for _, p := range periods {
		switch {
		case !s.now.Before(p.since) && s.now.Before(p.until):
			return moves
		case p.live:
			late = waiting
		}
	}
	return late
}

func oldest(caps billing.Caps) time.Duration {
	if caps.MaxAge == 0 {
		return staleAfter
	}
	return caps.MaxAge
}

// move has the due usage of [from, to) billed as of now. When it occurred, and
// the period it was of, stay with it.
func (s sealer) move(ctx context.Context, of period, from, to time.Time) error {
	_, err := s.tx.Exec(ctx, moveSQL, s.tenant, from, to, s.now, of.start, maxEvents)
	return err
}

const (
	// tryTenantSQL doesn't wait: who saves a subscription holds that lock and
	// may want the target, which is locked here.
	tryTenantSQL = `select pg_try_advisory_xact_lock(822001, hashtext($1::text))`

	planOfSQL = `
select s.plan from mcpsaas.billing_periods p join mcpsaas.billing_subscriptions s on s.id = p.subscription_id
where p.target_id = $1 and p.period_start = $2
order by p.id desc limit 1`

	presentSQL = `
select period_start, period_end, since, until, live
from mcpsaas.billing_periods
where target_id = $1 and (live or since <= $2 and until > $2) and until > since
order by (since <= $2 and until > $2) desc, since desc limit 1`

	replaceSQL = `
insert into mcpsaas.usage_batches (id, events_in, tenant_id, target_id, period_start, period_end,
	quantity, events, first_event, last_event, slot, sealed_at, next_at, first_id, last_id, granted, moved_from)
select $2, events_in, tenant_id, $7, $3, $4, quantity, events, first_event, last_event, $5, $6, $6, first_id, last_id, granted, id
from mcpsaas.usage_batches where id = $1`

	lateSQL = `update mcpsaas.usage_batches set state = $2, reason = $3, lease_until = null where id = $1`
)

// settleLate does with a locked batch that was surely not applied, and that its
// period takes no more, what the plan's policy says.
func (l *Ledger) settleLate(ctx context.Context, tx pgx.Tx, c *billing.Claim, now time.Time, caps billing.Caps) error {
	var plan tenant.Plan
	if err := tx.QueryRow(ctx, planOfSQL, c.TargetID, c.PeriodStart).Scan(&plan); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	c.State = billing.StateParked
	actor := worker
	switch {
	case now.Sub(c.Slot) >= oldest(caps) || l.late[plan] == billing.LatePark:
	case l.late[plan] == billing.LateWriteOff:
		c.State, c.Reason, actor = billing.StateWrittenOff, lateWrittenOff, policy
	default:
		if err := l.goElsewhere(ctx, tx, c, plan, now, caps); err != nil {
			return err
		}
	}
	if c.Step == billing.StepHold {
		_, err := tx.Exec(ctx, holdSQL, c.ID, c.State, c.Until)
		return err
	}
	if _, err := tx.Exec(ctx, lateSQL, c.ID, c.State, c.Reason); err != nil {
		return err
	}
	return logBatch(ctx, tx, c.ID, now, c.Attempt, c.State, actor, "", c.Reason)
}

// goElsewhere puts another batch in the place of c: on the customer's next invoice
// by itself, if the plan says so and that can be done, else in the present period.
func (l *Ledger) goElsewhere(ctx context.Context, tx pgx.Tx, c *billing.Claim, plan tenant.Plan, now time.Time, caps billing.Caps) error {
	if l.late[plan] == billing.LateInvoiceItem {
		if to, ok := l.charge(c.Target); ok {
			return charge(ctx, tx, c, to, now)
		}
	}
	return replace(ctx, tx, c, now, caps)
}

// chargeSlotSQL is for a target without slots at the provider.
const chargeSlotSQL = `
select greatest(date_trunc('second', $2::timestamptz), max(slot) + interval '1 second')
from mcpsaas.usage_batches where target_id = $1`

// charge puts a batch to an invoice item in the place of c. It is of the same
// billing period. The target of invoice items is locked after the one that it
// stands beside, never before.
func charge(ctx context.Context, tx pgx.Tx, c *billing.Claim, to billing.Target, now time.Time) error {
	target, err := saveTarget(ctx, tx, c.Target.Tenant, to)
	if err != nil {
		return err
	}
	var slot time.Time
	if err := tx.QueryRow(ctx, chargeSlotSQL, target, now).Scan(&slot); err != nil {
		return err
	}
	id := tenant.NewID().String() // any new UUIDv7 will do
	if _, err := tx.Exec(ctx, replaceSQL, c.ID, id, c.PeriodStart, c.PeriodEnd, slot, now, target); err != nil {
		return err
	}
	c.State = billing.StateMoved
	c.Reason = fmt.Sprintf("its billing period takes no more usage: batch %s charges for it on the next invoice", id)
	return logBatch(ctx, tx, id, now, 0, billing.StateSealed, policy, "", "for batch "+c.ID)
}

// replace puts another batch in the place of c, in the target's present period.
// Without one, c stays as it is: until the provider has told of it, or parked
// if the subscription is over.
func replace(ctx context.Context, tx pgx.Tx, c *billing.Claim, now time.Time, caps billing.Caps) error {
	hold := func(d time.Duration) {
		c.Step, c.State, c.Until = billing.StepHold, billing.StateSealed, now.Add(d)
	}
	var locked bool
	if err := tx.QueryRow(ctx, tryTenantSQL, c.Target.Tenant.String()).Scan(&locked); err != nil {
		return err
	}
	if !locked {
		hold(time.Second)
		return nil
	}
	p := period{targetID: c.TargetID, target: c.Target}
	err := tx.QueryRow(ctx, presentSQL, c.TargetID, now).Scan(&p.start, &p.end, &p.since, &p.until, &p.live)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	case now.Before(p.since), !now.Before(p.until), !p.start.After(c.PeriodStart):
		hold(time.Minute)
		return nil
	}
	id, err := substitute(ctx, tx, c.ID, p, now, caps, worker, "for batch "+c.ID)
	switch {
	case errors.Is(err, errNoSlot):
		hold(time.Minute)
		return nil
	case err != nil:
		return err
	}
	c.State = billing.StateMoved
	c.Reason = fmt.Sprintf("its billing period takes no more usage: batch %s stands for it", id)
	return nil
}

// substitute makes the batch that stands for another in p, under the tenant's
// lock, and returns its id; errNoSlot when p has no slot for it yet.
func substitute(ctx context.Context, tx pgx.Tx, batch string, p period, now time.Time, caps billing.Caps, actor, reason string) (string, error) {
	s := sealer{tx: tx, tenant: p.target.Tenant, now: now, caps: func(billing.Target) billing.Caps { return caps }}
	slot, err := s.slot(ctx, p, now)
	if err != nil {
		return "", err
	}
	id := tenant.NewID().String() // any new UUIDv7 will do
	if _, err := tx.Exec(ctx, replaceSQL, batch, id, p.start, p.end, slot, now, p.targetID); err != nil {
		return "", err
	}
	return id, logBatch(ctx, tx, id, now, 0, billing.StateSealed, actor, "", reason)
}
