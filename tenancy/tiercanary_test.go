package tenancy_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
)

// Each fault is found where a schema's tenant would meet it. Mutations: a canary
// that asks with the tenant's own context alone, or that leaves out the shared
// tables or the schema without its role, misses one of these.
func TestCanaryInSchema(t *testing.T) {
	t.Parallel()
	sentinel := tenancy.Sentinel.String()
	for _, test := range []struct {
		name  string
		want  tenancy.CanaryClass
		spoil string // with the tenant's schema first
	}{
		{"the shared marker is open to the role", tenancy.CanarySentinel, `do $$ begin execute format('grant select on public.tenant_marker to %I', current_schema()); end $$`},
		{"and to everybody", tenancy.CanarySentinel, `grant select on public.tenant_marker to public`},
		{"the schema is open without its role", tenancy.CanaryOpen, `do $$ begin execute format('grant usage on schema %I to app_user', current_schema()); end $$;
			grant select on tenant_marker to app_user; alter table tenant_marker disable row level security`},
		{"another's row in the schema", tenancy.CanaryForeign, `alter table tenant_marker disable row level security; insert into tenant_marker values (gen_random_uuid())`},
		{"the sentinel in the schema", tenancy.CanarySentinel, `alter table tenant_marker disable row level security; insert into tenant_marker values ('` + sentinel + `')`},
		{"policies off", tenancy.CanaryInactive, `alter table tenant_marker disable row level security`},
		{"no marker", tenancy.CanaryBlind, `delete from tenant_marker`},
		{"no sentinel", tenancy.CanaryUnarmed, `delete from public.tenant_marker where tenant_id = '` + sentinel + `'`},
		{"the shared tables are open", tenancy.CanaryOpen, `alter table public.tenant_marker disable row level security`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newTiers(t)
			db := b.dial(t, nil)
			id := b.one[tenancy.TierSchema]
			require.NoError(t, db.Canary(t.Context(), id.String()))
			b.at(t, tenancy.TierSchema, test.spoil)
			err := db.Canary(t.Context(), id.String())
			found, ok := errors.AsType[*tenancy.CanaryError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, test.want, found.Class)
		})
	}
}

func TestCanaryInDatabase(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	db := b.dial(t, nil)
	id := b.one[tenancy.TierDatabase]
	require.NoError(t, db.Canary(t.Context(), id.String()))
	b.at(t, tenancy.TierDatabase, `alter table tenant_marker disable row level security`)
	require.ErrorContains(t, db.Canary(t.Context(), id.String()), string(tenancy.CanaryOpen))
	require.NoError(t, db.Canary(t.Context(), b.one[tenancy.TierShared].String()), "the home database is sound")
}

func TestMarkerInAllTiers(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	db := b.dial(t, nil)
	seen := map[string]bool{}
	b.each(t, func(t *testing.T, ctx context.Context, _ tenancy.Tier) {
		marker, visible, err := db.Marker(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, visible)
		seen[marker] = true
	})
	require.Len(t, seen, 3)
}
