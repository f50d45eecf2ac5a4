package tenancy

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Query runs one statement as the tenant in ctx, in one round trip: the
// context and the statement travel together and are one transaction, which
// commits as the rows end. Close the rows, and ask their Err: an error there
// means that nothing was done, even if rows were read.
func (db *DB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return db.query(ctx, route{}, sql, args)
}

// QueryRow is [DB.Query] for at most one row. Scan must be called: it reports
// every error, and returns the connection. No row is [pgx.ErrNoRows].
func (db *DB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := db.query(ctx, route{}, sql, args)
	return row{rows}
}

// Exec runs one statement as the tenant in ctx, in one round trip, and returns
// after it was committed. A string of several statements is refused, with or
// without arguments.
func (db *DB) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	c, err := db.send(ctx, route{}, sql, args)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := c.reader.Close()
	// Deferred constraints are checked after the statement's own answer.
	if closeErr := c.finish(); closeErr != nil {
		err = closeErr
	}
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return tag, nil
}

// query is Query by a route that has what like has: see find.
func (db *DB) query(ctx context.Context, like route, sql string, args []any) (pgx.Rows, error) {
	c, err := db.send(ctx, like, sql, args)
	if err != nil {
		return failed(err), err
	}
	inner := pgx.RowsFromResultReader(c.lease.Conn().TypeMap(), c.reader)
	return &rows{Rows: inner, done: c.finish}, nil
}

// call is a batch on its way: it owns the connection until finish.
type call struct {
	db        *DB
	lease     lease
	session   *session
	route     route
	statement statement
	results   *pgconn.MultiResultReader
	reader    *pgconn.ResultReader // of the statement's own answer
	done      bool
	err       error
}

// send sends the context and the statement, and reads up to the statement's
// first row.
func (db *DB) send(ctx context.Context, like route, sql string, args []any) (*call, error) {
	if len(args) > 0 && isOption(args[0]) {
		return nil, fmt.Errorf("tenancy: %T is not supported here: use TenantTx", args[0])
	}
	r, err := db.find(ctx, like)
	if err != nil {
		return nil, err
	}
	q := request{sql: sql, args: args}
	for {
		c, err := db.attempt(ctx, r, q)
		if err == nil {
			return c, nil
		}
		if changed, ok := errors.AsType[*changedError](err); ok {
			if err = changed.error; !q.fresh {
				q.fresh = true
				continue
			}
		}
		if r, err = db.instead(ctx, r, err); err != nil {
			return nil, err
		}
	}
}

// changedError is the error of a statement that did nothing, because a table has
// changed since it was described.
type changedError struct{ error }

func (e *changedError) Unwrap() error { return e.error }

// attempt is send by one route.
func (db *DB) attempt(ctx context.Context, r route, q request) (*call, error) {
	l, s, err := db.acquire(ctx, r)
	if err != nil {
		return nil, err
	}
	c := &call{db: db, lease: l, session: s, route: r}
	sent := false
	defer func() {
		if !sent { // or an argument's encoder panicked
			l.Release()
		}
	}()
	conn := l.Conn()
	fitted, err := db.fit(ctx, conn, s, r, false, []request{q})
	if err != nil {
		return nil, err
	}
	c.statement = fitted[0]
	var batch pgconn.Batch
	enter := s.enter(db, r)
	enter.queue(&batch)
	c.statement.queue(&batch)
	c.results = conn.PgConn().ExecBatch(ctx, &batch)
	sent = true
	if err := nextAnswer(c.results); err != nil {
		c.results.Close()
		err = db.entering(conn, s, r, err)
		l.Release()
		return nil, err
	}
	if !c.results.NextResult() {
		if err := c.finish(); err != nil {
			return nil, err
		}
		return nil, errNoAnswer
	}
	c.reader = c.results.ResultReader()
	return c, nil
}

var errNoAnswer = errors.New("tenancy: the server left a statement without an answer")

// nextAnswer reads the answer to a statement of ours.
func nextAnswer(results *pgconn.MultiResultReader) error {
	if results.NextResult() {
		_, err := results.ResultReader().Close()
		return err
	}
	if err := results.Close(); err != nil {
		return err
	}
	return errNoAnswer
}

// finish ends the batch and returns the connection. It reports what went wrong
// after the statement's own answer, and is safe to call again.
func (c *call) finish() error {
	if c.done {
		return c.err
	}
	c.done = true
	c.err = c.results.Close()
	conn := c.lease.Conn()
	switch {
	case !conn.IsClosed() && conn.PgConn().TxStatus() != 'I':
		c.db.condemn(conn, c.session, "a statement began a transaction")
		c.err = ErrTampered
	case sqlState(c.err) == stateNoPrepare:
		c.db.condemn(conn, c.session, "a prepared statement is gone")
	case c.err != nil:
		if c.db.failed(c.session, c.route, &c.statement, c.err) && c.reader == nil {
			c.err = &changedError{c.err}
		}
	}
	c.lease.Release()
	return c.err
}

// isOption reports whether an argument is one of the driver's options.
func isOption(arg any) bool {
	switch arg.(type) {
	case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
		return true
	}
	return false
}
