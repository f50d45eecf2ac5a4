package tenancy_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func TestEachTenantSeesItsOwn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	anna, bert := tenant.NewID(), tenant.NewID()
	b.add(t, anna, "apple")
	b.add(t, bert, "banana")
	require.Equal(t, []string{"apple"}, b.names(t, anna))
	require.Equal(t, []string{"banana"}, b.names(t, bert))
	require.Empty(t, b.names(t, tenant.NewID()))
}

func TestNoTenant(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()

	_, err := b.db.Exec(ctx, `select 1`)
	require.ErrorIs(t, err, tenant.ErrNone)
	rows, err := b.db.Query(ctx, `select 1`)
	require.ErrorIs(t, err, tenant.ErrNone)
	require.ErrorIs(t, rows.Err(), tenant.ErrNone)
	require.False(t, rows.Next())
	require.ErrorIs(t, b.db.QueryRow(ctx, `select 1`).Scan(), tenant.ErrNone)
	ran := false
	err = tenancy.TenantTx(ctx, b.db, func(context.Context, pgx.Tx) error { ran = true; return nil })
	require.ErrorIs(t, err, tenant.ErrNone)
	require.False(t, ran)

	_, err = b.db.Exec(as(ctx, tenancy.Sentinel), `select 1`)
	require.ErrorIs(t, err, tenancy.ErrUnknownTenant)
}

func TestQueryRow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	b.add(t, id, "apple")
	ctx := as(t.Context(), id)
	var name string
	require.NoError(t, b.db.QueryRow(ctx, `select name from products`).Scan(&name))
	require.Equal(t, "apple", name)
	require.ErrorIs(t, b.db.QueryRow(ctx, `select name from products where name = $1`, "x").Scan(&name), pgx.ErrNoRows)
	require.Error(t, b.db.QueryRow(ctx, `select name from products`).Scan(new(int)))
	require.Error(t, b.db.QueryRow(ctx, `select nonsense from products`).Scan(&name))
	require.NoError(t, b.db.QueryRow(ctx, `select name from products where name = @name`, pgx.NamedArgs{"name": "apple"}).Scan(&name))
	err := b.db.QueryRow(ctx, `select name from products`, pgx.QueryExecModeSimpleProtocol).Scan(&name)
	require.ErrorContains(t, err, "QueryExecMode")
	b.idle(t)
}

// A constraint that is checked at the end makes a statement that answered well
// fail after all. Mutation: dropping the error of the batch's Close makes each
// of the three report success.
func TestDeferredConstraint(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := as(t.Context(), tenant.NewID())
	const orphan = `insert into stock (product_id, amount) values (gen_random_uuid(), 1)`
	violates := func(err error) {
		t.Helper()
		failure := &pgconn.PgError{}
		require.ErrorAs(t, err, &failure)
		require.Equal(t, "23503", failure.Code)
	}
	_, err := b.db.Exec(ctx, orphan)
	violates(err)
	var amount int
	violates(b.db.QueryRow(ctx, orphan+` returning amount`).Scan(&amount))
	rows, err := b.db.Query(ctx, orphan+` returning amount`)
	require.NoError(t, err)
	_, err = pgx.CollectRows(rows, pgx.RowTo[int])
	violates(err)
	violates(tenancy.TenantTx(ctx, b.db, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, orphan)
		return err
	}))
	require.NoError(t, b.db.QueryRow(ctx, `select count(*) from stock`).Scan(&amount))
	require.Zero(t, amount)
}

// A tenant that provokes errors must not wear the pool out. Mutation: sending
// begin and commit in the batch loses a connection per error.
func TestErrorsKeepTheConnection(t *testing.T) {
	t.Parallel()
	b := setup(t)
	db := b.open(t, b.As(tenancy.AppRole), &tenancy.Options{MaxConns: 1})
	ctx := as(t.Context(), tenant.NewID())
	pid := func() (pid int) {
		require.NoError(t, db.QueryRow(ctx, `select pg_backend_pid()`).Scan(&pid))
		return pid
	}
	first := pid()
	fails := []func() error{
		func() error {
			_, err := db.Exec(ctx, `insert into stock (product_id, amount) values (gen_random_uuid(), -1)`)
			return err
		},
		func() error { _, err := db.Exec(ctx, `no sql`); return err },
		func() error { return db.QueryRow(ctx, `select 1/$1::int`, 0).Scan() },
		func() error { return db.QueryRow(ctx, `select $1::int`, "x").Scan() },
		func() error { return db.QueryRow(ctx, `select $1::int`).Scan() },
		func() error { return db.QueryRow(ctx, `select $1::int`, int64(1)<<40).Scan() },
		func() error { return db.QueryRow(ctx, `select $1::text`, "\x00").Scan() },
		func() error {
			_, err := db.Exec(ctx, `insert into products (tenant_id, name) values ($1, 'x')`, tenant.NewID())
			return err
		},
		func() error {
			return tenancy.TenantTx(ctx, db, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `no sql`)
				return err
			})
		},
		func() error {
			return tenancy.TenantTx(ctx, db, func(ctx context.Context, tx pgx.Tx) error {
				tx.Exec(ctx, `select 1/0`)
				return nil
			})
		},
	}
	for range 50 {
		for i, fail := range fails {
			require.Error(t, fail(), "case %d", i)
		}
	}
	require.Equal(t, first, pid())
}

// After a first transaction a session's setting reads as the empty string, and
// not as NULL. Mutation: a policy without NULLIF makes the reads fail with
// 22P02.
func TestContextIsEmptyOnAReusedConnection(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	b.add(t, id, "apple")
	conn := b.Conn(t, tenancy.AppRole)
	ctx := t.Context()
	for range 2 {
		tx, err := conn.Begin(ctx)
		require.NoError(t, err)
		_, err = tx.Exec(ctx, `select set_config($1, $2, true)`, tenancy.Setting, id.String())
		require.NoError(t, err)
		var n int
		require.NoError(t, tx.QueryRow(ctx, `select count(*) from products`).Scan(&n))
		require.Equal(t, 1, n)
		require.NoError(t, tx.Commit(ctx))

		require.NoError(t, conn.QueryRow(ctx, `select count(*) from products`).Scan(&n))
		require.Zero(t, n)
		_, err = conn.Exec(ctx, `insert into products (tenant_id, name) values ($1, 'x')`, id)
		failure := &pgconn.PgError{}
		require.ErrorAs(t, err, &failure)
		require.Equal(t, "42501", failure.Code)
	}
}

func TestOneShotTampering(t *testing.T) {
	t.Parallel()
	b := setup(t)
	anna, bert := tenant.NewID(), tenant.NewID()
	b.add(t, anna, "apple")
	db := b.open(t, b.As(tenancy.AppRole), &tenancy.Options{MaxConns: 1})
	ctx := as(t.Context(), bert)
	count := func() (n int, err error) {
		err = db.QueryRow(ctx, `select count(*) from products`).Scan(&n)
		return n, err
	}

	t.Run("several statements in one string", func(t *testing.T) {
		for _, args := range [][]any{nil, {1}} {
			_, err := db.Exec(ctx, `select 1; select set_config('app.current_tenant_id', 'x', false)`, args...)
			failure := &pgconn.PgError{}
			require.ErrorAs(t, err, &failure)
			require.Equal(t, "42601", failure.Code)
		}
	})
	t.Run("context set for the session", func(t *testing.T) {
		_, err := db.Exec(ctx, `select set_config($1, $2, false)`, tenancy.Setting, anna.String())
		require.NoError(t, err) // can't be seen yet
		_, err = count()
		require.ErrorIs(t, err, tenancy.ErrTampered)
		n, err := count()
		require.NoError(t, err, "the connection was replaced")
		require.Zero(t, n)
	})
	t.Run("context set for the session, then a transaction", func(t *testing.T) {
		_, err := db.Exec(ctx, `select set_config($1, $2, false)`, tenancy.Setting, anna.String())
		require.NoError(t, err)
		err = tenancy.TenantTx(ctx, db, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `select 1`)
			return err
		})
		require.ErrorIs(t, err, tenancy.ErrTampered)
		_, err = count()
		require.NoError(t, err)
	})
	// Mutation: without the condition on cursors the other tenant is given rows.
	t.Run("cursor with hold", func(t *testing.T) {
		const declare = `declare kept cursor with hold for select name from products`
		owner := as(t.Context(), anna)
		require.ErrorIs(t, inTx(owner, db, declare), tenancy.ErrTampered)
		_, err := db.Exec(owner, declare)
		require.NoError(t, err) // can't be seen yet
		_, err = db.Exec(ctx, `fetch all from kept`)
		require.ErrorIs(t, err, tenancy.ErrTampered)
		_, err = db.Exec(ctx, `fetch all from kept`)
		require.ErrorContains(t, err, "does not exist")
		_, err = count()
		require.NoError(t, err)
	})
	t.Run("begin", func(t *testing.T) {
		_, err := db.Exec(ctx, `begin`)
		require.ErrorIs(t, err, tenancy.ErrTampered)
		_, err = count()
		require.NoError(t, err)
	})
	t.Run("commit", func(t *testing.T) {
		_, err := db.Exec(ctx, `commit`)
		require.NoError(t, err) // nothing followed that it could have harmed
		n, err := count()
		require.NoError(t, err)
		require.Zero(t, n)
	})
	t.Run("deallocate", func(t *testing.T) {
		_, err := db.Exec(ctx, `deallocate all`)
		require.NoError(t, err)
		for err = errors.New("not yet"); err != nil; {
			_, err = count()
			if err != nil {
				require.ErrorIs(t, err, tenancy.ErrTampered)
			}
		}
	})
}

func TestCancelledCall(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, cancel := context.WithCancel(as(t.Context(), tenant.NewID()))
	cancel()
	_, err := b.db.Exec(ctx, `select 1`)
	require.ErrorIs(t, err, context.Canceled)
	b.idle(t)
}
