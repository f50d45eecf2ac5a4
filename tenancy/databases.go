package tenancy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgbudget"
)

// DatabasesOptions configure how tenants are reached that have connections to
// themselves: those of [TierDatabase], and those of [TierSchema] if wanted. All
// of them share one budget of connections, which is apart from the home
// database's. The zero value is the default.
//
// Connections are opened when they are needed, and closed in favour of other
// tenants when the budget is spent: those that have been idle for longest, never
// one in use. A call waits if all are in use, its tenant's turn comes, and nobody
// is waited for who hasn't come yet. A database that can't be reached delays
// nobody else. Each database's role is checked as [Open] checks that of the home
// database, when its first connection is opened.
type DatabasesOptions struct {
	// Resolver finds the databases of TierDatabase, by URLs that log in as the
	// application's role. What it finds is asked for whenever a connection is
	// opened: wrap one that is slow in [NewCachedResolver].
	// Defaults to none: such tenants are out of reach.
	Resolver Resolver

	// SchemaPools gives each tenant of TierSchema connections of its own as well,
	// rather than those of the home database's pool. The server keeps what it
	// knows of each table that a connection has met, some 0.14 MB for five
	// tables: a thousand tenants on each of 20 shared connections come to
	// gigabytes. And a tenant that is busy takes MaxConnsPerTenant of them at
	// most. Against it: a tenant that wasn't seen for a while waits for a
	// connection to be opened. Nothing else differs: role and search_path are
	// those of the transaction, not of the connection.
	SchemaPools bool

	// MaxConns is the budget: the greatest number of connections to all these
	// places together.
	// Defaults to 50.
	MaxConns int

	// MaxConnsPerTenant is the greatest number of connections to one database,
	// or of one schema's.
	// Defaults to 4, and is never more than MaxConns.
	MaxConnsPerTenant int

	// MaxPools is how many databases and schemas are kept track of, with their
	// connections; beyond it, the one that was least recently used is dropped.
	// Defaults to 200.
	MaxPools int

	// IdleTTL is how long one is kept that nobody uses. Its connections are
	// closed after 5 minutes already.
	// Defaults to 30 minutes.
	IdleTTL time.Duration

	// MaxWait is how long a call waits for a connection before it fails with
	// [ErrPoolExhausted].
	// Defaults to 30 seconds.
	MaxWait time.Duration
}

// DatabaseStats is a snapshot of what [DatabasesOptions] configure. Counters
// count since [Open].
type DatabaseStats struct {
	MaxConns int // the budget
	Conns    int // open, being opened or being closed: never more than MaxConns
	InUse    int // taken by a call
	Idle     int // open, and taken by none
	Pools    int // databases and schemas that are kept track of
	Waiting  int // calls that wait for a connection

	Opened  int64 // connections
	Evicted int64 // connections closed in favour of another tenant
	Dropped int64 // databases and schemas dropped: not used for long, or one too many
	Refused int64 // calls that failed with ErrPoolExhausted

	Waits  int64         // calls that had to wait, for whatever reason
	Waited time.Duration // the sum of that

	// Starved is the sum of the time that calls waited because the budget was
	// spent: neither for a connection that was being opened, nor because their
	// own tenant had as many as it may. Its growth by a second in a second is one
	// call that always waits.
	Starved time.Duration
}

// DatabaseStats returns a snapshot of what [Options.Databases] configures, zero
// if it wasn't set.
func (db *DB) DatabaseStats() DatabaseStats {
	if db.tenants == nil {
		return DatabaseStats{}
	}
	return DatabaseStats(db.tenants.budget.Stats())
}

// tenantPools lend connections to places of tenants' own.
type tenantPools struct {
	budget   *pgbudget.Budget
	resolver Resolver // nil if there is none
	schemas  bool
	home     *pgx.ConnConfig
}

// A pool's key is one of these, and the reference or the schema.
const (
	databaseKey = "database:"
	schemaKey   = "schema:"
)

// openTenants returns the pools of tenants. It doesn't connect.
func (db *DB) openTenants(home *pgx.ConnConfig, opts *DatabasesOptions) (*tenantPools, error) {
	var errs []error
	for _, option := range []struct {
		name  string
		value int64
	}{
		{"MaxConns", int64(opts.MaxConns)}, {"MaxConnsPerTenant", int64(opts.MaxConnsPerTenant)}, {"MaxPools", int64(opts.MaxPools)},
		{"IdleTTL", int64(opts.IdleTTL)}, {"MaxWait", int64(opts.MaxWait)},
	} {
		if option.value < 0 {
			errs = append(errs, fmt.Errorf("DatabasesOptions.%s must not be negative", option.name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p := &tenantPools{resolver: opts.Resolver, schemas: opts.SchemaPools, home: home}
	var err error
	p.budget, err = pgbudget.Open(p.config, &pgbudget.Options{
		MaxConns: opts.MaxConns, MaxConnsPerPool: opts.MaxConnsPerTenant, MaxPools: opts.MaxPools,
		PoolTTL: opts.IdleTTL, MaxWait: opts.MaxWait,
		AfterConnect: db.afterConnect,
		Verify:       db.verifyDatabase,
	})
	return p, err
}

// verifyDatabase refuses a database where row level security doesn't bind the
// role, or that doesn't accept the signature. The home database was looked at by
// Open.
func (db *DB) verifyDatabase(ctx context.Context, key string, conn *pgx.Conn) error {
	if !strings.HasPrefix(key, databaseKey) {
		return nil
	}
	if err := checkRole(ctx, conn); err != nil {
		return err
	}
	return checkSigner(ctx, conn, db.signer)
}

// config returns how to reach what a key stands for.
func (p *tenantPools) config(ctx context.Context, key string, refused bool) (*pgx.ConnConfig, error) {
	ref, ok := strings.CutPrefix(key, databaseKey)
	if !ok {
		return p.home.Copy(), nil
	}
	if f, ok := p.resolver.(forgetter); ok && refused {
		f.Forget(ref)
	}
	url, err := resolve(ctx, p.resolver, ref)
	if err != nil {
		return nil, err
	}
	config, err := parseURL(url)
	if err != nil {
		return nil, &ResolveError{Ref: ref, Reason: err.Error()}
	}
	config.ConnConfig.DefaultQueryExecMode = unnamed(p.home.DefaultQueryExecMode)
	return config.ConnConfig, nil
}

// acquire takes a connection to the database of this reference.
func (p *tenantPools) acquire(ctx context.Context, ref string) (lease, error) {
	if p.resolver == nil {
		return nil, &ResolveError{Ref: ref, Reason: "Options.Databases has no Resolver"}
	}
	conn, err := p.budget.Acquire(ctx, databaseKey+ref)
	if err != nil {
		if known, ok := errors.AsType[*ResolveError](err); ok {
			return nil, known
		}
		return nil, fmt.Errorf("%w %q: %w", ErrDatabaseUnavailable, ref, opening(err))
	}
	return conn, nil
}

// acquireSchema takes one of the connections that are kept for a schema.
func (p *tenantPools) acquireSchema(ctx context.Context, schema string) (lease, error) {
	conn, err := p.budget.Acquire(ctx, schemaKey+schema)
	if err != nil {
		return nil, opening(err)
	}
	return conn, nil
}

// opening makes an error of a connection that couldn't be had fit to be shown.
func opening(err error) error {
	if errors.Is(err, pgbudget.ErrExhausted) {
		return ErrPoolExhausted
	}
	return redact(err)
}
