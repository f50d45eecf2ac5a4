package tenancy

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// cleanupTimeout bounds a rollback, which runs although its call was cancelled.
const cleanupTimeout = 5 * time.Second

// TenantTx runs fn in one transaction as the tenant in ctx, and commits it if fn
// returns nil. If fn returns an error, or panics, it is rolled back and the
// error, or the panic, is the caller's.
//
// The transaction begins with fn's first statement, in the same round trip: n
// statements take n+1, and none takes no connection. It runs where the tenant's
// rows live; should they be moved just then, the first statement is sent again to
// where they are now. What fn gets is a whole
// [pgx.Tx], with four differences. A string of several statements is refused
// with or without arguments. CopyFrom can't work, because PostgreSQL refuses
// COPY FROM under row level security: use [BulkInsert]. LargeObjects fails,
// because they have no such security at all. And what was done to
// the transaction behind its back, by injected SQL for one, makes it fail with
// [ErrTampered].
//
// fn must not keep the transaction, and is not run a second time.
func TenantTx(ctx context.Context, db *DB, fn func(ctx context.Context, tx pgx.Tx) error) error {
	return db.Tx(ctx, TxOptions{}, fn)
}

// TxOptions are how a transaction is to run. They cost no round trip. The zero
// value is the database's default.
type TxOptions struct {
	// ReadOnly refuses every write.
	ReadOnly bool

	// IsoLevel is the isolation level.
	// Defaults to the database's own, usually read committed.
	IsoLevel pgx.TxIsoLevel

	// Replica reads what may be a moment old, as [Reader] does, and refuses every
	// write.
	Replica bool

	// StatementTimeout limits each statement, to the millisecond.
	// Defaults to that of Options.Limits.
	StatementTimeout time.Duration

	// LockTimeout limits each wait for a lock, to the millisecond.
	// Defaults to that of Options.Limits.
	LockTimeout time.Duration
}

func (o TxOptions) validate() error {
	switch o.IsoLevel {
	case "", pgx.ReadUncommitted, pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable:
	default:
		return errors.New("tenancy: transaction: TxOptions.IsoLevel is none of pgx's")
	}
	if o.Replica && o.IsoLevel == pgx.Serializable {
		return errors.New("tenancy: transaction: a replica has no serializable transactions: choose repeatable read")
	}
	if o.StatementTimeout < 0 || o.LockTimeout < 0 {
		return errors.New("tenancy: transaction: TxOptions.StatementTimeout and TxOptions.LockTimeout must not be negative")
	}
	return nil
}

// begin returns the statement that begins the transaction.
func (o TxOptions) begin() string {
	sql := beginSQL
	if o.IsoLevel != "" {
		sql += " isolation level " + string(o.IsoLevel)
	}
	if o.ReadOnly || o.Replica {
		sql += " read only"
	}
	return sql
}

// Tx is [TenantTx] with options.
func (db *DB) Tx(ctx context.Context, opts TxOptions, fn func(ctx context.Context, tx pgx.Tx) error) error {
	if err := opts.validate(); err != nil {
		return err
	}
	want := route{replica: opts.Replica, limits: Limits{opts.StatementTimeout, opts.LockTimeout}}
	r, err := db.find(ctx, want)
	if err != nil {
		return err
	}
	t := &lazyTx{db: db, route: r, begin: opts.begin(), ctx: ctx}
	returned := false
	defer func() {
		if !returned { // fn panicked: the panic goes on after this
			t.abandon(ctx)
		}
	}()
	err = fn(ctx, t)
	returned = true
	if err != nil {
		if tampered := t.abandon(ctx); tampered != nil {
			return errors.Join(tampered, err)
		}
		return err
	}
	if err := t.Commit(ctx); err != nil {
		t.abandon(ctx)
		return err
	}
	return nil
}

// detach returns a context that outlives ctx for long enough to clean up.
func detach(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
}
