package tenancy

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// lazyTx is a transaction that begins with its first statement.
//
//	pending -> begun -> closed
//	   \-> aborted -/
type lazyTx struct {
	db    *DB
	route route
	begin string // the statement that begins it

	// Conn has no context of its own, and may have to begin the transaction.
	ctx context.Context

	lease   lease // nil while pending
	session *session
	saved   int64             // savepoints so far
	names   map[string]string // what Prepare was given, by name

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

// conn returns the transaction's connection, nil while it is pending.
func (t *lazyTx) conn() *pgx.Conn {
	if t.lease == nil {
		return nil
	}
	return t.lease.Conn()
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
	}
	return t.guard(pgconn.CommandTag{})
}

// guard looks for signs that a statement ended the transaction.
func (t *lazyTx) guard(tag pgconn.CommandTag) error {
	if t.err != nil || t.lease == nil {
		return t.err
	}
	conn := t.conn()
	if conn.IsClosed() || conn.PgConn().IsBusy() {
		// The call that lost it has its own error; while rows are open the
		// status is the one before them, and the next call is refused anyhow.
		return nil
	}
	if conn.PgConn().TxStatus() == 'I' || tag.String() == "COMMIT" {
		t.err = ErrTampered
		t.db.condemn(conn, t.session, "a statement ended the transaction")
		t.release()
	}
	return t.err
}

// release gives the connection back. The pool closes one that is busy or still
// in a transaction.
func (t *lazyTx) release() {
	t.closed = true
	if t.lease != nil {
		t.lease.Release()
		t.lease = nil
	}
}

// exchange is a batch of the caller's statements whose answers are being read.
type exchange struct {
	tx      *lazyTx
	fitted  []statement
	results *pgconn.MultiResultReader
	next    int // of fitted
}

// send sends the caller's statements, behind the transaction's opening if it is
// pending. An error means that none has run.
func (t *lazyTx) send(ctx context.Context, requests ...request) (*exchange, error) {
	if err := t.ready(); err != nil {
		return nil, err
	}
	for i := range requests {
		if sql, ok := t.names[requests[i].sql]; ok {
			requests[i].sql = sql
		}
		if err := requests[i].options(); err != nil {
			return nil, err
		}
	}
	if t.lease != nil {
		fitted, err := t.db.fit(ctx, t.conn(), t.session, t.route, true, requests)
		if err != nil {
			return nil, err
		}
		var batch pgconn.Batch
		for i := range fitted {
			fitted[i].queue(&batch)
		}
		return &exchange{tx: t, fitted: fitted, results: t.conn().PgConn().ExecBatch(ctx, &batch)}, nil
	}
	for {
		x, lost, err := t.first(ctx, requests)
		if err == nil {
			return x, nil
		}
		next, err := t.db.instead(ctx, t.route, err)
		if err != nil {
			t.failed(err, lost)
			return nil, err
		}
		t.route = next
	}
}

// first takes a connection, sends the opening and the statements behind it, and
// reads the opening's two answers. What the statements need described or encoded
// is done before the transaction begins. lost says that an error has cost the
// connection.
func (t *lazyTx) first(ctx context.Context, requests []request) (x *exchange, lost bool, err error) {
	l, s, err := t.db.acquire(ctx, t.route)
	if err != nil {
		return nil, false, err
	}
	conn := l.Conn()
	defer func() {
		if x == nil { // or an argument's encoder panicked
			lost = conn.IsClosed()
			l.Release()
		}
	}()
	fitted, err := t.db.fit(ctx, conn, s, t.route, false, requests)
	if err == nil {
		err = t.db.keepLeave(ctx, conn, s, t.route)
	}
	if err != nil {
		return nil, false, err
	}
	var batch pgconn.Batch
	begin, enter := s.own(t.begin), s.enter(t.db, t.route)
	begin.queue(&batch)
	enter.queue(&batch)
	for i := range fitted {
		fitted[i].queue(&batch)
	}
	results := conn.PgConn().ExecBatch(ctx, &batch)
	for range 2 {
		if err := nextAnswer(results); err != nil {
			results.Close()
			err = t.db.entering(conn, s, t.route, err)
			undo(ctx, conn)
			return nil, false, err
		}
	}
	t.lease, t.session = l, s
	return &exchange{tx: t, fitted: fitted, results: results}, false, nil
}

// undo rolls back what enter refused, so that a tenant's move doesn't cost a
// connection for each of its calls.
func undo(ctx context.Context, conn *pgx.Conn) {
	if conn.IsClosed() || conn.PgConn().TxStatus() == 'I' {
		return
	}
	detached, cancel := detach(ctx)
	defer cancel()
	conn.Exec(detached, "rollback") // what fails here costs the connection, no more
}

// failed notes what is known of a transaction that didn't begin, which decides
// what the next call may do.
func (t *lazyTx) failed(err error, lost bool) {
	switch {
	case errors.Is(err, ErrTampered):
		t.err = err
		t.closed = true
	case lost:
		t.aborted = err
	case sqlState(err) != "":
		t.aborted = errAborted
	}
}

// open begins the transaction on its own, for what can't travel in a batch.
func (t *lazyTx) open(ctx context.Context) error {
	if err := t.ready(); err != nil || t.lease != nil {
		return err
	}
	x, err := t.send(ctx)
	if err != nil {
		return err
	}
	return x.close()
}

// reader returns the next answer.
func (x *exchange) reader() (*pgconn.ResultReader, error) {
	if x.results.NextResult() {
		x.next++
		return x.results.ResultReader(), nil
	}
	if err := x.close(); err != nil {
		return nil, err
	}
	return nil, errNoAnswer
}

// close reads what is left of the answers and returns the first error, or the
// verdict of tampering.
func (x *exchange) close() error {
	err := x.results.Close()
	if err == nil || x.tx.lease == nil {
		return err
	}
	// The statement that failed is the one whose answer was read last, or the
	// one behind it. To describe one too many anew does no harm.
	for i := max(x.next-1, 0); i < min(x.next+1, len(x.fitted)); i++ {
		x.tx.db.failed(x.tx.session, x.tx.route, &x.fitted[i], err)
	}
	return err
}

// Query runs a statement, and with the first the transaction begins.
func (t *lazyTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	x, err := t.send(ctx, request{sql: sql, args: args})
	if err != nil {
		return failed(err), err
	}
	reader, err := x.reader()
	if err != nil {
		if tampered := t.guard(pgconn.CommandTag{}); tampered != nil {
			err = tampered
		}
		return failed(err), err
	}
	inner := pgx.RowsFromResultReader(t.conn().TypeMap(), reader)
	return &rows{Rows: inner, conn: t.conn(), done: func() error {
		if err := x.close(); err != nil {
			return err
		}
		return t.guard(inner.CommandTag())
	}}, nil
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

// CopyFrom begins the transaction and tries: PostgreSQL allows it for tables
// without row level security only.
func (t *lazyTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	if err := t.open(ctx); err != nil {
		return 0, err
	}
	n, err := t.conn().CopyFrom(ctx, table, columns, source)
	if sqlState(err) == "0A000" { // feature_not_supported
		return n, fmt.Errorf("tenancy: use BulkInsert for a protected table: %w", err)
	}
	return n, err
}

// Prepare begins the transaction and describes a statement, which has this name
// for as long as the transaction lasts: what the connection keeps would be the
// next tenant's too.
func (t *lazyTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if err := t.open(ctx); err != nil {
		return nil, err
	}
	description, err := t.conn().PgConn().Prepare(ctx, "", sql, nil)
	if err != nil {
		return nil, err
	}
	if t.names == nil {
		t.names = make(map[string]string)
	}
	t.names[name] = sql
	description.Name = name
	return description, nil
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
// has no method for. None of the guards covers what is done with it, and what the
// driver remembers of a statement there may be of another tenant's schema: pass
// [pgx.QueryExecModeExec]. It is nil if the transaction can't begin; the next call
// tells why.
func (t *lazyTx) Conn() *pgx.Conn {
	if err := t.open(t.ctx); err != nil {
		if t.aborted == nil && !t.closed {
			t.aborted = err
		}
		return nil
	}
	return t.conn()
}
