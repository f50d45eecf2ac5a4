package pgledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
)

const (
	requeueSQL = `
update mcpsaas.usage_batches set state = $2, refused = false, next_at = $3, reason = '' where id = $1`

	giveUpSQL = `
update mcpsaas.usage_batches set state = $2, reason = $3, lease_until = null where id = $1`

	// presentElsewhereSQL finds the tenant's present period at the provider: of
	// the batch's own target, or of one that took its place and has not got these
	// events by another batch. That of an invoice item is the target whose usage it
	// charges for.
	presentElsewhereSQL = `
select ` + targetColumns + `, p.target_id, p.period_start, p.period_end, p.since, p.until, p.live
from mcpsaas.billing_periods p join mcpsaas.billing_targets t on t.id = p.target_id
where p.tenant_id = $1 and t.provider = $2 and p.since <= $5 and p.until > $5
	and (t.mode = $3 or $3 = 'invoice_item' and t.key = (select key from mcpsaas.billing_targets where id = $4))
	and (p.target_id = $4 or not exists (
		select from mcpsaas.usage_batches b where b.events_in = $6 and b.target_id = p.target_id and b.state <> 'moved'))
order by p.target_id <> $4, p.since desc limit 1`

	verifyingSQL = `
select exists (select from mcpsaas.usage_batches where target_id = $1 and state = 'verifying')`

	// A void counts as a send: totals show it as late.
	voidingSQL = `
update mcpsaas.usage_batches set state = 'voiding', attempt = $2, lease_until = $3, last_sent_at = $4 where id = $1`

	settleVoidSQL = `
update mcpsaas.usage_batches set state = $3, reason = $4, lease_until = null, next_at = $5
where id = $1 and attempt = $2 and state = 'voiding'`
)

// requeue puts a batch back: one that was sent as unknown, so that it is looked up
// before it is sent again; one that surely never was as sealed.
func (op *operation) requeue(ctx context.Context) error {
	switch {
	case op.is(billing.StateSealed, billing.StateSending, billing.StateVerifying, billing.StateUnknown, billing.StateConfirmed):
		return nil // on its way, or there
	case !op.is(billing.StateParked, billing.StateRejected):
		return op.refuse("only a parked or rejected batch can be sent again")
	}
	state := billing.StateUnknown
	if op.batch.FirstSent.IsZero() {
		state = billing.StateSealed
	}
	if _, err := op.tx.Exec(ctx, requeueSQL, op.Batch, state, op.now); err != nil {
		return err
	}
	return op.record(ctx, state, op.batch.Attempt, op.to(state))
}

func (op *operation) writeOff(ctx context.Context) error {
	const state = billing.StateWrittenOff
	switch {
	case op.is(state):
		return nil
	case op.is(billing.StateSending, billing.StateVerifying, billing.StateUnknown):
		return op.refuse("it is under way, and may have been applied: wait until it is confirmed or parked")
	case op.is(billing.StateConfirmed):
		return op.refuse("it is billed: void it")
	case op.is(billing.StateVoiding) && op.leased:
		return op.refuse("the provider is being asked to take it back: wait for its answer")
	// A void whose effect the totals can't tell any more ends here, or nowhere.
	case !op.is(billing.StateSealed, billing.StateParked, billing.StateRejected, billing.StateVoiding):
		return op.refuse("there is nothing left to give up")
	}
	if _, err := op.tx.Exec(ctx, giveUpSQL, op.Batch, state, op.Reason); err != nil {
		return err
	}
	return op.record(ctx, state, op.batch.Attempt, op.to(state))
}

// move puts another batch in its place, in the present period.
func (op *operation) move(ctx context.Context) error {
	b := op.batch
	switch {
	case op.is(billing.StateMoved):
		return op.tx.QueryRow(ctx, successorSQL, op.Batch).Scan(&op.out.Successor)
	case !op.is(billing.StateSealed, billing.StateParked, billing.StateRejected):
		return op.refuse("only a sealed, parked or rejected batch can be moved")
	case !b.FirstSent.IsZero():
		return op.refuse("it may have been applied, and would be billed twice: requeue it, or write it off")
	}
	var p period
	err := op.tx.QueryRow(ctx, presentElsewhereSQL, b.Target.Tenant, b.Target.Provider, b.Target.Mode, b.TargetID, op.now, op.eventsIn).
		Scan(fieldsOf(&p.target, &p.targetID, &p.start, &p.end, &p.since, &p.until, &p.live)...)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return op.refuse("the tenant has no present billing period at the provider")
	case err != nil:
		return err
	case p.targetID == b.TargetID && p.start.Equal(b.PeriodStart):
		return op.refuse("it is of the present period already: requeue it")
	}
	id, err := substitute(ctx, op.tx, op.Batch, p, op.now, op.caps(p.target), op.Actor, op.Reason)
	if errors.Is(err, errNoSlot) {
		return op.refuse("the present period has no slot for it yet: try again later")
	}
	if err != nil {
		return err
	}
	const state = billing.StateMoved
	if _, err := op.tx.Exec(ctx, giveUpSQL, op.Batch, state, op.Reason); err != nil {
		return err
	}
	op.out.Successor = id
	detail := op.to(state)
	detail.Successor = id
	return op.record(ctx, state, b.Attempt, detail)
}

// beginVoid notes that the batch is being taken back before the provider is
// asked, so that no total is read as if it were still, or no longer, in it.
func (op *operation) beginVoid(ctx context.Context, lease time.Duration) (*billing.Claim, error) {
	b, caps := op.batch, op.caps(op.batch.Target)
	switch {
	case op.is(billing.StateVoided):
		return nil, nil
	case op.is(billing.StateVoiding) && op.leased:
		return nil, op.refuse("somebody is at it")
	case !op.is(billing.StateConfirmed, billing.StateVoiding):
		return nil, op.refuse("only what the provider has confirmed can be taken back")
	}
	// What is half taken back may be asked for at any time: the provider, or its
	// totals, will tell.
	if op.is(billing.StateConfirmed) {
		switch {
		case caps.Overwrite && !op.now.Before(b.PeriodEnd):
			return nil, op.refuse("its billing period is closed: credit it on the invoice")
		case !caps.Overwrite && caps.VoidWindow == 0:
			return nil, op.refuse("the provider takes nothing back")
		case !caps.Overwrite && op.now.Sub(b.FirstSent) >= caps.VoidWindow:
			return nil, op.refuse("it was sent at %s, and the provider takes back only what is less than %v old: credit it on the invoice",
				b.FirstSent.Format(time.RFC3339), caps.VoidWindow)
		}
	}
	// A worker that reads a total just now would take it for one that has this
	// batch in it.
	var verifying bool
	if err := op.tx.QueryRow(ctx, verifyingSQL, b.TargetID).Scan(&verifying); err != nil {
		return nil, err
	}
	if verifying {
		return nil, op.refuse("another batch of the target is being looked up: try again later")
	}
	if err := lookAround(ctx, op.tx, &b, caps.VerifyWindow); err != nil {
		return nil, err
	}
	b.Attempt++
	if _, err := op.tx.Exec(ctx, voidingSQL, op.Batch, b.Attempt, op.now.Add(lease), op.now); err != nil {
		return nil, err
	}
	return &billing.Claim{Batch: b}, op.record(ctx, billing.StateVoiding, b.Attempt, op.to(billing.StateVoiding))
}

// SettleVoid implements [billing.Books].
func (l *Ledger) SettleVoid(ctx context.Context, c billing.Claim, o billing.Order, s billing.State, r billing.Receipt) error {
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		o.Actor, o.Reason = clean(o.Actor), clean(o.Reason)
		now, answer := l.now(), clean(r.Reason)
		tag, err := tx.Exec(ctx, settleVoidSQL, c.ID, c.Attempt, s, answer, now)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return billing.ErrFenced
		}
		if err := logBatch(ctx, tx, c.ID, now, c.Attempt, s, o.Actor, r.RequestID, answer); err != nil {
			return err
		}
		return operate(ctx, tx, now, string(o.Verb), o.Actor, o.Reason, c.Target.Tenant, &c.ID,
			change{From: billing.StateVoiding, To: s, Quantity: c.Quantity, Request: clean(r.RequestID), Answer: answer})
	})
	if err != nil && !errors.Is(err, billing.ErrFenced) {
		err = fmt.Errorf("pgledger: void batch %s: %w", c.ID, pgredact.Error(err))
	}
	return err
}
