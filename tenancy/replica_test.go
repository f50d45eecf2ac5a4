//go:build linux || darwin

package tenancy_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestReplica reads by a real standby, in all tiers, and by the primary whenever
// the standby isn't fit: it lags behind a change of the fence, or it is away.
// Mutations: without enter's check of the fence the lagging standby's rows are
// read after the move; without the fallback each read fails there.
func TestReplica(t *testing.T) {
	t.Parallel()
	b, replica := newReplicated(t)
	db := b.dial(t, &tenancy.Options{Replica: replica.url(tenancy.AppRole)})
	reader := db.Reader()
	const read = `select pg_is_in_recovery(), (select string_agg(name, ' ') from products)`
	// look says where a read went, and what it saw.
	oneShot := func(ctx context.Context) (standby bool, names *string) {
		t.Helper()
		require.NoError(t, reader.QueryRow(ctx, read).Scan(&standby, &names))
		return standby, names
	}
	inTx := func(ctx context.Context) (standby bool, names *string) {
		t.Helper()
		require.NoError(t, db.Tx(ctx, tenancy.TxOptions{Replica: true, IsoLevel: pgx.RepeatableRead}, func(ctx context.Context, tx pgx.Tx) error {
			return tx.QueryRow(ctx, read).Scan(&standby, &names)
		}))
		return standby, names
	}
	looks := map[string]func(context.Context) (bool, *string){"one-shot": oneShot, "transaction": inTx}
	text := func(s string) *string { return &s }

	b.each(t, func(t *testing.T, ctx context.Context, tier tenancy.Tier) {
		_, err := db.Exec(ctx, `insert into products (name) values ('mine')`)
		require.NoError(t, err)
		replica.catchUp(b)
		for range 3 {
			for name, look := range looks {
				standby, names := look(ctx)
				require.Equal(t, tier != tenancy.TierDatabase, standby, name)
				require.Equal(t, text("mine"), names, name)
			}
		}
		// No write, on the standby or on the primary.
		require.Equal(t, "25006", code(reader.QueryRow(ctx, `insert into products (name) values ('x') returning name`).Scan(new(string))))
		require.Equal(t, "25006", code(db.Tx(ctx, tenancy.TxOptions{Replica: true}, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `insert into products (name) values ('x')`)
			return err
		})))
		require.Equal(t, tier != tenancy.TierDatabase, func() bool { standby, _ := oneShot(ctx); return standby }(), "an error of the caller's own is no reason to leave the replica")
	})

	t.Run("behind a move", func(t *testing.T) {
		id := b.settle(t, tenancy.TierShared)
		ctx := as(t.Context(), id)
		_, err := db.Exec(ctx, `insert into products (name) values ('old')`)
		require.NoError(t, err)
		replica.catchUp(b)
		replica.exec(`select pg_wal_replay_pause()`)
		b.move(t, id, "new")
		require.NoError(t, b.directory.Sync(ctx))
		for name, look := range looks {
			standby, names := look(ctx)
			require.False(t, standby, name)
			require.Equal(t, text("new"), names, name)
		}
		replica.exec(`select pg_wal_replay_resume()`)
		replica.catchUp(b)
		for name, look := range looks {
			standby, names := look(ctx)
			require.True(t, standby, name)
			require.Equal(t, text("new"), names, name)
		}
	})

	// The standby knows of the move before this process does.
	t.Run("ahead of the directory", func(t *testing.T) {
		id := b.settle(t, tenancy.TierShared)
		ctx := as(t.Context(), id)
		for _, look := range looks {
			look(ctx)
		}
		b.move(t, id, "new")
		replica.catchUp(b)
		for name, look := range looks {
			_, names := look(ctx)
			require.Equal(t, text("new"), names, name)
		}
	})

	t.Run("away", func(t *testing.T) {
		ctx := as(t.Context(), b.one[tenancy.TierSchema])
		replica.stop()
		for range 10 {
			for name, look := range looks {
				standby, names := look(ctx)
				require.False(t, standby, name)
				require.Equal(t, text("mine"), names, name)
			}
		}
		require.Equal(t, "25006", code(reader.QueryRow(ctx, `insert into products (name) values ('x') returning name`).Scan(new(string))))
		b.open(t, b.As(tenancy.AppRole), &tenancy.Options{Replica: replica.url(tenancy.AppRole)}) // nor does it keep anybody from opening
		replica.start()
		require.Eventually(t, func() bool { standby, _ := oneShot(ctx); return standby }, time.Minute, 10*time.Millisecond)
	})

	t.Run("no serializable", func(t *testing.T) {
		err := db.Tx(as(t.Context(), b.one[tenancy.TierShared]), tenancy.TxOptions{Replica: true, IsoLevel: pgx.Serializable}, nil)
		require.ErrorContains(t, err, "serializable")
	})
}

// Without a replica, reads that may be old are those of the primary.
func TestReaderWithoutReplica(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	link := newProxy(t, b.As(tenancy.AppRole), 0)
	db := b.dialBy(t, tenancy.TierShared, link.url(), &tenancy.Options{MaxConns: 1})
	for _, tier := range []tenancy.Tier{tenancy.TierShared, tenancy.TierSchema} {
		ctx := as(t.Context(), b.one[tier])
		var n int
		require.NoError(t, db.Reader().QueryRow(ctx, `select count(*) from products`).Scan(&n))
		before := link.turns.Load()
		require.NoError(t, db.Reader().QueryRow(ctx, `select count(*) from products`).Scan(&n))
		require.EqualValues(t, 1, link.turns.Load()-before)
	}
	_, err := db.Reader().Query(t.Context(), `select 1`)
	require.ErrorIs(t, err, tenant.ErrNone)
	_, err = tenancy.Open(t.Context(), b.As(devstack.AppRole), &tenancy.Options{Replica: "postgres://secret@host:port/x"})
	require.ErrorContains(t, err, "Options.Replica")
	require.NotContains(t, err.Error(), "secret")
}
