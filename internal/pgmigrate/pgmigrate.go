package pgmigrate

import (
	"context"
	"fmt"
	"io/fs"
	"regexp"

	"github.com/jackc/pgx/v5"
)

// Querier is what [Pending] needs of a *pgx.Conn, a *pgxpool.Pool or a pgx.Tx.
type Querier interface {
	// Query runs a statement and returns its rows.
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// componentLock serialises the migrations of all components of a database:
// they create schemas and roles that they share. The number is the ASCII of
// "mcpsaas".
const componentLock = 0x6d637073616173

var (
	componentName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	componentFile = regexp.MustCompile(`^[0-9]{4}_[a-z0-9_]+\.sql$`)
)

const createComponentsSQL = `
create schema if not exists mcpsaas;
create table if not exists mcpsaas.schema_migrations (
	component  text        not null,
	version    int         not null,
	name       text        not null,
	checksum   text        not null,
	applied_at timestamptz not null default clock_timestamp(),
	primary key (component, version)
)`

const readComponentSQL = `
select version::bigint, name, checksum, to_char(applied_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
from mcpsaas.schema_migrations
where component = $1`

const insertComponentSQL = `
insert into mcpsaas.schema_migrations (component, version, name, checksum)
values ($1, $2, $3, $4)`

// Run applies the files that component has not applied yet, in order. The
// connection must be outside a transaction, and its role must own the
// database or schema mcpsaas; the schema and the table of migrations are made
// if they are missing. A failing file is rolled back whole, the ones before it
// stay, and the error names it.
func Run(ctx context.Context, conn *pgx.Conn, component string, files fs.FS) error {
	wanted, err := loadComponent(component, files)
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
	l := &ledger{
		lock: componentLock, key: component,
		// "if not exists" notices would be all that a second run logs.
		settings: []string{"client_min_messages", "warning"},
		create:   createComponentsSQL, read: readComponentSQL, insert: insertComponentSQL,
	}
	for more := len(todo) > 0; more; {
		var f *File
		if f, more, err = l.step(ctx, conn, wanted); err != nil {
			if f != nil {
				return fmt.Errorf("pgmigrate: %s: apply %s: %w", component, f.Name, err)
			}
			return fmt.Errorf("pgmigrate: %s: %w", component, err)
		}
	}
	return nil
}

// Pending returns the names of the files that [Run] would apply, without
// applying them; none means that the database is current. It only reads, so
// that a readiness check may call it with a role that may do no more.
func Pending(ctx context.Context, db Querier, component string, files fs.FS) ([]string, error) {
	wanted, err := loadComponent(component, files)
	if err != nil {
		return nil, err
	}
	todo, err := pending(ctx, db, component, wanted)
	if err != nil {
		return nil, fmt.Errorf("pgmigrate: %s: %w", component, err)
	}
	var names []string
	for _, f := range todo {
		names = append(names, f.Name)
	}
	return names, nil
}

// loadComponent is stricter than [Load]: these files are our own.
func loadComponent(component string, files fs.FS) ([]File, error) {
	if !componentName.MatchString(component) {
		return nil, fmt.Errorf("pgmigrate: component %q: want lower-case letters, digits and underscores", component)
	}
	wanted, err := Load(files)
	if err != nil {
		return nil, fmt.Errorf("pgmigrate: %s: %w", component, err)
	}
	for _, f := range wanted {
		if !componentFile.MatchString(f.Name) {
			return nil, fmt.Errorf("pgmigrate: %s: file %q: want a name like 0001_name.sql", component, f.Name)
		}
		if f.statements != nil {
			return nil, fmt.Errorf("pgmigrate: %s: file %q: a component's files run in a transaction", component, f.Name)
		}
	}
	return wanted, nil
}

const componentsExistSQL = `select to_regclass('mcpsaas.schema_migrations') is not null`

func pending(ctx context.Context, db Querier, component string, wanted []File) ([]File, error) {
	rows, err := db.Query(ctx, componentsExistSQL)
	if err != nil {
		return nil, fmt.Errorf("look for the table of migrations: %w", err)
	}
	exists, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[bool])
	if err != nil {
		return nil, fmt.Errorf("look for the table of migrations: %w", err)
	}
	if !exists {
		return wanted, nil
	}
	rows, err = db.Query(ctx, readComponentSQL, component)
	if err != nil {
		return nil, fmt.Errorf("read the table of migrations: %w", err)
	}
	records, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (record, error) {
		var r record
		return r, row.Scan(&r.version, &r.name, &r.checksum, &r.at)
	})
	if err != nil {
		return nil, fmt.Errorf("read the table of migrations: %w", err)
	}
	return plan(records, wanted)
}
