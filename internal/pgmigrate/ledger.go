package pgmigrate

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ledger is one list of applied files: that of a component, or of a schema.
type ledger struct {
	lock     int64    // an advisory lock of whoever applies
	settings []string // names and values, for the transaction that applies
	create   string   // run under the lock, before the list is read
	schema   string   // in which the files are applied; empty: they say it themselves
	read     string   // $1: key
	insert   string   // $1 key, $2 version, $3 name, $4 checksum, then extra
	key      string
	pooled   bool // whether the connection goes back to a pool, and must not keep what a file sets
	extra    func(took time.Duration) []string
}

// query is one statement of several that travel together.
type query struct {
	sql  string
	args []string
}

// send runs the queries in one round trip, by the extended protocol and
// without named statements, which a transaction pooler would lose. It returns
// each one's rows; with an error, those of the queries before it.
func send(ctx context.Context, conn *pgconn.PgConn, queries ...query) ([][][][]byte, error) {
	batch := &pgconn.Batch{}
	for _, q := range queries {
		values := make([][]byte, len(q.args))
		for i, arg := range q.args {
			values[i] = []byte(arg)
		}
		batch.ExecParams(q.sql, values, nil, nil, nil)
	}
	results, err := conn.ExecBatch(ctx, batch).ReadAll()
	rows := make([][][][]byte, len(results))
	for i, r := range results {
		rows[i] = r.Rows
	}
	return rows, err
}

// The level is named because a snapshot taken before the lock was ours would
// not show what its last holder did.
const beginSQL = `begin isolation level read committed read write`

const lockSQL = `select pg_advisory_xact_lock($1)`

const transactionIDSQL = `select pg_current_xact_id()::text`

const schemaExistsSQL = `select from pg_namespace where nspname = $1`

// begin opens a transaction that holds the lock and returns what the ledger
// says and the transaction's id.
func (l *ledger) begin(ctx context.Context, conn *pgconn.PgConn) ([]record, string, error) {
	opening := []query{{sql: beginSQL}}
	for i := 0; i < len(l.settings); i += 2 {
		opening = append(opening, query{`select set_config($1, $2, true)`, l.settings[i : i+2]})
	}
	opening = append(opening, query{lockSQL, []string{strconv.FormatInt(l.lock, 10)}})
	if l.create != "" {
		if _, err := send(ctx, conn, opening...); err != nil {
			return nil, "", err
		}
		if _, err := conn.Exec(ctx, l.create).ReadAll(); err != nil {
			return nil, "", fmt.Errorf("create the table of migrations: %w", err)
		}
		opening = nil
	}
	opening = append(opening, query{l.read, []string{l.key}}, query{schemaExistsSQL, []string{l.schema}}, query{sql: transactionIDSQL})
	rows, err := send(ctx, conn, opening...)
	if err != nil {
		return nil, "", err
	}
	n := len(rows)
	if l.schema != "" && len(rows[n-2]) == 0 {
		// Not only for the message: what is made without naming a schema goes
		// to the first of search_path that exists, and that could be pg_temp.
		return nil, "", fmt.Errorf("no such schema")
	}
	records, err := parseRecords(rows[n-3])
	return records, string(rows[n-1][0][0]), err
}

func parseRecords(rows [][][]byte) ([]record, error) {
	records := make([]record, len(rows))
	for i, row := range rows {
		version, err := strconv.ParseInt(string(row[0]), 10, 64)
		if err != nil {
			return nil, err
		}
		records[i] = record{version: version, name: string(row[1]), checksum: string(row[2]), at: string(row[3])}
		if len(row) > 4 {
			if records[i].statements, err = strconv.Atoi(string(row[4])); err != nil {
				return nil, err
			}
			records[i].running = string(row[5]) == "t"
		}
	}
	return records, nil
}

// step applies the next file that the ledger has not, in one transaction. It
// returns the file, also when it failed, and whether more are left. A file
// that runs outside of a transaction is returned as it is, for the caller to
// run.
func (l *ledger) step(ctx context.Context, conn *pgx.Conn, wanted []File) (f *File, more bool, err error) {
	pg := conn.PgConn()
	defer func() {
		if pg.TxStatus() != 'I' {
			err = errors.Join(err, rollback(ctx, pg))
		}
	}()
	began := time.Now()
	records, xid, err := l.begin(ctx, pg)
	if err != nil {
		return nil, false, err
	}
	todo, err := plan(records, wanted)
	if err != nil || len(todo) == 0 {
		return nil, false, err
	}
	f, more = &todo[0], len(todo) > 1
	if f.statements != nil {
		return f, more, nil
	}
	if err := l.apply(ctx, pg, f, xid, began); err != nil {
		return f, more, &fileError{err}
	}
	return f, more, nil
}

// fileError is the failure of a file, as against that of getting to it.
type fileError struct{ err error }

func (e *fileError) Error() string { return e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

var errEndsTransaction = errors.New("the file ends its transaction: begin, commit and rollback are not for migrations")

func (l *ledger) apply(ctx context.Context, pg *pgconn.PgConn, f *File, xid string, began time.Time) error {
	// Several statements at once, which only the simple protocol takes.
	if _, err := pg.Exec(ctx, named(f.sql, l.schema)).ReadAll(); err != nil {
		return err
	}
	// A file that ends the transaction runs on without the lock, and a part of
	// it stays if the rest fails. What it has committed by now can't be undone:
	// the author has to know at the first run.
	if pg.TxStatus() != 'T' {
		return errEndsTransaction
	}
	var ending, closing []query
	if l.pooled {
		ending = []query{{sql: `set constraints all immediate`}, {sql: `reset role`}}
		closing = []query{{sql: `reset all`}}
	}
	args := []string{l.key, strconv.FormatInt(f.Version, 10), f.Name, f.Checksum}
	if l.extra != nil {
		args = append(args, l.extra(time.Since(began))...)
	}
	// The table of migrations may be gone with the transaction that made it:
	// the id is asked for before it is written to.
	rows, err := send(ctx, pg, append([]query{{sql: transactionIDSQL}}, append(ending, query{l.insert, args})...)...)
	if len(rows) > 0 && len(rows[0]) > 0 && string(rows[0][0][0]) != xid {
		return errEndsTransaction
	}
	if err != nil {
		return err
	}
	_, err = send(ctx, pg, append(closing, query{sql: `commit`})...)
	return err
}

// cleanupBound is how long giving a connection back may take after the
// caller's context has ended.
const cleanupBound = 5 * time.Second

// rollback is also for a caller whose context has ended. A connection on which
// it fails is of no use any more.
func rollback(ctx context.Context, conn *pgconn.PgConn) error {
	if conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupBound)
	defer cancel()
	if _, err := conn.Exec(ctx, "rollback").ReadAll(); err != nil {
		conn.Close(ctx)
		return err
	}
	return nil
}
