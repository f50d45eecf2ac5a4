package tenancy_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func TestTenantTx(t *testing.T) {
	t.Parallel()
	b := setup(t)
	boom := errors.New("boom")
	for _, test := range []struct {
		name string
		fn   func(ctx context.Context, tx pgx.Tx) error
		want []string // products afterwards
		err  error
	}{
		{"commits", func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `insert into products (name) values ('a')`)
			return err
		}, []string{"a"}, nil},
		{"rolls back", func(ctx context.Context, tx pgx.Tx) error {
			tx.Exec(ctx, `insert into products (name) values ('a')`)
			return boom
		}, nil, boom},
		{"a swallowed error of the first statement", func(ctx context.Context, tx pgx.Tx) error {
			tx.Exec(ctx, `no sql`)
			_, err := tx.Exec(ctx, `insert into products (name) values ('a')`)
			failure, _ := errors.AsType[*pgconn.PgError](err)
			require.Equal(t, "25P02", failure.Code)
			return nil
		}, nil, pgx.ErrTxCommitRollback},
		{"a swallowed error of a later statement", func(ctx context.Context, tx pgx.Tx) error {
			tx.Exec(ctx, `insert into products (name) values ('a')`)
			tx.Exec(ctx, `select 1/0`)
			return nil
		}, nil, pgx.ErrTxCommitRollback},
		{"a first argument that can't be encoded", func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `insert into products (name) values ($1)`, func() {})
			require.Error(t, err)
			_, err = tx.Exec(ctx, `insert into products (name) values ($1)`, "a")
			return err
		}, []string{"a"}, nil},
		{"nested", func(ctx context.Context, tx pgx.Tx) error {
			inner, err := tx.Begin(ctx)
			require.NoError(t, err)
			_, err = inner.Exec(ctx, `insert into products (name) values ('kept')`)
			require.NoError(t, err)
			require.NoError(t, inner.Commit(ctx))
			require.ErrorIs(t, inner.Rollback(ctx), pgx.ErrTxClosed)

			inner, err = tx.Begin(ctx)
			require.NoError(t, err)
			_, err = inner.Exec(ctx, `insert into products (name) values ('dropped')`)
			require.NoError(t, err)
			_, err = inner.Exec(ctx, `select 1/0`)
			require.Error(t, err)
			require.NoError(t, inner.Rollback(ctx))
			_, err = inner.Exec(ctx, `select 1`)
			require.ErrorIs(t, err, pgx.ErrTxClosed)
			_, err = tx.Exec(ctx, `insert into products (name) values ('last')`)
			return err
		}, []string{"kept", "last"}, nil},
		{"a batch", func(ctx context.Context, tx pgx.Tx) error {
			batch := &pgx.Batch{}
			seen := 0
			batch.Queue(`insert into products (name) values ($1)`, "a")
			batch.Queue(`select count(*) from products`).QueryRow(func(row pgx.Row) error { return row.Scan(&seen) })
			require.NoError(t, tx.SendBatch(ctx, batch).Close())
			require.Equal(t, 1, seen)
			begins := &pgx.Batch{}
			begins.BeginTx(pgx.TxOptions{})
			require.Error(t, tx.SendBatch(ctx, begins).Close())
			return nil
		}, []string{"a"}, nil},
		{"early commit", func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `insert into products (name) values ('a')`)
			require.NoError(t, err)
			require.NoError(t, tx.Commit(ctx))
			return nil
		}, []string{"a"}, pgx.ErrTxClosed},
		{"early rollback", func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `insert into products (name) values ('a')`)
			require.NoError(t, err)
			require.NoError(t, tx.Rollback(ctx))
			_, err = tx.Exec(ctx, `select 1`)
			require.ErrorIs(t, err, pgx.ErrTxClosed)
			return nil
		}, nil, pgx.ErrTxClosed},
		{"prepared", func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Prepare(ctx, "put", `insert into products (name) values ($1)`)
			require.NoError(t, err)
			_, err = tx.Exec(ctx, "put", "a")
			return err
		}, []string{"a"}, nil},
		{"the connection first", func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Conn().Exec(ctx, `insert into products (name) values ('a')`)
			return err
		}, []string{"a"}, nil},
		// One that this tenant wrote, any other could read.
		{"large objects", func(ctx context.Context, tx pgx.Tx) error {
			objects := tx.LargeObjects()
			_, err := objects.Create(ctx, 0)
			require.ErrorIs(t, err, pgx.ErrTxClosed)
			_, err = tx.Exec(ctx, `insert into products (name) values ('a')`)
			require.NoError(t, err)
			objects = tx.LargeObjects()
			_, err = objects.Open(ctx, 1, pgx.LargeObjectModeRead)
			require.ErrorIs(t, err, pgx.ErrTxClosed)
			return nil
		}, []string{"a"}, nil},
		{"an option of the driver's first", func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `insert into products (name) values ('a')`, pgx.QueryExecModeExec)
			require.NoError(t, err)
			_, err = tx.Exec(ctx, `insert into products (name) values ('b')`, pgx.QueryExecModeSimpleProtocol)
			require.ErrorContains(t, err, "simple protocol")
			return nil
		}, []string{"a"}, nil},
		{"copy from", func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"products"}, []string{"name"}, pgx.CopyFromRows([][]any{{"a"}}))
			require.ErrorContains(t, err, "BulkInsert")
			return boom
		}, nil, boom},
		{"rows left open", func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Query(ctx, `select generate_series(1, 100000)`)
			require.NoError(t, err)
			return boom
		}, nil, boom},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := tenant.NewID()
			err := tenancy.TenantTx(as(t.Context(), id), b.db, test.fn)
			if test.err != nil {
				require.ErrorIs(t, err, test.err)
			} else {
				require.NoError(t, err)
			}
			require.ElementsMatch(t, test.want, b.names(t, id))
			b.idle(t)
		})
	}
}

func TestTxOptions(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := as(t.Context(), tenant.NewID())
	code := func(opts tenancy.TxOptions, sql string) string {
		err := b.db.Tx(ctx, opts, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, sql)
			return err
		})
		failure, _ := errors.AsType[*pgconn.PgError](err)
		require.NotNil(t, failure, "%v", err)
		return failure.Code
	}
	require.Equal(t, "25006", code(tenancy.TxOptions{ReadOnly: true}, `insert into products (name) values ('a')`))
	require.Equal(t, "57014", code(tenancy.TxOptions{StatementTimeout: time.Microsecond}, `select pg_sleep(60)`))
	for name, want := range map[string]string{"transaction_isolation": "serializable", "lock_timeout": "1500ms", "statement_timeout": "1min"} {
		err := b.db.Tx(ctx, tenancy.TxOptions{IsoLevel: pgx.Serializable, LockTimeout: 1500 * time.Millisecond, StatementTimeout: time.Minute},
			func(ctx context.Context, tx pgx.Tx) error {
				var got string
				require.NoError(t, tx.QueryRow(ctx, `select current_setting($1)`, name).Scan(&got))
				require.Equal(t, want, got)
				return nil
			})
		require.NoError(t, err)
		var after string
		require.NoError(t, b.db.QueryRow(ctx, `select current_setting($1)`, name).Scan(&after))
		require.NotEqual(t, want, after, "it ends with the transaction")
	}
	require.ErrorContains(t, b.db.Tx(ctx, tenancy.TxOptions{LockTimeout: -1}, nil), "LockTimeout")
	require.ErrorContains(t, b.db.Tx(ctx, tenancy.TxOptions{IsoLevel: "serializable; commit"}, nil), "IsoLevel")
}

func TestTxPanic(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	require.PanicsWithValue(t, "boom", func() {
		tenancy.TenantTx(as(t.Context(), id), b.db, func(ctx context.Context, tx pgx.Tx) error {
			tx.Exec(ctx, `insert into products (name) values ('a')`)
			panic("boom")
		})
	})
	require.Empty(t, b.names(t, id))
	b.idle(t)
}

func TestTxCancelled(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	require.Empty(t, b.names(t, id))
	connections := b.db.Stat().NewConnsCount()
	ctx, cancel := context.WithCancel(as(t.Context(), id))
	err := tenancy.TenantTx(ctx, b.db, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `insert into products (name) values ('a')`)
		require.NoError(t, err)
		cancel()
		return ctx.Err()
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, b.names(t, id))
	require.Equal(t, connections, b.db.Stat().NewConnsCount(), "rolled back although the call was over")
}

// What ends the transaction behind our back must not go unseen, in whichever tier.
// Mutation: with the leave statement gone from Commit, "rollback and chain" and
// "another tenant" aren't seen; with guard gone, "commit" and "seen although fn
// failed".
func TestTxTampering(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	db := b.dial(t, nil)
	for tier, id := range b.one {
		t.Run(string(tier), func(t *testing.T) {
			_, err := db.Exec(as(t.Context(), b.settle(t, tenancy.TierShared)), `insert into products (name) values ('apple')`)
			require.NoError(t, err)
			testTxTampering(t, db, id)
		})
	}
}

func testTxTampering(t *testing.T, db *tenancy.DB, id tenant.ID) {
	const insert = `insert into products (name) values (gen_random_uuid()::text)`
	anna := tenant.NewID()
	for _, test := range []struct {
		name string
		sql  []string
	}{
		{"commit", []string{`commit`}},
		{"rollback", []string{`rollback`}},
		{"commit and chain", []string{`commit and chain`}},
		{"rollback and chain", []string{`rollback and chain`}},
		{"a new transaction", []string{`commit`, `begin`}},
		{"an end and a statement", []string{`rollback`, `select 1`}},
		{"another tenant", []string{`select set_config('app.current_tenant_id', '` + anna.String() + `', true)`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			seen := -1
			err := tenancy.TenantTx(as(t.Context(), id), db, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, insert)
				require.NoError(t, err)
				for _, sql := range test.sql {
					tx.Exec(ctx, sql)
				}
				tx.QueryRow(ctx, `select count(*) from products where tenant_id <> $1`, id).Scan(&seen)
				return nil
			})
			require.ErrorIs(t, err, tenancy.ErrTampered)
			if test.name != "another tenant" { // what a signed context is for
				require.LessOrEqual(t, seen, 0)
			}
			idle(t, db)
		})
	}
	t.Run("seen although fn failed", func(t *testing.T) {
		boom := errors.New("boom")
		err := tenancy.TenantTx(as(t.Context(), id), db, func(ctx context.Context, tx pgx.Tx) error {
			tx.Exec(ctx, insert)
			tx.Exec(ctx, `commit`)
			return boom
		})
		require.ErrorIs(t, err, tenancy.ErrTampered)
		require.ErrorIs(t, err, boom)
	})
	t.Run("several statements in one string", func(t *testing.T) {
		err := tenancy.TenantTx(as(t.Context(), id), db, func(ctx context.Context, tx pgx.Tx) error {
			for range 2 { // with the transaction's begin, and after it
				nested, err := tx.Begin(ctx)
				require.NoError(t, err)
				_, err = nested.Exec(ctx, `select 1; commit`)
				failure := &pgconn.PgError{}
				require.ErrorAs(t, err, &failure)
				require.Equal(t, "42601", failure.Code)
				require.NoError(t, nested.Rollback(ctx))
			}
			return nil
		})
		require.NoError(t, err)
		err = tenancy.TenantTx(as(t.Context(), id), db, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `select 1; commit`)
			return err
		})
		failure := &pgconn.PgError{}
		require.ErrorAs(t, err, &failure)
		require.Equal(t, "42601", failure.Code)
	})
}
