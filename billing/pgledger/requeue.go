package pgledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
)

// A batch that was sent goes back as unknown, so that it is looked up before
// it is sent again; one that surely never was, as sealed.
const requeueSQL = `
update mcpsaas.usage_batches set
	state = case when first_sent_at is null then 'sealed' else 'unknown' end,
	refused = false, next_at = $2
where id = $1 and state in ('parked', 'rejected')
returning state, attempt`

const batchExistsSQL = `select exists (select from mcpsaas.usage_batches where id = $1)`

// Requeue puts a parked or rejected batch back on its way, after the cause was
// mended; actor is the person who decided so, for the log. A batch in another
// state is left alone, so that asking twice is asking once. It returns
// [ErrNotFound] for an unknown id.
func (l *Ledger) Requeue(ctx context.Context, batch, actor, reason string) error {
	if actor == "" {
		return errors.New("pgledger: requeue batch: actor is empty")
	}
	now := l.now()
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		var state billing.State
		var attempt int
		err := tx.QueryRow(ctx, requeueSQL, batch, now).Scan(&state, &attempt)
		if errors.Is(err, pgx.ErrNoRows) {
			var exists bool
			if err := tx.QueryRow(ctx, batchExistsSQL, batch).Scan(&exists); err != nil || exists {
				return err
			}
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		return logBatch(ctx, tx, batch, now, attempt, state, actor, "", reason)
	})
	if err != nil && err != ErrNotFound {
		return fmt.Errorf("pgledger: requeue batch: %w", pgredact.Error(err))
	}
	return err
}

const requeueNoticeSQL = `
update mcpsaas.billing_notices set state = 'new', next_at = $2, tries = 0, finished_at = null
where id = $1 and state in ('dead', 'ignored', 'applied')`

const noticeExistsSQL = `select exists (select from mcpsaas.billing_notices where id = $1)`

// RequeueNotice has a notice applied again, whether it failed or not: applying
// is idempotent, since the truth is fetched anew. It returns [ErrNotFound] for
// an unknown id.
func (l *Ledger) RequeueNotice(ctx context.Context, id string) error {
	tag, err := l.pool.Exec(ctx, requeueNoticeSQL, id, l.now())
	if err != nil {
		return fmt.Errorf("pgledger: requeue notice: %w", pgredact.Error(err))
	}
	if tag.RowsAffected() > 0 {
		return nil
	}
	var exists bool
	if err := l.pool.QueryRow(ctx, noticeExistsSQL, id).Scan(&exists); err != nil {
		return fmt.Errorf("pgledger: requeue notice: %w", pgredact.Error(err))
	}
	if !exists {
		return ErrNotFound
	}
	return nil
}
