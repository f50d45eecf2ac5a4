package pgledger_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func TestCap(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	_, err := b.Cap(t.Context(), id)
	require.ErrorIs(t, err, pgledger.ErrNotFound)
	for _, c := range []pgledger.Cap{
		{Tenant: id, Amount: 5000, Actor: "ada"},
		{Tenant: id, Amount: 100, Soft: true, Actor: "bob", Reason: "asked for it"},
	} {
		require.NoError(t, b.SetCap(t.Context(), c))
		c.SetAt = b.clock.Now()
		got, err := b.Cap(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, c, got)
	}
	for range 2 {
		require.NoError(t, b.SetCap(t.Context(), pgledger.Cap{Tenant: id, Actor: "ada"}))
		_, err = b.Cap(t.Context(), id)
		require.ErrorIs(t, err, pgledger.ErrNotFound)
	}
	for _, bad := range []pgledger.Cap{{Amount: 1, Actor: "ada"}, {Tenant: id, Amount: -1, Actor: "ada"}, {Tenant: id, Amount: 1}} {
		require.Error(t, b.SetCap(t.Context(), bad))
	}
}
