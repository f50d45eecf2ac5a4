package tenancy

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// replicaPatience bounds the wait for a connection to the replica: the
	// primary is there to be asked instead.
	replicaPatience = time.Second

	// replicaRest is how long a replica that failed is left alone.
	replicaRest = time.Second
)

// replica is the pool of a read replica of the home database. A nil one is none.
type replica struct {
	pool  *pgxpool.Pool
	until atomic.Int64 // it rests until then, in nanoseconds since 1970
}

func (r *replica) ready() bool {
	return r != nil && time.Now().UnixNano() >= r.until.Load()
}

func (r *replica) rest() { r.until.Store(time.Now().Add(replicaRest).UnixNano()) }

func (r *replica) acquire(ctx context.Context) (lease, error) {
	bounded, cancel := context.WithTimeout(ctx, replicaPatience)
	defer cancel()
	return acquireFrom(bounded, r.pool)
}

// Reader runs one-shot statements that only read, and may read what was true a
// moment ago: on [Options.Replica], if there is one and it can be had. It asks
// the primary instead if the replica is away, if the tenant was moved and the
// replica doesn't know of it yet, or if the tenant's rows are in a database of
// its own. A statement that writes is refused by either. It is safe for
// concurrent use.
type Reader struct{ db *DB }

// Reader returns the handle for reads that may be a moment old.
func (db *DB) Reader() *Reader { return &Reader{db} }

// Query is [DB.Query] for a statement that only reads.
func (r *Reader) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return r.db.query(ctx, route{readOnly: true, replica: true}, sql, args)
}

// QueryRow is [DB.QueryRow] for a statement that only reads.
func (r *Reader) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := r.Query(ctx, sql, args...)
	return row{rows}
}

// openReplica returns the replica's pool. It doesn't connect: a replica that is
// away must not keep anybody from opening the primary.
func (db *DB) openReplica(ctx context.Context, opts *Options) (*replica, error) {
	config, err := parseURL(opts.Replica)
	if err != nil {
		return nil, errors.New("Options.Replica: malformed database URL")
	}
	if opts.MaxConns > 0 {
		config.MaxConns = opts.MaxConns
		config.MinConns = min(config.MinConns, opts.MaxConns)
	}
	config.ConnConfig.DefaultQueryExecMode = db.mode
	config.AfterConnect = db.afterConnect
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, redact(err)
	}
	return &replica{pool: pool}, nil
}
