package tenancy_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func (b *bundle) data(t testing.TB, opts *tenancy.DataOptions) *tenancy.Data {
	t.Helper()
	data, err := tenancy.NewData(b.control, opts)
	require.NoError(t, err)
	return data
}

// Each row makes isolation fail in one way after a good start. Mutation: each
// case of Canary's switch that is dropped fails its row; that of policies which
// are inactive fails TestCanaryOfABypassingRole.
func TestCanary(t *testing.T) {
	t.Parallel()
	const policies = `do $$ declare p name; begin
	for p in select polname from pg_policy where polrelid = 'tenant_marker'::regclass loop
		execute format('alter policy %%I on tenant_marker using (%s)', p);
	end loop; end $$`
	const mine = `tenant_id = nullif(current_setting(''app.current_tenant_id'', true), '''')::uuid`
	for _, test := range []struct {
		want  tenancy.CanaryClass
		spoil string
	}{
		{"", ``},
		{tenancy.CanaryOpen, `alter table tenant_marker disable row level security`},
		{tenancy.CanaryOpen, fmt.Sprintf(policies, `true`)},
		{tenancy.CanarySentinel, fmt.Sprintf(policies, `nullif(current_setting(''app.current_tenant_id'', true), '''') is not null`)},
		{tenancy.CanaryForeign, fmt.Sprintf(policies, `nullif(current_setting(''app.current_tenant_id'', true), '''') is not null and tenant_id <> ''`+tenancy.Sentinel.String()+`''`)},
		{tenancy.CanaryBlind, fmt.Sprintf(policies, `false`)},
		{tenancy.CanaryBlind, fmt.Sprintf(policies, mine+` and tenant_id = ''`+tenancy.Sentinel.String()+`''`)},
		{tenancy.CanaryUnarmed, `delete from tenant_marker where tenant_id = '` + tenancy.Sentinel.String() + `'`},
	} {
		t.Run(string(test.want), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			id := tenant.NewID()
			data := b.data(t, nil)
			for _, id := range []tenant.ID{id, tenant.NewID()} {
				_, err := data.Prepare(t.Context(), id)
				require.NoError(t, err)
			}
			require.NoError(t, b.db.Canary(t.Context(), id.String()))
			if test.spoil != "" {
				b.superuser(t, test.spoil)
			}
			err := b.db.Canary(t.Context(), id.String())
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			found, ok := errors.AsType[*tenancy.CanaryError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, test.want, found.Class)
		})
	}
}

// A role that bypasses the policies is what a canary is there for.
func TestCanaryOfABypassingRole(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	_, err := b.data(t, nil).Prepare(t.Context(), id)
	require.NoError(t, err)
	role := b.role(t, "")
	db := b.open(t, b.As(role), nil)
	require.NoError(t, db.Canary(t.Context(), id.String()))
	b.superuser(t, `alter role `+role+` bypassrls`)
	require.ErrorContains(t, db.Canary(t.Context(), id.String()), string(tenancy.CanaryOpen))
	require.ErrorContains(t, db.CheckRoles(t.Context()), "bypassrls")
}

func TestCanaryArguments(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.ErrorIs(t, b.db.Canary(t.Context(), "nonsense"), tenant.ErrInvalidID)
	require.ErrorIs(t, b.db.Canary(t.Context(), tenancy.Sentinel.String()), tenancy.ErrUnknownTenant)
	require.ErrorContains(t, b.db.Canary(t.Context(), tenant.NewID().String()), string(tenancy.CanaryBlind))
}

func TestMarker(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	want, err := b.data(t, nil).Prepare(t.Context(), id)
	require.NoError(t, err)
	got, visible, err := b.db.Marker(as(t.Context(), id))
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, 1, visible)
	_, _, err = b.db.Marker(t.Context())
	require.ErrorIs(t, err, tenant.ErrNone)
	_, _, err = b.db.Marker(as(t.Context(), tenant.NewID()))
	require.ErrorContains(t, err, string(tenancy.CanaryBlind))
	require.ErrorContains(t, inTx(as(t.Context(), id), b.db, `update tenant_marker set marker = marker`), "permission denied")
}

func TestCheck(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.NoError(t, b.db.Check(t.Context()))
	require.Positive(t, b.db.Stat().TotalConns())
}
