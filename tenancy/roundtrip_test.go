package tenancy_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// The promise is exact, so it is counted, wherever the tenant's rows live.
// Mutations: describing a statement of a schema each time makes all of the schema's
// count a trip more; beginning the transaction on its own makes every row of
// TenantTx count one more.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	for tier, id := range b.one {
		t.Run(string(tier), func(t *testing.T) {
			t.Parallel()
			link := newProxy(t, b.appURL(tier), 0)
			testRoundTripsBy(t, b.dialBy(t, tier, link.url(), &tenancy.Options{MaxConns: 1}), link, id)
		})
	}
}

// testRoundTripsBy counts the round trips of the one connection that db has by way
// of link.
func testRoundTripsBy(t *testing.T, db *tenancy.DB, link *proxy, id tenant.ID) {
	ctx := as(t.Context(), id)

	const read = `select count(*) from products where name = $1`
	query := func(tx pgx.Tx) error {
		var n int
		return tx.QueryRow(ctx, read, "x").Scan(&n)
	}
	inTx := func(opts tenancy.TxOptions, n int) func() error {
		return func() error {
			return db.Tx(ctx, opts, func(ctx context.Context, tx pgx.Tx) error {
				for range n {
					if err := query(tx); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	oneShot := func() error {
		var n int
		return db.QueryRow(ctx, read, "x").Scan(&n)
	}
	all := tenancy.TxOptions{ReadOnly: true, IsoLevel: pgx.RepeatableRead, StatementTimeout: time.Minute, LockTimeout: time.Minute}
	// In a schema a statement is described when it is met first, and stays prepared
	// when it has been met often: each takes a trip of its own.
	var n int
	require.NoError(t, db.QueryRow(ctx, `select count(*) from stock`).Scan(&n))
	before := link.turns.Load()
	require.NoError(t, db.QueryRow(ctx, `select count(*) from stock`).Scan(&n))
	require.EqualValues(t, 1, link.turns.Load()-before, "met for the second time")
	for range 10 {
		require.NoError(t, oneShot())
		require.NoError(t, inTx(tenancy.TxOptions{}, 1)())
	}
	opened := link.opened.Load()
	for _, test := range []struct {
		name string
		want int64
		run  func() error
	}{
		{"one-shot query", 1, oneShot},
		{"one-shot exec", 1, func() error {
			_, err := db.Exec(ctx, `update products set name = name where name = $1`, "x")
			return err
		}},
		{"one-shot exec without arguments", 1, func() error {
			_, err := db.Exec(ctx, `update products set name = name`)
			return err
		}},
		{"canary", 1, func() error {
			id, _ := tenant.FromContext(ctx)
			return db.Canary(ctx, id.ID.String())
		}},
		{"transaction of none", 0, inTx(tenancy.TxOptions{}, 0)},
		{"transaction of one", 2, inTx(tenancy.TxOptions{}, 1)},
		{"transaction of five", 6, inTx(tenancy.TxOptions{}, 5)},
		{"transaction of one with every option", 2, inTx(all, 1)},
		{"transaction of a batch", 2, func() error {
			return tenancy.TenantTx(ctx, db, func(ctx context.Context, tx pgx.Tx) error {
				batch := &pgx.Batch{}
				batch.Queue(read, "x")
				batch.Queue(read, "y")
				return tx.SendBatch(ctx, batch).Close()
			})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.NoError(t, test.run()) // prepares
			before := link.turns.Load()
			require.NoError(t, test.run())
			require.Equal(t, test.want, link.turns.Load()-before)
		})
	}

	t.Run("one-shot after an error", func(t *testing.T) {
		require.NoError(t, oneShot())
		_, err := db.Exec(ctx, `insert into stock (product_id, amount) values (gen_random_uuid(), -1)`)
		require.Error(t, err)
		before := link.turns.Load()
		require.NoError(t, oneShot())
		require.EqualValues(t, 1, link.turns.Load()-before, "nothing had to be prepared again")
	})
	require.Equal(t, opened, link.opened.Load(), "one connection served all")
}
