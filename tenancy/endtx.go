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
	case t.conn == nil:
		t.closed = true
		return nil
	}
	conn := t.conn.Conn()
	if err := t.guard(pgconn.CommandTag{}); err != nil {
		return err
	}
	if conn.PgConn().TxStatus() == 'E' {
		if err := t.Rollback(ctx); err != nil {
			return err
		}
		return pgx.ErrTxCommitRollback
	}
	batch := &pgx.Batch{}
	batch.Queue(t.db.statement("mcpsaas_leave"), t.id)
	batch.Queue(t.db.statement("mcpsaas_commit"))
	results := conn.SendBatch(ctx, batch)
	if _, err := results.Exec(); err != nil {
		results.Close()
		err = t.db.verdict(conn, err)
		t.release() // the pool closes it, for it is in a transaction
		return err
	}
	tag, err := results.Exec()
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
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
	if t.conn == nil {
		t.closed = true
		return nil
	}
	if err := t.guard(pgconn.CommandTag{}); err != nil {
		return err
	}
	conn := t.conn.Conn()
	_, err := conn.Exec(ctx, "rollback")
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
