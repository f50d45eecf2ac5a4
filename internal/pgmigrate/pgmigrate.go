package pgmigrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrChanged is matched by the error of [Run] and [Pending] when a file that
// was applied is no longer the same, or is gone.
var ErrChanged = errors.New("an applied migration was changed")

// ErrOutOfOrder is matched by the error of [Run] and [Pending] when a file is
// older than one that was applied already: it would run on some databases
// after its successors and on others before them.
var ErrOutOfOrder = errors.New("a migration is older than one that was applied")

// Querier is what [Pending] needs of a *pgx.Conn, a *pgxpool.Pool or a pgx.Tx.
type Querier interface {
	// Query runs a statement and returns its rows.
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// lockKey serialises all migrations of a database, whatever their component:
// they create schemas and roles that they share. The number is the ASCII of
// "mcpsaas".
const lockKey = 0x6d637073616173

var componentName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// Run applies the files that component has not applied yet, in order. The
// connection must be outside a transaction, and its role must own the
// database or schema mcpsaas; the schema and the table of migrations are made
// if they are missing. A failing file is rolled back whole, the ones before it
// stay, and the error names it.
func Run(ctx context.Context, conn *pgx.Conn, component string, files fs.FS) error {
	wanted, err := prepare(component, files)
	if err != nil {
		return err
	}
	if conn.PgConn().TxStatus() != 'I' {
		return fmt.Errorf("pgmigrate: %s: the connection is in a transaction", component)
	}
	todo, err := pending(ctx, conn, component, wanted)
	if err != nil {
		return fmt.Errorf("pgmigrate: %s: %w", component, err)
	}
	for _, f := range todo {
		if err := apply(ctx, conn, component, f, wanted); err != nil {
			return fmt.Errorf("pgmigrate: %s: apply %s: %w", component, f.name, err)
		}
	}
	return nil
}

// Pending returns the names of the files that [Run] would apply, without
// applying them; none means that the database is current. It only reads, so
// that a readiness check may call it with a role that may do no more.
func Pending(ctx context.Context, db Querier, component string, files fs.FS) ([]string, error) {
	wanted, err := prepare(component, files)
	if err != nil {
		return nil, err
	}
	todo, err := pending(ctx, db, component, wanted)
	if err != nil {
		return nil, fmt.Errorf("pgmigrate: %s: %w", component, err)
	}
	var names []string
	for _, f := range todo {
		names = append(names, f.name)
	}
	return names, nil
}

func prepare(component string, files fs.FS) ([]file, error) {
	if !componentName.MatchString(component) {
		return nil, fmt.Errorf("pgmigrate: component %q: want lower-case letters, digits and underscores", component)
	}
	wanted, err := load(files)
	if err != nil {
		return nil, fmt.Errorf("pgmigrate: %s: %w", component, err)
	}
	return wanted, nil
}

// pending compares what was applied with what is wanted.
func pending(ctx context.Context, db Querier, component string, wanted []file) ([]file, error) {
	applied, err := appliedFiles(ctx, db, component)
	if err != nil {
		return nil, err
	}
	newest := 0
	for version := range applied {
		newest = max(newest, version)
	}
	known := make(map[int]bool, len(wanted))
	var todo []file
	for _, f := range wanted {
		known[f.version] = true
		got, ok := applied[f.version]
		switch {
		case !ok && f.version < newest:
			return nil, fmt.Errorf("%s, newest applied version %d: %w", f.name, newest, ErrOutOfOrder)
		case !ok:
			todo = append(todo, f)
		case got.checksum != f.checksum:
			return nil, fmt.Errorf("%s differs from %s, applied %s: %w",
				f.name, got.name, got.at.UTC().Format(time.RFC3339), ErrChanged)
		}
	}
	last := wanted[len(wanted)-1].version
	for version, got := range applied {
		if version < last && !known[version] {
			return nil, fmt.Errorf("%s is missing: %w", got.name, ErrChanged)
		}
	}
	return todo, nil
}

// appliedRow is one row of mcpsaas.schema_migrations.
type appliedRow struct {
	name, checksum string
	at             time.Time
}

const tableExists = `select to_regclass('mcpsaas.schema_migrations') is not null`

const selectApplied = `
select version, name, checksum, applied_at
from mcpsaas.schema_migrations
where component = $1`

func appliedFiles(ctx context.Context, db Querier, component string) (map[int]appliedRow, error) {
	rows, err := db.Query(ctx, tableExists)
	if err != nil {
		return nil, fmt.Errorf("look for the table of migrations: %w", err)
	}
	exists, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[bool])
	if err != nil {
		return nil, fmt.Errorf("look for the table of migrations: %w", err)
	}
	applied := make(map[int]appliedRow)
	if !exists {
		return applied, nil
	}
	rows, err = db.Query(ctx, selectApplied, component)
	if err != nil {
		return nil, fmt.Errorf("read the table of migrations: %w", err)
	}
	var version int
	var row appliedRow
	_, err = pgx.ForEachRow(rows, []any{&version, &row.name, &row.checksum, &row.at}, func() error {
		applied[version] = row
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the table of migrations: %w", err)
	}
	return applied, nil
}

const createTable = `
create schema if not exists mcpsaas;
create table if not exists mcpsaas.schema_migrations (
	component  text        not null,
	version    int         not null,
	name       text        not null,
	checksum   text        not null,
	applied_at timestamptz not null default clock_timestamp(),
	primary key (component, version)
)`

const insertApplied = `
insert into mcpsaas.schema_migrations (component, version, name, checksum)
values ($1, $2, $3, $4)`

// apply runs one file, unless someone else did while we waited for the lock.
func apply(ctx context.Context, conn *pgx.Conn, component string, f file, wanted []file) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockKey)); err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		// "if not exists" notices would be all that a second run logs.
		if _, err := tx.Exec(ctx, `set local client_min_messages = warning`); err != nil {
			return err
		}
		if err := script(ctx, conn, createTable); err != nil {
			return fmt.Errorf("create the table of migrations: %w", err)
		}
		todo, err := pending(ctx, tx, component, wanted)
		if err != nil {
			return err
		}
		if len(todo) == 0 || todo[0].version > f.version {
			return nil
		}
		var before, after uint64
		if err := tx.QueryRow(ctx, transactionID).Scan(&before); err != nil {
			return err
		}
		if err := script(ctx, conn, f.sql); err != nil {
			return err
		}
		// A file that ends the transaction runs on without the lock, and a
		// part of it stays if the rest fails. What it has committed by now
		// can't be undone: the author has to know at the first run.
		if err := tx.QueryRow(ctx, transactionID).Scan(&after); err != nil {
			return err
		}
		if before != after {
			return errEndsTransaction
		}
		_, err = tx.Exec(ctx, insertApplied, component, f.version, f.name, f.checksum)
		return err
	})
}

var errEndsTransaction = errors.New("the file ends its transaction: begin, commit and rollback are not for migrations")

const transactionID = `select pg_current_xact_id()::text::bigint`

// script sends several statements at once, which only the simple protocol can.
func script(ctx context.Context, conn *pgx.Conn, sql string) error {
	_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}
