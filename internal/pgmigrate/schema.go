package pgmigrate

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrBusy is matched by errors that say that something else held a lock for
// too long: trying again later is all there is to do.
var ErrBusy = errors.New("another session is in the way")

// Acquirer lends connections; a *pgxpool.Pool does. They may lead through a
// transaction pooler.
type Acquirer interface {
	// Acquire returns a connection that the caller releases.
	Acquire(ctx context.Context) (*pgxpool.Conn, error)
}

// Schema is one schema that files are applied to. What was applied is recorded
// in mcpsaas.tenant_migrations of the same database.
type Schema struct {
	DB          Acquirer
	Name        string
	Tenant      string        // its id, for who reads the table; may be empty
	LockTimeout time.Duration // of each statement of a file, and of the wait for other runners
}

const readSchemaSQL = `
select version, name, checksum,
	coalesce(to_char(applied_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), ''), statements, running
from mcpsaas.tenant_migrations
where schema_name = $1`

const insertSchemaSQL = `
insert into mcpsaas.tenant_migrations as m (schema_name, version, name, checksum, tenant_id, duration, applied_at)
values ($1, $2, $3, $4, nullif($5, '')::uuid, make_interval(secs => $6::float8 / 1000), clock_timestamp())
on conflict (schema_name, version) do update set
	name = excluded.name, checksum = excluded.checksum, tenant_id = excluded.tenant_id,
	duration = excluded.duration, applied_at = excluded.applied_at, statements = 0, running = false, error = null
where m.applied_at is null`

func (s Schema) ledger() *ledger {
	return &ledger{
		lock: s.lock(), key: s.Name, schema: s.Name, pooled: true,
		settings: append(s.settings(),
			"search_path", s.path(),
			"client_min_messages", "warning"),
		read: readSchemaSQL, insert: insertSchemaSQL,
		extra: func(took time.Duration) []string { return []string{s.Tenant, milliseconds(took)} },
	}
}

// path ends with pg_temp, which is else searched first: a temporary table would
// be taken for the tenant's. It holds no other schema, so that a file can't
// reach another tenant's table, or the shared one, by a name that is missing
// in this.
func (s Schema) path() string { return pgx.Identifier{s.Name}.Sanitize() + ", pg_temp" }

func (s Schema) settings() []string {
	return []string{"lock_timeout", milliseconds(s.LockTimeout)}
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) }

// lock is the key of the schema's advisory lock. Every version of this package
// must come to the same.
func (s Schema) lock() int64 {
	h := fnv.New64a()
	h.Write([]byte("mcpsaas.tenant_migrations " + s.Name))
	return int64(h.Sum64())
}

// Step applies the next of the files that the schema has not. It returns the
// file, also if it failed, and whether more are left; no file and no error
// means that another runner has been faster. After an error that matches
// [ErrBusy] it is worth to try again.
func (s Schema) Step(ctx context.Context, files []File) (f *File, more bool, err error) {
	f, more, err = s.step(ctx, files)
	if err == nil && f != nil && f.statements != nil {
		var ran bool
		if ran, err = s.stepLoose(ctx, files, f); err == nil && !ran {
			f = nil
		}
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && (pg.Code == "55P03" || pg.Code == "40P01") {
		err = fmt.Errorf("%w: %w", ErrBusy, err) // lock_not_available, deadlock_detected
	}
	return f, more, ledgerMissing(err)
}

// ledgerMissing explains an error whose cause is that the package that owns the
// table has not made it yet.
func ledgerMissing(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42P01" && strings.Contains(pg.Message, "mcpsaas.tenant_migrations") {
		return fmt.Errorf("tenancy.Migrate has not run on the database: %w", err)
	}
	return err
}

func (s Schema) step(ctx context.Context, files []File) (*File, bool, error) {
	conn, err := s.DB.Acquire(ctx)
	if err != nil {
		return nil, false, err
	}
	defer conn.Release()
	f, more, err := s.ledger().step(ctx, conn.Conn(), files)
	if _, ok := errors.AsType[*fileError](err); ok && ctx.Err() == nil && !conn.Conn().IsClosed() {
		err = errors.Join(err, s.fail(ctx, conn.Conn().PgConn(), f, err))
	}
	return f, more, err
}

const failSQL = `
insert into mcpsaas.tenant_migrations as m (schema_name, version, name, checksum, tenant_id, error)
values ($1, $2, $3, $4, nullif($5, '')::uuid, $6)
on conflict (schema_name, version) do update set
	name = excluded.name, error = excluded.error, attempted_at = clock_timestamp(), running = false
where m.applied_at is null`

// fail writes down why the file failed, for who asks the table. That is how its
// statement ended: conn has lived to hear it from the server.
func (s Schema) fail(ctx context.Context, conn *pgconn.PgConn, f *File, cause error) error {
	_, err := send(ctx, conn, query{failSQL, []string{
		s.Name, strconv.FormatInt(f.Version, 10), f.Name, f.Checksum, s.Tenant, cause.Error()}})
	if err != nil {
		return fmt.Errorf("record the failure: %w", err)
	}
	return nil
}

// named writes the schema's name where the file leaves it open, as psql does
// with a variable.
func named(sql, schema string) string {
	if schema == "" {
		return sql
	}
	return strings.ReplaceAll(sql, schemaVariable, pgx.Identifier{schema}.Sanitize())
}

// schemaVariable is psql's notation, so that a file can be tried there:
// psql -v schema=tenant_a -f file.sql.
const schemaVariable = `:"schema"`
