package pgstate_test

import (
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
