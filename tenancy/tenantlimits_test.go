package tenancy_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// What an operator writes holds on every replica within a second, through a change
// of plan, and goes with nothing but the next write. The second is not measured
// here: each commit announces itself, upon which a replica that listens polls
// (pgfeed's TestNotified, where the next poll is an hour away), and one that
// doesn't listen polls twice a second (pgfeed's TestArguments). Mutations: with
// the limits among what PutTenant writes, the provisioner's next write of the
// tenant drops them; a write that is not announced; a directory that never listens.
func TestSetLimits(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	r := tenancy.Record{ID: tenant.NewID(), Plan: tenant.Free, Status: tenant.Active}
	b.put(t, r)
	within := func(fn func(tx pgx.Tx) error) error { return pgx.BeginFunc(ctx, b.control, fn) }
	set := func(id tenant.ID, limits ...tenant.Limit) (version int64, err error) {
		err = within(func(tx pgx.Tx) (err error) {
			version, err = tenancy.SetLimits(ctx, tx, id, limits)
			return err
		})
		return version, err
	}
	replicas := []*tenancy.Directory{b.directory(t, nil), b.directory(t, &tenancy.DirectoryOptions{PollOnly: true})}
	super := b.PoolAs(t, "postgres")
	listener, err := b.control.Acquire(ctx)
	require.NoError(t, err)
	defer func() { listener.Hijack().Close(context.Background()) }()
	_, err = listener.Exec(ctx, "listen mcpsaas_tenants")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		const sql = `select count(*) = 1 from pg_stat_activity where query = 'listen "mcpsaas_tenants"' and datname = current_database()`
		var listens bool
		require.NoError(t, super.QueryRow(ctx, sql).Scan(&listens))
		return listens
	}, time.Minute, time.Millisecond)
	known := func(want []tenant.Limit, version int64) {
		t.Helper()
		waiting, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		_, err := listener.Conn().WaitForNotification(waiting)
		require.NoError(t, err, "the write was not announced")
		for _, d := range replicas {
			require.Eventually(t, func() bool {
				got, _ := d.Lookup(r.ID)
				return got.Version == version
			}, time.Minute, time.Millisecond)
			got, _ := d.Lookup(r.ID)
			require.Equal(t, want, got.Limits)
		}
	}
	limits := []tenant.Limit{
		{Name: "hour", Units: 500},
		{Name: `spend "cap"`, Units: 1 << 40, Per: "billing", Mode: "soft"},
		{Name: "report day", Units: 7, Per: "day", Tool: "report"},
		{Name: "day", Units: tenant.Unlimited},
	}
	version, err := set(r.ID, limits...)
	require.NoError(t, err)
	known(limits, version)
	require.NoError(t, within(func(tx pgx.Tx) error {
		got, err := tenancy.LockTenant(ctx, tx, r.ID)
		require.Equal(t, limits, got.Limits)
		return err
	}))
	r.Plan = tenant.Pro
	known(limits, b.put(t, r))
	version, err = set(r.ID)
	require.NoError(t, err)
	known(nil, version)

	_, err = set(tenant.NewID())
	require.ErrorIs(t, err, tenancy.ErrUnknownTenant)
	gone := tenancy.Record{ID: tenant.NewID(), Plan: tenant.Free, Status: tenant.Deleted}
	b.put(t, gone)
	_, err = set(gone.ID, limits...)
	require.ErrorIs(t, err, tenancy.ErrDeleted)
	_, err = set(r.ID, tenant.Limit{Name: "a", Units: 1}, tenant.Limit{Name: "a", Units: 2})
	require.ErrorContains(t, err, `two limits are named "a"`)
	_, err = set(r.ID, tenant.Limit{Units: 1})
	require.ErrorContains(t, err, "no name")
	_, err = set(r.ID, make([]tenant.Limit, 21)...)
	require.ErrorContains(t, err, "more than 20")
}

// What no replica could read is not stored, whoever writes it: one row would keep
// all of them from following the table. Mutation: without the constraint, the
// first of these is taken and Lookup never sees a change again.
func TestLimitsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := tenancy.Record{ID: tenant.NewID(), Plan: tenant.Free, Status: tenant.Active}
	b.put(t, r)
	d := b.directory(t, nil)
	for _, limits := range []string{
		`{}`, `"x"`, `null`, `[1]`, `[null]`, `[{}]`, `[{"name": "x"}]`, `[{"name": 1, "units": 1}]`, `[{"name": "x", "units": "1"}]`,
		`[{"name": "x", "units": 1.5}]`, `[{"name": "x", "units": 1e30}]`, `[{"name": "x", "units": null}]`,
		`[{"name": "x", "units": 1, "per": 3}]`, `[{"name": "x", "units": 1, "mode": []}]`, `[{"name": "x", "units": 1, "tool": {}}]`,
		`[{"name": "x", "units": 1}, 7]`,
	} {
		_, err := b.control.Exec(t.Context(), `update mcpsaas.tenants set limits = $2::text::jsonb, changed = pg_current_xact_id() where id = $1`, r.ID, limits)
		require.Error(t, err, limits)
		require.True(t, strings.Contains(err.Error(), "23514") || strings.Contains(err.Error(), "23502"), "%s: %v", limits, err)
	}
	r.Plan = tenant.Pro
	b.put(t, r)
	require.NoError(t, d.Sync(t.Context()))
	got, _ := d.Lookup(r.ID)
	require.Equal(t, tenant.Pro, got.Plan)
}
