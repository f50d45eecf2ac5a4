package tenancy_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/tenancy"
)

// The context is read, and its signature verified, once per statement and not
// once per row, on which no index would help either. Mutation seen: each of the
// policies' expressions without the select around it.
func TestContextIsReadOnce(t *testing.T) {
	t.Parallel()
	for _, signed := range []bool{false, true} {
		b := newTiers(t)
		opts := &tenancy.Options{}
		if signed {
			opts.Signer = b.signer(t, "k1")
			require.NoError(t, tenancy.SignContext(t.Context(), b.Conn(t, devstack.OwnerRole), true))
		}
		b.owner(t, `create table `+tenancy.SchemaName(b.one[tenancy.TierSchema])+`.bare (name text)`)
		require.NoError(t, pgx.BeginFunc(t.Context(), b.Conn(t, devstack.OwnerRole), func(tx pgx.Tx) error {
			return tenancy.ProtectSchema(t.Context(), tx, b.one[tenancy.TierSchema])
		}))
		db := b.dial(t, opts)
		for tier, tables := range map[tenancy.Tier][]string{tenancy.TierShared: {"products"}, tenancy.TierSchema: {"products", "bare"}} {
			for _, table := range tables {
				for _, sql := range []string{`select from ` + table, `update ` + table + ` set name = name`, `delete from ` + table} {
					rows, err := db.Query(as(t.Context(), b.one[tier]), `explain (costs off) `+sql+` where name > 'x'`)
					require.NoError(t, err)
					plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
					require.NoError(t, err)
					require.Contains(t, strings.Join(plan, "\n"), "InitPlan", "%s: %s", tier, sql)
					for _, line := range plan {
						require.NotContains(t, line, "current_", "%s: %s", tier, sql)
					}
				}
			}
		}
	}
}
