package pgledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
)

// settleSQL is guarded by the attempt: the fence.
const settleSQL = `
update mcpsaas.usage_batches set
	state = $3, next_at = $4, lease_until = null,
	first_sent_at = case when $5 then null else first_sent_at end,
	last_sent_at = case when $5 then null else last_sent_at end,
	epoch = epoch + case when $6 then 1 else 0 end,
	epoch_at = case when $6 then null else epoch_at end,
	refused = $7, request_id = $8, reason = $9,
	confirmed_at = case when $3 = 'confirmed' then $10::timestamptz end
where id = $1 and attempt = $2 and state in ('sending', 'verifying')`

// signalSQL keeps one row from being written by every call.
const signalSQL = `
insert into mcpsaas.billing_signals as s (name, at) values ($1, $2)
on conflict (name) do update set at = excluded.at where s.at < excluded.at - interval '1 second'`

// clearSignalSQL takes back a refusal once the credential is good again.
const clearSignalSQL = `delete from mcpsaas.billing_signals where name = $1 and at < $2`

// The names of signals.
const (
	signalAnswer       = "answer"
	signalUnauthorized = "unauthorized"
	signalPulled       = "pulled"
	signalPulledAll    = "pulled_all"
	signalReconciled   = "reconciled"
)

// Settle implements [billing.Ledger].
func (l *Ledger) Settle(ctx context.Context, c billing.Claim, now time.Time, v billing.Verdict) error {
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, settleSQL, c.ID, c.Attempt, v.State, v.NextAt, v.Clean, v.NewEpoch,
			v.Refused || c.Refused && !v.Clean, clean(v.RequestID), clean(v.Reason), now)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return billing.ErrFenced
		}
		return logBatch(ctx, tx, c.ID, now, c.Attempt, v.State, worker, v.RequestID, v.Reason)
	})
	if err == nil {
		err = l.signal(ctx, now, v)
	}
	if err != nil {
		return fmt.Errorf("pgledger: settle batch %s: %w", c.ID, pgredact.Error(err))
	}
	return nil
}

// signal keeps the times of the last answer and the last refusal. They are for
// the health checks alone, so they stay out of the transaction: all targets
// share these rows.
func (l *Ledger) signal(ctx context.Context, now time.Time, v billing.Verdict) error {
	var batch pgx.Batch
	if v.Answered {
		batch.Queue(signalSQL, signalAnswer, now)
		batch.Queue(clearSignalSQL, signalUnauthorized, now)
	}
	if v.Unauthorized {
		batch.Queue(signalSQL, signalUnauthorized, now)
	}
	if batch.Len() == 0 {
		return nil
	}
	return l.pool.SendBatch(ctx, &batch).Close()
}

// The actors in the log when no person was one.
const (
	worker = "worker"
	policy = "policy"
)

const logSQL = `
insert into mcpsaas.usage_batch_log (batch_id, at, attempt, state, actor, request_id, reason)
values ($1, $2, $3, $4, $5, $6, $7)`

func logBatch(ctx context.Context, tx pgx.Tx, id string, now time.Time, attempt int, state billing.State, actor, request, reason string) error {
	_, err := tx.Exec(ctx, logSQL, id, now, attempt, state, clean(actor), clean(request), clean(reason))
	return err
}
