package tenancy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Options configure [Open]. The zero value is the default.
type Options struct {
	// Directory tells which tenants there are and where their rows live; a
	// tenant that it doesn't know is refused with [ErrUnknownTenant].
	// Defaults to none: every tenant's rows are in the shared tables.
	Directory *Directory

	// MaxConns is the greatest number of connections.
	// Defaults to pool_max_conns of the URL, or pgxpool's own default.
	MaxConns int32

	// Logger gets a record when a connection is closed because it was tampered
	// with.
	// Defaults to none.
	Logger *slog.Logger
}

// DB runs tenants' statements. Each call takes the tenant from its context and
// has no other way to name one. It is safe for concurrent use.
type DB struct {
	pool      *pgxpool.Pool
	directory *Directory
	log       *slog.Logger
	mode      pgx.QueryExecMode
	queue     queueGauge
}

// Open connects as the application's role, usually [AppRole]. It refuses a role
// that row level security doesn't bind with a [*RoleError], which prints the
// statements that mend it.
//
// The URL is pgx's, with the parameters of pgxpool. Its
// default_query_exec_mode may be any but simple_protocol, which would let one
// string carry several statements.
func Open(ctx context.Context, url string, opts *Options) (*DB, error) {
	if opts == nil {
		opts = &Options{}
	}
	if opts.MaxConns < 0 {
		return nil, errors.New("tenancy: open: Options.MaxConns must not be negative")
	}
	config, err := parseURL(url)
	if err != nil {
		return nil, fmt.Errorf("tenancy: open: %w", err)
	}
	if opts.MaxConns > 0 {
		config.MaxConns = opts.MaxConns
		config.MinConns = min(config.MinConns, opts.MaxConns)
	}
	db := &DB{directory: opts.Directory, log: opts.Logger}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	db.mode = config.ConnConfig.DefaultQueryExecMode
	switch db.mode {
	case pgx.QueryExecModeSimpleProtocol:
		return nil, errors.New("tenancy: open: default_query_exec_mode=simple_protocol lets one string carry several statements: choose exec")
	case pgx.QueryExecModeCacheStatement:
		// The other modes are for poolers that don't keep a prepared statement
		// with the client that prepared it.
		config.AfterConnect = prepareOwn
	}
	if db.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("tenancy: open: %w", redact(err))
	}
	if err := checkRole(ctx, db.pool); err != nil {
		db.pool.Close()
		return nil, err
	}
	return db, nil
}

// ControlConfig returns the configuration of a pool that logs in as the owner
// and runs as [ControlRole], which reaches the tables of schema mcpsaas and, of
// a tenant's, no more than the policies let through.
func ControlConfig(databaseURL string) (*pgxpool.Config, error) {
	config, err := parseURL(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("tenancy: control pool: %w", err)
	}
	config.ConnConfig.RuntimeParams["role"] = ControlRole
	return config, nil
}

// parseURL keeps the driver's message to itself: it quotes the URL.
func parseURL(url string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errors.New("malformed database URL")
	}
	return config, nil
}

// Close waits until no statement is running and closes every connection.
func (db *DB) Close() { db.pool.Close() }

// Stat returns a snapshot of the pool's counters.
func (db *DB) Stat() *pgxpool.Stat { return db.pool.Stat() }

// CheckRoles returns a [*RoleError] if row level security no longer binds the
// role, on every tenants' table that it can reach: the check of the platform, as
// [DB.Canary] is that of one tenant. It reads the catalog in two round trips,
// which take the database 2 ms, and 25 ms with a thousand tables; run it on
// every probe unless there are many more.
func (db *DB) CheckRoles(ctx context.Context) error { return checkRole(ctx, db.pool) }

// route finds out who is calling and the pool that reaches the tenant's rows.
func (db *DB) route(ctx context.Context) (tenant.ID, *pgxpool.Pool, error) {
	t, ok := tenant.FromContext(ctx)
	if !ok {
		return tenant.ID{}, nil, tenant.ErrNone
	}
	if t.ID == Sentinel {
		return tenant.ID{}, nil, ErrUnknownTenant
	}
	if db.directory == nil {
		return t.ID, db.pool, nil
	}
	entry, ok := db.directory.entry(t.ID)
	if !ok {
		// It may be a moment old. Whoever got here is authenticated, so that
		// waiting for the next poll can't be used to wear the database out.
		if err := db.directory.Sync(ctx); err != nil {
			return tenant.ID{}, nil, err
		}
		if entry, ok = db.directory.entry(t.ID); !ok {
			return tenant.ID{}, nil, ErrUnknownTenant
		}
	}
	if entry.placement.Tier != TierShared {
		return tenant.ID{}, nil, fmt.Errorf("tenancy: the tenant's rows are placed in %q, which this pool doesn't reach", entry.placement.Tier)
	}
	return t.ID, db.pool, nil
}

// acquire takes a connection of the pool that reaches the tenant's rows.
func (db *DB) acquire(ctx context.Context) (tenant.ID, *pgxpool.Conn, error) {
	id, pool, err := db.route(ctx)
	if err != nil {
		return tenant.ID{}, nil, err
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return tenant.ID{}, nil, redact(err)
	}
	return id, conn, nil
}
