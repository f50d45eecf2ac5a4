package tenancy

import (
	"context"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Begin begins the transaction, and in it a nested one: a savepoint.
func (t *lazyTx) Begin(ctx context.Context) (pgx.Tx, error) {
	if err := t.open(ctx); err != nil {
		return nil, err
	}
	t.saved++
	n := &nestedTx{outer: t, name: "sp_" + strconv.FormatInt(t.saved, 10)}
	return n, t.command(ctx, "savepoint "+n.name)
}

// command runs a statement of our own that has neither arguments nor a result.
func (t *lazyTx) command(ctx context.Context, sql string) error {
	if err := t.ready(); err != nil {
		return err
	}
	if t.lease == nil {
		return pgx.ErrTxClosed
	}
	_, err := t.conn().Exec(ctx, sql)
	return err
}

// nestedTx is a savepoint of outer.
type nestedTx struct {
	outer  *lazyTx
	name   string
	closed bool
}

var _ pgx.Tx = (*nestedTx)(nil)

func (n *nestedTx) ready() error {
	if n.closed {
		return pgx.ErrTxClosed
	}
	return nil
}

// Commit releases the savepoint.
func (n *nestedTx) Commit(ctx context.Context) error { return n.end(ctx, "release savepoint ") }

// Rollback undoes what was done since the savepoint.
func (n *nestedTx) Rollback(ctx context.Context) error { return n.end(ctx, "rollback to savepoint ") }

func (n *nestedTx) end(ctx context.Context, command string) error {
	if n.closed {
		return pgx.ErrTxClosed
	}
	n.closed = true
	return n.outer.command(ctx, command+n.name)
}

func (n *nestedTx) Begin(ctx context.Context) (pgx.Tx, error) {
	if err := n.ready(); err != nil {
		return nil, err
	}
	return n.outer.Begin(ctx)
}

func (n *nestedTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := n.ready(); err != nil {
		return failed(err), err
	}
	return n.outer.Query(ctx, sql, args...)
}

func (n *nestedTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := n.Query(ctx, sql, args...)
	return row{rows}
}

func (n *nestedTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := n.ready(); err != nil {
		return pgconn.CommandTag{}, err
	}
	return n.outer.Exec(ctx, sql, args...)
}

func (n *nestedTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if err := n.ready(); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return n.outer.SendBatch(ctx, b)
}

func (n *nestedTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	if err := n.ready(); err != nil {
		return 0, err
	}
	return n.outer.CopyFrom(ctx, table, columns, source)
}

func (n *nestedTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if err := n.ready(); err != nil {
		return nil, err
	}
	return n.outer.Prepare(ctx, name, sql)
}

func (n *nestedTx) LargeObjects() pgx.LargeObjects { return n.outer.LargeObjects() }

func (n *nestedTx) Conn() *pgx.Conn { return n.outer.Conn() }
