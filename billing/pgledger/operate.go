package pgledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var _ billing.Books = (*Ledger)(nil)

const (
	placeOfBatchSQL = `select tenant_id, target_id from mcpsaas.usage_batches where id = $1`

	// lockTargetSQL is what claimTargetSQL takes, but waits: a claim is short.
	lockTargetSQL = `
select ` + targetColumns + ` from mcpsaas.billing_targets t where id = $1 for no key update`

	lockBatchSQL = `
select state, attempt, epoch, quantity, slot, period_start, period_end, first_sent_at, last_sent_at,
	coalesce(lease_until > $2, false), events_in::text
from mcpsaas.usage_batches where id = $1 for update`

	successorSQL = `select id::text from mcpsaas.usage_batches where moved_from = $1`

	operationSQL = `
insert into mcpsaas.billing_operations (at, verb, actor, reason, tenant_id, batch_id, detail)
values ($1, $2, $3, $4, $5, $6, $7)`
)

// operation is an order on its way, in a transaction that holds the batch, and
// its target, so that no worker is about to claim a batch of it.
type operation struct {
	billing.Order
	ledger *Ledger
	tx     pgx.Tx
	now    time.Time
	caps   func(billing.Target) billing.Caps

	batch    billing.Batch
	leased   bool
	eventsIn string
	out      billing.Outcome
}

// Operate implements [billing.Books]. It returns [ErrNotFound] for an unknown
// batch.
func (l *Ledger) Operate(ctx context.Context, o billing.Order, lease time.Duration, caps func(billing.Target) billing.Caps) (out billing.Outcome, claim *billing.Claim, err error) {
	var id pgtype.UUID
	if id.Scan(o.Batch) != nil {
		return out, nil, ErrNotFound
	}
	o.Actor, o.Reason = clean(o.Actor), clean(o.Reason)
	err = pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		op := operation{Order: o, ledger: l, tx: tx, now: l.now(), caps: caps}
		if err := op.lock(ctx); err != nil {
			return err
		}
		var err error
		switch o.Verb {
		case billing.VerbRequeue:
			err = op.requeue(ctx)
		case billing.VerbWriteOff:
			err = op.writeOff(ctx)
		case billing.VerbMove:
			err = op.move(ctx)
		case billing.VerbVoid:
			claim, err = op.beginVoid(ctx, lease)
		default:
			err = fmt.Errorf("unknown verb %q", o.Verb)
		}
		out = op.out
		return err
	})
	if err == nil {
		return out, claim, nil
	}
	if _, refused := errors.AsType[*billing.RefusedError](err); !refused && !errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("pgledger: %s batch %s: %w", o.Verb, o.Batch, pgredact.Error(err))
	}
	return out, nil, err
}

// lock takes the tenant, to move something, the target and the batch, in the
// order in which everybody takes them.
func (op *operation) lock(ctx context.Context) error {
	b := &op.batch
	b.ID = op.Batch
	var id tenant.ID
	err := op.tx.QueryRow(ctx, placeOfBatchSQL, op.Batch).Scan(&id, &b.TargetID)
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	if err == nil && op.Verb == billing.VerbMove {
		err = lockTenant(ctx, op.tx, id)
	}
	if err != nil {
		return err
	}
	if err := op.tx.QueryRow(ctx, lockTargetSQL, b.TargetID).Scan(fieldsOf(&b.Target)...); err != nil {
		return err
	}
	err = op.tx.QueryRow(ctx, lockBatchSQL, op.Batch, op.now).Scan(&b.State, &b.Attempt, &b.Epoch, &b.Quantity, &b.Slot,
		&b.PeriodStart, &b.PeriodEnd, timeOrZero{&b.FirstSent}, timeOrZero{&b.LastSent}, &op.leased, &op.eventsIn)
	op.out = billing.Outcome{Batch: op.Batch, Tenant: id, Verb: op.Verb, State: b.State, Quantity: b.Quantity}
	return err
}

func (op *operation) refuse(format string, args ...any) error {
	return &billing.RefusedError{Verb: op.Verb, Batch: op.Batch, State: op.batch.State, Reason: fmt.Sprintf(format, args...)}
}

// is reports whether the batch is in one of the states.
func (op *operation) is(states ...billing.State) bool { return slices.Contains(states, op.batch.State) }

// record notes the change of the batch to a state, twice: with the steps of the
// batch, and with what people decided.
func (op *operation) record(ctx context.Context, state billing.State, attempt int, detail any) error {
	op.out.State, op.out.Changed = state, true
	if err := logBatch(ctx, op.tx, op.Batch, op.now, attempt, state, op.Actor, "", op.Reason); err != nil {
		return err
	}
	return operate(ctx, op.tx, op.now, string(op.Verb), op.Actor, op.Reason, op.batch.Target.Tenant, &op.Batch, detail)
}

func operate(ctx context.Context, tx pgx.Tx, now time.Time, verb, actor, reason string, id tenant.ID, batch *string, detail any) error {
	text, err := json.Marshal(detail)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, operationSQL, now, verb, actor, reason, id, batch, string(text))
	return err
}

// Record implements [billing.Books].
func (l *Ledger) Record(ctx context.Context, id tenant.ID, verb, actor, reason string, detail any) error {
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		return operate(ctx, tx, l.now(), verb, clean(actor), clean(reason), id, nil, detail)
	})
	if err != nil {
		return fmt.Errorf("pgledger: record %s: %w", verb, pgredact.Error(err))
	}
	return nil
}

// change is what an operation's row says of a batch.
type change struct {
	From      billing.State `json:"from"`
	To        billing.State `json:"to"`
	Quantity  int64         `json:"quantity"`
	Successor string        `json:"successor,omitempty"`
	Request   string        `json:"request_id,omitempty"`
	Answer    string        `json:"answer,omitempty"`
}

func (op *operation) to(state billing.State) change {
	return change{From: op.batch.State, To: state, Quantity: op.batch.Quantity}
}
