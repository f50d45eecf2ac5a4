package tenancytest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenancytest"
)

// The database of these tests has one thing that [tenancytest.Isolation] can't
// know to be wrong, since it guesses no keys. Mutations: without the loop over
// the findings, or with it over errors alone, the first fails.
func TestAudited(t *testing.T) {
	t.Parallel()
	d := devtest.DB(t, template)
	pool := d.Pool(t)
	r := &recorder{ctx: t.Context()}
	tenancytest.Audited(r, pool, nil)
	require.Equal(t, []string{"TEN203"}, r.classes())
	require.Contains(t, r.findings[0], `mend: alter table "public"."products"`)

	clean := &recorder{ctx: t.Context()}
	opts := &tenancy.AuditOptions{Allow: []tenancy.Allowance{{Rule: "TEN203", Object: "public.products.products_pkey", Reason: "uuids aren't guessed"}}}
	tenancytest.Audited(clean, pool, opts)
	require.Empty(t, clean.findings)

	_, err := pool.Exec(t.Context(), `drop table orders, products, tenant_config, tenant_marker`)
	require.NoError(t, err)
	nothing := &recorder{ctx: t.Context()}
	tenancytest.Audited(nothing, pool, nil)
	require.Equal(t, []string{"unproved", "TEN508", "TEN508"}, nothing.classes())

	other := devtest.DB(t, devtest.Template{Name: "empty"})
	failed := &recorder{ctx: t.Context()}
	tenancytest.Audited(failed, other.Pool(t), &tenancy.AuditOptions{Roles: []string{"nobody_at_all"}})
	require.Equal(t, []string{"unproved"}, failed.classes())
}
