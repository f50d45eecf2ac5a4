package tenancy_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func (b *bundle) put(t testing.TB, r tenancy.Record) int64 {
	t.Helper()
	var version int64
	err := pgx.BeginFunc(t.Context(), b.control, func(tx pgx.Tx) (err error) {
		version, err = tenancy.PutTenant(t.Context(), tx, r)
		return err
	})
	require.NoError(t, err)
	return version
}

// directory starts a directory of its own pool, as another replica would have.
func (b *bundle) directory(t testing.TB, opts *tenancy.DirectoryOptions) *tenancy.Directory {
	t.Helper()
	config, err := tenancy.ControlConfig(b.URL)
	require.NoError(t, err)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	d, err := tenancy.NewDirectory(pool, opts)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		pool.Close()
	})
	require.NoError(t, d.Ready(ctx))
	return d
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	b := setup(t)
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := tenancy.Record{ID: tenant.NewID(), Name: "Anna", Plan: tenant.Free, Status: tenant.Active,
		PeriodStart: start, PeriodEnd: start.AddDate(0, 1, 0)}
	require.EqualValues(t, 1, b.put(t, r))

	for _, test := range []struct {
		name string
		opts *tenancy.DirectoryOptions
	}{{"listening", nil}, {"polling", &tenancy.DirectoryOptions{PollOnly: true}}} {
		t.Run(test.name, func(t *testing.T) {
			d := b.directory(t, test.opts)
			require.NoError(t, d.Check(t.Context()))
			got, ok := d.Lookup(r.ID)
			require.True(t, ok)
			require.Equal(t, r.PeriodStart, got.PeriodStart)
			require.Equal(t, r.PeriodEnd, got.PeriodEnd)
			_, ok = d.Lookup(tenant.NewID())
			require.False(t, ok)

			r.Plan = tenant.Pro
			version := b.put(t, r)
			require.Eventually(t, func() bool {
				got, _ := d.Lookup(r.ID)
				return got.Plan == tenant.Pro && got.Version == version
			}, 10*time.Second, time.Millisecond)
			r.Plan = tenant.Free
			b.put(t, r)
			require.NoError(t, d.Sync(t.Context()))
			got, _ = d.Lookup(r.ID)
			require.Equal(t, tenant.Free, got.Plan, "Sync waits for what was committed")
		})
	}
}

func TestTenantsAreWritten(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	r := tenancy.Record{ID: tenant.NewID(), Plan: tenant.Free, Status: tenant.Requested}
	require.EqualValues(t, 1, b.put(t, r))
	require.EqualValues(t, 2, b.put(t, r))
	within := func(fn func(tx pgx.Tx) error) error { return pgx.BeginFunc(ctx, b.control, fn) }
	require.NoError(t, within(func(tx pgx.Tx) error {
		version, err := tenancy.SetStatus(ctx, tx, r.ID, tenant.Active)
		require.EqualValues(t, 3, version)
		return err
	}))
	require.NoError(t, within(func(tx pgx.Tx) error {
		got, err := tenancy.LockTenant(ctx, tx, r.ID)
		r.Status, r.Placement.Tier, r.Epoch = tenant.Active, tenancy.TierShared, 1
		require.Equal(t, r, got)
		return err
	}))
	require.ErrorIs(t, within(func(tx pgx.Tx) error {
		_, err := tenancy.SetStatus(ctx, tx, tenant.NewID(), tenant.Active)
		return err
	}), tenancy.ErrUnknownTenant)

	t.Run("a tombstone stays", func(t *testing.T) {
		gone := tenancy.Record{ID: tenant.NewID(), Plan: tenant.Free, Status: tenant.Deleted}
		b.put(t, gone)
		require.ErrorIs(t, within(func(tx pgx.Tx) error {
			_, err := tenancy.SetStatus(ctx, tx, gone.ID, tenant.Active)
			return err
		}), tenancy.ErrDeleted)
		gone.Status = tenant.Active
		require.ErrorIs(t, within(func(tx pgx.Tx) error {
			_, err := tenancy.PutTenant(ctx, tx, gone)
			return err
		}), tenancy.ErrDeleted)
	})
	t.Run("refused", func(t *testing.T) {
		good := tenancy.Record{ID: tenant.NewID(), Plan: tenant.Free, Status: tenant.Active}
		for want, spoil := range map[string]func(r *tenancy.Record){
			"ID is zero":  func(r *tenancy.Record) { r.ID = tenant.ID{} },
			"sentinel":    func(r *tenancy.Record) { r.ID = tenancy.Sentinel },
			"Plan":        func(r *tenancy.Record) { r.Plan = "" },
			"Status":      func(r *tenancy.Record) { r.Status = "" },
			"PeriodStart": func(r *tenancy.Record) { r.PeriodEnd = time.Now() },
			"after":       func(r *tenancy.Record) { r.PeriodEnd = time.Now(); r.PeriodStart = r.PeriodEnd },
		} {
			r := good
			spoil(&r)
			require.ErrorContains(t, within(func(tx pgx.Tx) error {
				_, err := tenancy.PutTenant(ctx, tx, r)
				return err
			}), want)
		}
	})
	t.Run("not by the application", func(t *testing.T) {
		require.ErrorContains(t, inTx(as(ctx, r.ID), b.db, `select from mcpsaas.tenants`), "permission denied")
	})
}

// With a directory, only its tenants are served, and one that was just made is
// found.
func TestOpenWithDirectory(t *testing.T) {
	t.Parallel()
	b := setup(t)
	d := b.directory(t, &tenancy.DirectoryOptions{PollOnly: true})
	db := b.open(t, b.As(tenancy.AppRole), &tenancy.Options{Directory: d})
	id := tenant.NewID()
	_, err := db.Exec(as(t.Context(), id), `select 1`)
	require.ErrorIs(t, err, tenancy.ErrUnknownTenant)
	b.put(t, tenancy.Record{ID: id, Plan: tenant.Free, Status: tenant.Provisioning})
	_, err = db.Exec(as(t.Context(), id), `select 1`)
	require.NoError(t, err)

	b.owner(t, `update mcpsaas.tenants set placement = 'database', database_ref = 'acme', changed = pg_current_xact_id()`)
	require.NoError(t, d.Sync(t.Context()))
	_, err = db.Exec(as(t.Context(), id), `select 1`)
	require.ErrorContains(t, err, `Options.Databases`, "the shared tables are not where its rows are")
}
