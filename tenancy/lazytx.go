package tenancy

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// lazyTx is a transaction that begins with its first statement.
//
//	pending -> begun -> closed
//	   \-> aborted -/
type lazyTx struct {
	db   *DB
	pool *pgxpool.Pool
	id   string
	opts TxOptions

	// Conn has no context of its own, and may have to begin the transaction.
	ctx context.Context

	conn  *pgxpool.Conn // nil while pending
	saved int64         // savepoints so far

	// aborted is what every further call returns: the first statement failed
	// before the transaction was begun, which must look as if after.
	aborted error
	closed  bool
	err     error // the verdict of tampering, once there was any
}

var _ pgx.Tx = (*lazyTx)(nil)

// errAborted is what PostgreSQL answers in a transaction that failed.
var errAborted = &pgconn.PgError{
	Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "25P02",
	Message: "current transaction is aborted, commands ignored until end of transaction block",
}

// ready reports why no statement may run, if there is a reason.
func (t *lazyTx) ready() error {
	switch {
	case t.err != nil:
		return t.err
	case t.closed:
		return pgx.ErrTxClosed
	case t.aborted != nil:
		return t.aborted
	case t.conn != nil:
		return t.guard(pgconn.CommandTag{})
	}
	return nil
}

// guard looks for signs that a statement ended the transaction.
func (t *lazyTx) guard(tag pgconn.CommandTag) error {
	if t.err != nil || t.conn == nil {
		return t.err
	}
	conn := t.conn.Conn()
	if conn.IsClosed() || conn.PgConn().IsBusy() {
		// The call that lost it has its own error; while rows are open the
		// status is the one before them, and the next call is refused anyhow.
		return nil
	}
	if conn.PgConn().TxStatus() == 'I' || tag.String() == "COMMIT" {
		t.tampered("a statement ended the transaction")
	}
	return t.err
}

func (t *lazyTx) tampered(why string) {
	t.err = ErrTampered
	t.db.condemn(t.conn.Conn(), why)
	t.release()
}

// release gives the connection back. The pool closes one that is busy or still
// in a transaction.
func (t *lazyTx) release() {
	t.closed = true
	if t.conn != nil {
		t.conn.Release()
		t.conn = nil
	}
}

// opening returns a batch that begins the transaction and sets its context.
func (t *lazyTx) opening() *pgx.Batch {
	batch := &pgx.Batch{}
	txOptions := pgx.TxOptions{IsoLevel: t.opts.IsoLevel}
	if t.opts.ReadOnly {
		txOptions.AccessMode = pgx.ReadOnly
	}
	if txOptions == (pgx.TxOptions{}) {
		txOptions.BeginQuery = t.db.statement("mcpsaas_begin")
	}
	batch.BeginTx(txOptions)
	if t.opts.limited() {
		batch.Queue(t.db.statement("mcpsaas_enter_limits"), t.id,
			milliseconds(t.opts.StatementTimeout), milliseconds(t.opts.LockTimeout))
	} else {
		batch.Queue(t.db.statement("mcpsaas_enter"), t.id)
	}
	return batch
}

// send takes a connection, sends the opening and the queries behind it, and
// reads the opening's two answers. What the queries need prepared or encoded is
// done before the transaction begins.
func (t *lazyTx) send(ctx context.Context, queries ...*pgx.QueuedQuery) (results pgx.BatchResults, err error) {
	conn, err := t.pool.Acquire(ctx)
	if err != nil {
		return nil, redact(err)
	}
	kept := false
	defer func() {
		if !kept { // or an argument's encoder panicked
			conn.Release() // which closes a connection that is busy or in a transaction
		}
	}()
	batch := t.opening()
	for _, q := range queries {
		if q.SQL, q.Arguments, err = t.db.prepare(ctx, conn.Conn(), q.SQL, q.Arguments); err != nil {
			t.failed(conn.Conn(), err)
			return nil, err
		}
		batch.QueuedQueries = append(batch.QueuedQueries, q)
	}
	results = conn.SendBatch(ctx, batch)
	for range 2 {
		if _, err = results.Exec(); err != nil {
			err = t.db.verdict(conn.Conn(), err)
			results.Close()
			t.failed(conn.Conn(), err)
			return nil, err
		}
	}
	kept = true
	t.conn = conn
	return results, nil
}

// failed notes what is known of a transaction that didn't begin, which decides
// what the next call may do.
func (t *lazyTx) failed(conn *pgx.Conn, err error) {
	switch {
	case errors.Is(err, ErrTampered):
		t.err = err
		t.closed = true
	case conn.IsClosed():
		t.aborted = err
	case sqlState(err) != "":
		t.aborted = errAborted
	}
}

// begin opens the transaction on its own, for what can't travel in a batch.
func (t *lazyTx) begin(ctx context.Context) error {
	if err := t.ready(); err != nil || t.conn != nil {
		return err
	}
	results, err := t.send(ctx)
	if err != nil {
		return err
	}
	return results.Close()
}

// Query runs a statement, and with the first the transaction begins.
func (t *lazyTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := t.ready(); err != nil {
		return failed(err), err
	}
	if len(args) > 0 && isOption(args[0]) {
		for _, arg := range args {
			if mode, ok := arg.(pgx.QueryExecMode); ok && mode == pgx.QueryExecModeSimpleProtocol {
				err := errors.New("tenancy: the simple protocol would let one string carry several statements")
				return failed(err), err
			}
		}
		if err := t.begin(ctx); err != nil {
			return failed(err), err
		}
	}
	if t.conn == nil {
		return t.first(ctx, sql, args)
	}
	inner, err := t.conn.Query(ctx, sql, args...)
	rows := &rows{Rows: inner, done: func() error { return t.guard(inner.CommandTag()) }}
	if err != nil {
		rows.Close()
		return rows, rows.Err()
	}
	return rows, nil
}

// first sends the statement behind the transaction's opening.
func (t *lazyTx) first(ctx context.Context, sql string, args []any) (pgx.Rows, error) {
	results, err := t.send(ctx, &pgx.QueuedQuery{SQL: sql, Arguments: args})
	if err != nil {
		return failed(err), err
	}
	inner, err := results.Query()
	rows := &rows{Rows: inner, done: func() error {
		if err := results.Close(); err != nil {
			if t.conn != nil {
				statementsOf(t.conn.Conn()).failed(sql, err)
			}
			return err
		}
		return t.guard(inner.CommandTag())
	}}
	if err != nil {
		rows.Close()
		return rows, rows.Err()
	}
	return rows, nil
}

// QueryRow is Query for at most one row.
func (t *lazyTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := t.Query(ctx, sql, args...)
	return row{rows}
}

// Exec goes the way of Query: the driver's own Exec would send SQL without
// arguments by the simple protocol, which lets one string carry several
// statements.
func (t *lazyTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	rows, err := t.Query(ctx, sql, args...)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	rows.Close()
	return rows.CommandTag(), rows.Err()
}

// SendBatch sends b, and with the first the transaction begins.
func (t *lazyTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if err := t.ready(); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	// Only a batch that begins a transaction has one to show.
	if pgx.FailedBatchResults(b, pgx.ErrTxClosed).Tx() != nil {
		return pgx.FailedBatchResults(b, errors.New("tenancy: Batch.BeginTx can't be used within a transaction"))
	}
	if t.conn != nil || b.Len() == 0 {
		if err := t.begin(ctx); err != nil {
			return pgx.FailedBatchResults(b, err)
		}
		return t.conn.SendBatch(ctx, b)
	}
	results, err := t.send(ctx, b.QueuedQueries...)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return withoutTx{results}
}

// withoutTx keeps the driver's transaction from the caller, whose own it is
// not.
type withoutTx struct{ pgx.BatchResults }

func (withoutTx) Tx() pgx.Tx { return nil }

// CopyFrom begins the transaction and tries: PostgreSQL allows it for tables
// without row level security only.
func (t *lazyTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	if err := t.begin(ctx); err != nil {
		return 0, err
	}
	n, err := t.conn.Conn().CopyFrom(ctx, table, columns, source)
	if sqlState(err) == "0A000" { // feature_not_supported
		return n, fmt.Errorf("tenancy: use BulkInsert for a protected table: %w", err)
	}
	return n, err
}

// Prepare begins the transaction and prepares a statement.
func (t *lazyTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if err := t.begin(ctx); err != nil {
		return nil, err
	}
	return t.conn.Conn().Prepare(ctx, name, sql)
}

// LargeObjects returns ones whose every operation fails with
// [pgx.ErrTxClosed], the only error that the driver has for it: large objects
// have no row level security, and a tenant's would be open to all the others.
// Use a column of type bytea.
func (t *lazyTx) LargeObjects() pgx.LargeObjects {
	batch := &pgx.Batch{}
	batch.BeginTx(pgx.TxOptions{})
	return pgx.FailedBatchResults(batch, pgx.ErrTxClosed).Tx().LargeObjects()
}

// Conn begins the transaction and returns its connection, for what a [pgx.Tx]
// has no method for. None of the guards covers what is done with it. It is nil
// if the transaction can't begin; the next call tells why.
func (t *lazyTx) Conn() *pgx.Conn {
	if err := t.begin(t.ctx); err != nil {
		if t.aborted == nil && !t.closed {
			t.aborted = err
		}
		return nil
	}
	return t.conn.Conn()
}
