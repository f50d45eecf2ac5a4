package pgstate_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/onboarding/pgstate"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestPlace: a new tenant goes where its plan says, and stays there when the
// plan changes.
//
// Mutation seen: the condition on SpecVersion removed from edit, by which Place
// is asked again.
func TestPlace(t *testing.T) {
	t.Parallel()
	w := setup(t)
	ctx := t.Context()
	var asked atomic.Int64
	store, err := pgstate.New(w.control, &pgstate.Options{Place: func(id tenant.ID, plan tenant.Plan) tenancy.Placement {
		asked.Add(1)
		p := tenancy.Placement{Tier: tenancy.DefaultTier(plan)}
		if p.Tier == tenancy.TierDatabase {
			p.Database = "db-" + id.String()
		}
		return p
	}})
	require.NoError(t, err)
	p := w.provisioner(store, nil)
	placed := func(id tenant.ID) (at string) {
		t.Helper()
		require.NoError(t, pgx.BeginFunc(ctx, w.control, func(tx pgx.Tx) error {
			r, err := tenancy.LockTenant(ctx, tx, id)
			at = r.Placement.String()
			return err
		}))
		return at
	}
	for plan, want := range map[tenant.Plan]string{
		tenant.Free: "shared", tenant.Starter: "shared", tenant.Pro: "schema", tenant.Enterprise: "database:db-",
	} {
		id := tenant.NewID()
		if plan == tenant.Enterprise {
			want += id.String()
		}
		before := asked.Load()
		require.NoError(t, p.Provision(ctx, onboarding.Request{Tenant: id, Plan: plan}))
		require.Equal(t, want, placed(id), plan)
		for _, other := range []tenant.Plan{tenant.Free, tenant.Pro, tenant.Enterprise} {
			require.NoError(t, p.Provision(ctx, onboarding.Request{Tenant: id, Plan: other}))
			require.Equal(t, want, placed(id), "%s, now %s", plan, other)
		}
		require.Equal(t, before+1, asked.Load())
	}
}

// TestPlanChanged: what follows from a plan is written with it, or the plan stays; a
// new tenant and a repetition change nothing.
//
// Mutations seen: PlanChanged called for a new tenant, and its error ignored.
func TestPlanChanged(t *testing.T) {
	t.Parallel()
	w := setup(t)
	ctx := t.Context()
	var changed []tenant.ID
	var fail error
	store, err := pgstate.New(w.control, &pgstate.Options{PlanChanged: func(ctx context.Context, tx pgx.Tx, id tenant.ID) error {
		changed = append(changed, id)
		if _, err := tenancy.SetLimits(ctx, tx, id, []tenant.Limit{{Name: "spend", Units: 7, Per: "billing", Mode: "hard"}}); err != nil {
			return err
		}
		return fail
	}})
	require.NoError(t, err)
	p := w.provisioner(store, nil)
	id := tenant.NewID()
	read := func() (r tenancy.Record) {
		t.Helper()
		require.NoError(t, pgx.BeginFunc(ctx, w.control, func(tx pgx.Tx) (err error) {
			r, err = tenancy.LockTenant(ctx, tx, id)
			return err
		}))
		return r
	}
	for range 2 {
		require.NoError(t, p.Provision(ctx, onboarding.Request{Tenant: id, Plan: tenant.Starter}))
	}
	require.Empty(t, changed)
	fail = errors.New("no cap today")
	require.ErrorIs(t, p.Provision(ctx, onboarding.Request{Tenant: id, Plan: tenant.Pro}), fail)
	require.Equal(t, tenant.Starter, read().Plan)
	require.Empty(t, read().Limits)
	fail = nil
	require.NoError(t, p.Provision(ctx, onboarding.Request{Tenant: id, Plan: tenant.Pro}))
	require.Equal(t, tenant.Pro, read().Plan)
	require.EqualValues(t, 7, read().Limits[0].Units)
	require.Equal(t, []tenant.ID{id, id}, changed)
}
