package tenancy_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
)

func TestMoveThere(t *testing.T) {
	t.Parallel()
	e := newEstate(t, shopFiles())
	e.database("big")
	id := e.tenant(tenancy.Placement{})
	other := e.tenant(tenancy.Placement{})
	e.must(id, fillShop)
	e.must(other, fillShop)
	m, err := tenancy.NewMover(e.data, &tenancy.MoverOptions{Progress: func(p tenancy.MoveProgress) { t.Log(p.Elapsed, p.State, p.Step, p.Rows, p.Changes) }})
	require.NoError(t, err)
	places := []tenancy.Placement{{Tier: tenancy.TierSchema}, {}, {Tier: tenancy.TierDatabase, Database: "big"}, {Tier: tenancy.TierSchema},
		{Tier: tenancy.TierDatabase, Database: "big"}, {}, {Tier: tenancy.TierSchema}}
	for _, to := range places {
		plan, err := m.Plan(t.Context(), id, to)
		require.NoError(t, err)
		require.Empty(t, plan.Problems)
		t.Logf("%+v", plan)
		r, err := m.Move(t.Context(), id, to)
		require.NoError(t, err)
		t.Logf("%+v", r)
		db, schema := e.at(id)
		require.Equal(t, 30, super[int](t, db, `select count(*)::int from `+schema+`.products where tenant_id = $1`, id))
	}
}
