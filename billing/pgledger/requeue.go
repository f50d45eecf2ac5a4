package pgledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
)

// Requeue puts a parked or rejected batch back on its way, after the cause was
// mended; actor is the person who decided so. It is [billing.VerbRequeue], for
// which no provider is needed.
func (l *Ledger) Requeue(ctx context.Context, batch, actor, reason string) error {
	if actor == "" {
		return errors.New("pgledger: requeue batch: actor is empty")
	}
	if reason == "" {
		return errors.New("pgledger: requeue batch: reason is empty")
	}
	_, _, err := l.Operate(ctx, billing.Order{Verb: billing.VerbRequeue, Batch: batch, Actor: actor, Reason: reason}, 0, nil)
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
