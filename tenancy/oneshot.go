package tenancy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Query runs one statement as the tenant in ctx, in one round trip: the
// context and the statement travel together and are one transaction, which
// commits as the rows end. Close the rows, and ask their Err: an error there
// means that nothing was done, even if rows were read.
func (db *DB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	c, err := db.send(ctx, sql, args)
	if err != nil {
		return failed(err), err
	}
	inner, err := c.results.Query()
	rows := &rows{Rows: inner, done: c.finish}
	if err != nil {
		rows.Close()
		return rows, rows.Err()
	}
	return rows, nil
}

// QueryRow is [DB.Query] for at most one row. Scan must be called: it reports
// every error, and returns the connection. No row is [pgx.ErrNoRows].
func (db *DB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := db.Query(ctx, sql, args...)
	return row{rows}
}

// Exec runs one statement as the tenant in ctx, in one round trip, and returns
// after it was committed. A string of several statements is refused, with or
// without arguments.
func (db *DB) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	c, err := db.send(ctx, sql, args)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := c.results.Exec()
	// Deferred constraints are checked after the statement's own answer.
	if closeErr := c.finish(); err == nil {
		err = closeErr
	}
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return tag, nil
}

// call is a batch on its way: it owns the connection until finish.
type call struct {
	db      *DB
	conn    *pgxpool.Conn
	sql     string
	results pgx.BatchResults
	done    bool
	err     error
}

// send sends the context and the statement, and reads the context's answer.
func (db *DB) send(ctx context.Context, sql string, args []any) (*call, error) {
	if len(args) > 0 && isOption(args[0]) {
		return nil, fmt.Errorf("tenancy: %T is not supported here: use TenantTx", args[0])
	}
	id, conn, err := db.acquire(ctx)
	if err != nil {
		return nil, err
	}
	c := &call{db: db, conn: conn}
	sent := false
	defer func() {
		if !sent { // or an argument's encoder panicked
			conn.Release() // which closes a connection that is busy
		}
	}()
	if sql, args, err = db.prepare(ctx, conn.Conn(), sql, args); err != nil {
		return nil, err
	}
	c.sql = sql
	batch := &pgx.Batch{}
	batch.Queue(db.statement("mcpsaas_enter"), id.String())
	batch.Queue(sql, args...)
	c.results = conn.SendBatch(ctx, batch)
	sent = true
	if _, err := c.results.Exec(); err != nil {
		err = db.verdict(conn.Conn(), err)
		c.finish()
		return nil, err
	}
	return c, nil
}

// finish ends the batch and returns the connection. It reports what went wrong
// after the statement's own answer, and is safe to call again.
func (c *call) finish() error {
	if c.done {
		return c.err
	}
	c.done = true
	c.err = c.results.Close()
	conn := c.conn.Conn()
	if !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		c.db.condemn(conn, "a statement began a transaction")
		c.err = ErrTampered
	}
	switch {
	case sqlState(c.err) == stateNoPrepare:
		c.db.condemn(conn, "a prepared statement is gone")
	case c.err != nil:
		statementsOf(conn).failed(c.sql, c.err)
	}
	c.conn.Release()
	return c.err
}

// verdict tells a failure of our own statements from one of the caller's, and
// closes the connection if its state can't be trusted.
func (db *DB) verdict(conn *pgx.Conn, err error) error {
	if _, ok := errors.AsType[pgx.ErrPreprocessingBatch](err); ok {
		return err // the caller's statement or its arguments
	}
	switch sqlState(err) {
	case stateNullName:
		db.condemn(conn, "the context was set for the session, or a cursor was left open")
		return ErrTampered
	case stateNoPrepare:
		db.condemn(conn, "a prepared statement is gone")
		return ErrTampered
	}
	return err
}

// condemn closes a connection that was tampered with.
func (db *DB) condemn(conn *pgx.Conn, why string) {
	// The call's own context may be done, and doesn't reach the end of its rows.
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	db.log.LogAttrs(ctx, slog.LevelError, "tenant connection closed", slog.String("err", why))
	conn.Close(ctx)
}

// isOption reports whether an argument is one of the driver's options, which a
// batch would take for a value.
func isOption(arg any) bool {
	switch arg.(type) {
	case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
		return true
	}
	return false
}
