package tenancy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/internal/pgmigrate"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// MigrationTarget is one schema that an application's files are applied to.
type MigrationTarget struct {
	// Tenant is whose schema it is; zero for the schema that tenants share.
	Tenant tenant.ID

	// Schema is the name of the schema, which must exist.
	Schema string

	// DB reaches the schema's database as a role that owns the schema and may
	// write to schema mcpsaas: the owner of the database. It may lead through
	// a transaction pooler. Targets with the same DB are in the same database.
	DB MigrationDB

	// Canary has the schema migrated before those that are none. The others
	// start when every canary has succeeded.
	Canary bool
}

// MigrationDB lends connections to one database. A *pgxpool.Pool does.
type MigrationDB interface {
	// Acquire returns a connection that the caller releases.
	Acquire(ctx context.Context) (*pgxpool.Conn, error)
}

// MigrationTargets tells which schemas there are.
type MigrationTargets interface {
	// MigrationTargets returns every schema, each once.
	MigrationTargets(ctx context.Context) ([]MigrationTarget, error)
}

// MigrationTargetsFunc makes a function [MigrationTargets].
type MigrationTargetsFunc func(ctx context.Context) ([]MigrationTarget, error)

// MigrationTargets calls f.
func (f MigrationTargetsFunc) MigrationTargets(ctx context.Context) ([]MigrationTarget, error) {
	return f(ctx)
}

var (
	_ MigrationTargets = MigrationTargetsFunc(nil)
	_ MigrationDB      = (*pgxpool.Pool)(nil)
)

// MigratorOptions configure [NewMigrator]. The zero value is the default.
type MigratorOptions struct {
	// Workers is how many schemas are worked on at a time. Each takes one
	// connection, and a file outside of a transaction one more.
	// Defaults to twice the number of CPUs.
	Workers int

	// MaxFailures is the number of failed schemas at which no further ones
	// are started. Negative: there is none.
	// Defaults to 10.
	MaxFailures int

	// LockTimeout is how long a statement may wait for a lock. While it waits,
	// everybody else who wants the table waits behind it. It does not hold for
	// a file outside of a transaction.
	// Defaults to 1 s.
	LockTimeout time.Duration

	// LockAttempts is how often a file is tried that gets no lock in time, with
	// growing pauses in between, of 5 s at most.
	// Defaults to 10.
	LockAttempts int

	// Progress is called at the start of a run and after each schema, never
	// twice at once. The run waits for it.
	// Defaults to none.
	Progress func(MigrationProgress)

	// Logger gets a record per run and one per failed schema.
	// Defaults to none.
	Logger *slog.Logger
}

// Errors to branch on.
var (
	// ErrMigrationChanged means that a file that was applied to a schema is no
	// longer the same, or is gone. The error names it.
	ErrMigrationChanged = pgmigrate.ErrChanged

	// ErrMigrationOutOfOrder means that a file is older than one that was
	// applied to a schema. The error names it.
	ErrMigrationOutOfOrder = pgmigrate.ErrOutOfOrder

	// ErrMigrationBusy means that a schema's locks could not be had within
	// [MigratorOptions.LockAttempts].
	ErrMigrationBusy = pgmigrate.ErrBusy

	// ErrCanaryFailed means that a canary failed, and so the other schemas
	// were not started.
	ErrCanaryFailed = errors.New("a canary failed")

	// ErrTooManyFailures means that [MigratorOptions.MaxFailures] was reached.
	ErrTooManyFailures = errors.New("too many schemas failed")
)

// Migrator applies an application's files to many schemas: to each one every
// file once, in order, whatever happens. It is safe for concurrent use, and so
// are any number of them in any number of processes.
//
// The files are .sql files named NNN_name.sql, YYYYMMDDhhmmss_name.sql or
// NNN_name.up.sql, in the root of a file system or in its directory
// "migrations"; goose's and tern's sections are understood, and only the part
// forward is run. Names in a file that have no schema mean the schema that it
// is applied to, and reach no other. Where a name of the schema itself is
// wanted, it is written :"schema", as psql would have it.
//
// Each file runs in a transaction of its own, which holds a lock of the schema
// and records the file in mcpsaas.tenant_migrations of the same database.
//
// A file with the line "-- no-transaction" runs outside of one, statement by
// statement, because create index concurrently must. Each of its statements
// has to name :"schema", since without a transaction nothing that a pooler
// respects could say it. If the run is killed, the next one takes up at the
// statement that was cut short, after it has dropped the invalid index that a
// build may have left; any other statement there should be one that can run
// twice. Waiting for such a statement has no time-out.
type Migrator struct {
	files   []pgmigrate.File
	targets MigrationTargets
	opts    MigratorOptions
}

// NewMigrator reads the files. It does not connect.
func NewMigrator(files fs.FS, targets MigrationTargets, opts *MigratorOptions) (*Migrator, error) {
	if opts == nil {
		opts = &MigratorOptions{}
	}
	m := &Migrator{targets: targets, opts: *opts}
	var errs []error
	if files == nil {
		errs = append(errs, errors.New("files is nil"))
	}
	if targets == nil {
		errs = append(errs, errors.New("targets is nil"))
	}
	if opts.Workers < 0 {
		errs = append(errs, errors.New("MigratorOptions.Workers must not be negative"))
	}
	if opts.LockTimeout < 0 {
		errs = append(errs, errors.New("MigratorOptions.LockTimeout must not be negative"))
	}
	if opts.LockAttempts < 0 {
		errs = append(errs, errors.New("MigratorOptions.LockAttempts must not be negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("tenancy: new migrator: %w", err)
	}
	m.opts.Workers = orDefault(opts.Workers, 2*runtime.GOMAXPROCS(0))
	m.opts.MaxFailures = orDefault(opts.MaxFailures, 10)
	m.opts.LockTimeout = orDefault(opts.LockTimeout, time.Second)
	m.opts.LockAttempts = orDefault(opts.LockAttempts, 10)
	if m.opts.Logger == nil {
		m.opts.Logger = slog.New(slog.DiscardHandler)
	}
	var err error
	if m.files, err = pgmigrate.Load(files); err != nil {
		return nil, fmt.Errorf("tenancy: new migrator: %w", err)
	}
	return m, nil
}

func orDefault[T int | time.Duration](value, otherwise T) T {
	if value == 0 {
		return otherwise
	}
	return value
}

// list asks for the targets and refuses what would be migrated twice, or is
// not a tenant's.
func (m *Migrator) list(ctx context.Context) ([]MigrationTarget, error) {
	targets, err := m.targets.MigrationTargets(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the schemas: %w", redact(err))
	}
	type place struct {
		db     MigrationDB
		schema string
	}
	seen := make(map[place]bool, len(targets))
	for _, t := range targets {
		at := place{t.DB, t.Schema}
		switch {
		case t.DB == nil:
			return nil, fmt.Errorf("schema %q: MigrationTarget.DB is nil", t.Schema)
		case t.Schema == "" || t.Schema == "mcpsaas" || t.Schema == "information_schema" || strings.HasPrefix(t.Schema, "pg_"):
			return nil, fmt.Errorf("schema %q is not one for tenants' tables", t.Schema)
		case seen[at]:
			return nil, fmt.Errorf("schema %q is listed twice", t.Schema)
		}
		seen[at] = true
	}
	return targets, nil
}
