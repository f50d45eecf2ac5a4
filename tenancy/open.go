package tenancy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

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

	// MaxConns is the greatest number of connections to the home database, and
	// as many to its replica.
	// Defaults to pool_max_conns of the URL, or pgxpool's own default.
	MaxConns int32

	// Limits returns how long a tenant's statements may run, and wait for a lock,
	// such as by its plan. It is called for each call and must be quick. They
	// cost no round trip. TxOptions overrides them for one transaction.
	// Defaults to none but the connection's own.
	Limits func(tenant.Tenant) Limits

	// Signer signs the context of each transaction, for databases whose policies
	// want that: see [SignContext].
	// Defaults to none.
	Signer *Signer

	// Replica is the URL of a read replica of the home database, for [Reader]
	// and TxOptions.Replica. It may be away.
	// Defaults to none: the primary is asked.
	Replica string

	// Databases say how tenants are reached that have a database to themselves,
	// or connections to their schema.
	// Defaults to none: a tenant of [TierDatabase] is out of reach.
	Databases *DatabasesOptions

	// ExtensionSchemas are where a name is looked for that a tenant's own schema
	// doesn't have: those that extensions were created in, such as public. A
	// tenant's role reaches no table there, whoever has put it there.
	// Defaults to none.
	ExtensionSchemas []string

	// Logger gets a record when a connection is closed because it was tampered
	// with.
	// Defaults to none.
	Logger *slog.Logger
}

// DB runs tenants' statements. Each call takes the tenant from its context and
// has no other way to name one. It is safe for concurrent use.
type DB struct {
	pool      *pgxpool.Pool
	tenants   *tenantPools // nil if there are none
	replica   *replica
	directory *Directory
	limits    func(tenant.Tenant) Limits
	signer    *Signer
	roles     roleCheck
	log       *slog.Logger
	mode      pgx.QueryExecMode
	pathTail  string // of a search_path that begins with a tenant's own schema
	described descriptions
	queue     queueGauge
	starved   queueGauge
	patience  time.Duration // with rows that are nowhere
}

// Open connects as the application's role, usually [AppRole]. It refuses a role
// that row level security doesn't bind with a [*RoleError], which prints the
// statements that mend it.
//
// The URL is pgx's, with the parameters of pgxpool. Its
// default_query_exec_mode may be any but simple_protocol, which would let one
// string carry several statements.
//
// A pooler such as PgBouncer may stand between, in transaction mode: nothing here
// outlives a transaction. Open notices it by the number of the server's process
// and says so in the log, and no statement is prepared by a name then, because the
// next transaction may find another process: each is described once, and parsed
// each time. That takes as many round trips, and some tens of microseconds more.
// default_query_exec_mode=cache_statement, which wants statements to stay
// prepared, is refused there. PgBouncer keeps them since 1.21, with
// max_prepared_statements; it isn't told apart from one that doesn't, so
// leave the setting out there as well.
func Open(ctx context.Context, url string, opts *Options) (*DB, error) {
	if opts == nil {
		opts = &Options{}
	}
	if opts.MaxConns < 0 {
		return nil, errors.New("tenancy: open: Options.MaxConns must not be negative")
	}
	if slices.Contains(opts.ExtensionSchemas, "") {
		return nil, errors.New("tenancy: open: Options.ExtensionSchemas has an empty name")
	}
	config, err := parseURL(url)
	if err != nil {
		return nil, fmt.Errorf("tenancy: open: %w", err)
	}
	if opts.MaxConns > 0 {
		config.MaxConns = opts.MaxConns
		config.MinConns = min(config.MinConns, opts.MaxConns)
	}
	db := &DB{patience: movePatience, directory: opts.Directory, limits: opts.Limits, signer: opts.Signer, log: opts.Logger, mode: config.ConnConfig.DefaultQueryExecMode}
	db.described.kept.bound = keptDescriptions
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	for _, schema := range opts.ExtensionSchemas {
		db.pathTail += ", " + pgx.Identifier{schema}.Sanitize()
	}
	db.pathTail += ", pg_temp" // or it would be searched first
	if db.mode == pgx.QueryExecModeSimpleProtocol {
		return nil, errors.New("tenancy: open: default_query_exec_mode=simple_protocol lets one string carry several statements: choose exec")
	}
	if err := db.look(ctx, url, config.ConnConfig); err != nil {
		return nil, err
	}
	config.ConnConfig.DefaultQueryExecMode = db.mode
	config.AfterConnect = db.afterConnect
	if db.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("tenancy: open: %w", redact(err))
	}
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		db.pool.Close()
		return nil, fmt.Errorf("tenancy: open: %w", redact(err))
	}
	conn.Release()
	if opts.Replica != "" {
		if db.replica, err = db.openReplica(ctx, opts); err != nil {
			db.pool.Close()
			return nil, fmt.Errorf("tenancy: open: %w", err)
		}
	}
	if opts.Databases != nil {
		if db.tenants, err = db.openTenants(config.ConnConfig, opts.Databases); err != nil {
			db.Close()
			return nil, fmt.Errorf("tenancy: open: %w", err)
		}
	}
	return db, nil
}

// look connects once to see as whom, and whether there is a pooler.
func (db *DB) look(ctx context.Context, url string, config *pgx.ConnConfig) error {
	config = config.Copy()
	config.DefaultQueryExecMode = unnamed(config.DefaultQueryExecMode)
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("tenancy: open: %w", redact(err))
	}
	defer conn.Close(ctx)
	if err := checkRole(ctx, conn); err != nil {
		return err
	}
	if err := checkSigner(ctx, conn, db.signer); err != nil {
		return err
	}
	if err := db.noticePooler(ctx, url, conn.PgConn()); err != nil {
		return fmt.Errorf("tenancy: open: %w", redact(err))
	}
	return nil
}

// afterConnect makes a new connection fit to be used before anybody waits for
// its first statement.
func (db *DB) afterConnect(ctx context.Context, conn *pgx.Conn) error {
	_, err := db.session(ctx, conn)
	return err
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
func (db *DB) Close() {
	db.pool.Close()
	if db.replica != nil {
		db.replica.pool.Close()
	}
	if db.tenants != nil {
		db.tenants.budget.Close()
	}
}

// Stat returns a snapshot of the counters of the pool of the home database.
func (db *DB) Stat() *pgxpool.Stat { return db.pool.Stat() }

// CheckRoles returns a [*RoleError] if row level security no longer binds the
// role, on every tenants' table that it can reach: the check of the platform, as
// [DB.Canary] is that of one tenant. While nothing in the catalog has changed since
// it was last found to be right that is all it asks, which with a thousand tenants'
// schemas takes the database 40 ms; else it reads what [Audit] reads of roles,
// grants and policies, there for half a second. Run it on every probe.
func (db *DB) CheckRoles(ctx context.Context) error { return db.roles.run(ctx, db.pool) }
