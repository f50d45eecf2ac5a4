package tenancy

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Commit commits, after it has made sure, in the same round trip, that the
// transaction is still the one that was begun. It may be called before fn
// returns, and then TenantTx returns [pgx.ErrTxClosed].
func (t *lazyTx) Commit(ctx context.Context) error {
	switch {
	case t.err != nil:
		return t.err
	case t.closed:
		return pgx.ErrTxClosed
	case t.aborted != nil:
		t.closed = true
		return pgx.ErrTxCommitRollback
	case t.lease == nil:
		t.closed = true
		return nil
	}
	conn := t.conn()
	if err := t.guard(pgconn.CommandTag{}); err != nil {
		return err
	}
	if conn.PgConn().TxStatus() == 'E' {
		if err := t.Rollback(ctx); err != nil {
			return err
		}
		return pgx.ErrTxCommitRollback
	}
	var batch pgconn.Batch
	leave, commit := t.session.leave(t.route), t.session.own(commitSQL)
	leave.queue(&batch)
	commit.queue(&batch)
	results := conn.PgConn().ExecBatch(ctx, &batch)
	if err := nextAnswer(results); err != nil {
		results.Close()
		err = t.db.leaving(conn, t.session, err)
		t.release() // the pool closes it, for it is in a transaction
		return err
	}
	var tag pgconn.CommandTag
	if results.NextResult() {
		tag, _ = results.ResultReader().Close()
	}
	err := results.Close()
	t.release()
	if err == nil && tag.String() == "ROLLBACK" {
		err = pgx.ErrTxCommitRollback
	}
	return err
}

// Rollback undoes everything. After Commit it returns [pgx.ErrTxClosed], and
// does no harm.
func (t *lazyTx) Rollback(ctx context.Context) error {
	if t.closed {
		return pgx.ErrTxClosed
	}
	if t.lease == nil {
		t.closed = true
		return nil
	}
	if err := t.guard(pgconn.CommandTag{}); err != nil {
		return err
	}
	_, err := t.conn().Exec(ctx, "rollback")
	// One that could not be rolled back is closed by the pool.
	t.release()
	return err
}

// abandon rolls back what is left of the transaction, whatever became of the
// call, and returns the verdict of tampering.
func (t *lazyTx) abandon(ctx context.Context) error {
	if !t.closed {
		detached, cancel := detach(ctx)
		defer cancel()
		t.Rollback(detached) // what fails here costs the connection, no more
	}
	return t.err
}
