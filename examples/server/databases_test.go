package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func TestDatabaseTier(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]databaseTier{
		"":                       {},
		"same-server":            {kind: sameServer},
		"env:TENANT":             {fromEnv, "TENANT"},
		"file:/run/secrets/dbs":  {fromFiles, "/run/secrets/dbs"},
		"file:./relative: colon": {fromFiles, "./relative: colon"},
	} {
		got, err := parseDatabaseTier(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got)
	}
	for _, bad := range []string{"same-server:x", "same", "env", "env:", "env:tenant", "env:1A", "file", "file:", "vault:x",
		"postgres://owner:hunter2@db/x", "file:\x00/hunter2"} {
		_, err := parseDatabaseTier(bad)
		require.ErrorIs(t, err, errDatabaseTier, "%q", bad)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

// TestPlaceByPlan: without databases an enterprise tenant gets a schema.
func TestPlaceByPlan(t *testing.T) {
	t.Parallel()
	id := tenant.MustParseID("de300000-0000-4000-8000-000000000004")
	const own = "database:de300000-0000-4000-8000-000000000004"
	for plan, want := range map[tenant.Plan][2]string{
		tenant.Free:       {"shared", "shared"},
		tenant.Starter:    {"shared", "shared"},
		tenant.Pro:        {"schema", "schema"},
		tenant.Enterprise: {own, "schema"},
		"none":            {"shared", "shared"},
	} {
		require.Equal(t, want[0], databaseTier{kind: sameServer}.place(id, plan).String(), plan)
		require.Equal(t, want[1], databaseTier{}.place(id, plan).String(), plan)
	}
}

func TestMoveTarget(t *testing.T) {
	t.Parallel()
	id := tenant.NewID()
	tier := databaseTier{kind: sameServer}
	for in, want := range map[string]tenancy.Placement{
		"shared":          {Tier: tenancy.TierShared},
		"schema":          {Tier: tenancy.TierSchema},
		"database":        {Tier: tenancy.TierDatabase, Database: databaseRef(id)},
		"database:eu-1-a": {Tier: tenancy.TierDatabase, Database: "eu-1-a"},
	} {
		got, err := tier.parseTarget(in, id)
		require.NoError(t, err, in)
		require.Equal(t, want, got)
	}
	for _, bad := range []string{"", "Schema", "shared:x", "schema:public", "database:", "database:postgres://a:hunter2@b/c",
		"database:../../etc", "database:a b", "database:A", "database:a_b", "database:\x00"} {
		_, err := tier.parseTarget(bad, id)
		require.ErrorIs(t, err, errUsage, "%q", bad)
		require.ErrorContains(t, err, "-to")
		require.NotContains(t, err.Error(), "hunter2")
	}
	_, err := databaseTier{}.parseTarget("database", id)
	require.ErrorIs(t, err, errUsage)
	require.ErrorContains(t, err, "TENANT_DATABASES is not set")
}
