package main

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestGrantCommands: what a tenant was given is used before Stripe is told of
// anything, and only of the rest.
func TestGrantCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.serve(nil)
	c := signUp(t, r, tenant.Pro)
	customer := mustCustomer(t, w, c.tenant)
	command := func(out any, args ...string) {
		t.Helper()
		text, err := w.command(append(args, "-json")...)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal([]byte(text), out), text)
	}
	var g pgledger.Grant
	for range 2 {
		command(&g, "billing", "grant", "add", c.tenant.String(), "3", "-actor", "ada", "-reference", "ticket 7", "-expires", "720h")
	}
	call := func(n int) {
		t.Helper()
		for range n {
			a, err := post(t.Context(), r.MCPURL, c.key, "", "1", "search_products", map[string]any{})
			require.NoError(t, err)
			require.False(t, a.isErr, a.text)
		}
	}
	call(5)
	eventually(t, "Stripe has the rest", func() bool { return w.stripe.UsageTotal(customer, unitsMeter) == 2 && w.settled(t, customer) })
	require.EqualValues(t, 5, w.produced(t, customer))
	var grants []pgledger.Grant
	command(&grants, "billing", "grant", "list", c.tenant.String())
	require.Len(t, grants, 1)
	require.Zero(t, grants[0].Remaining)
	require.Equal(t, "ada", grants[0].Actor)

	command(&g, "billing", "grant", "add", c.tenant.String(), "10", "-actor", "ada", "-kind", "prepaid")
	var revoked struct{ Revoked int64 }
	command(&revoked, "billing", "grant", "revoke", g.ID.String(), "-actor", "ada")
	require.EqualValues(t, 10, revoked.Revoked)
	call(1)
	eventually(t, "nothing covers the next call", func() bool { return w.stripe.UsageTotal(customer, unitsMeter) == 3 && w.settled(t, customer) })

	for _, bad := range [][]string{
		{"billing", "grant", "add", c.tenant.String(), "3"},
		{"billing", "grant", "add", c.tenant.String(), "0", "-actor", "ada"},
		{"billing", "grant", "add", c.tenant.String(), "3", "-actor", "ada", "-expires", "2020-01-01"},
		{"billing", "grant", "revoke", "7", "-actor", "ada"},
		{"billing", "grant", "revoke", g.ID.String()},
	} {
		_, err := w.command(bad...)
		require.ErrorIs(t, err, errUsage, "%v", bad)
	}
}
