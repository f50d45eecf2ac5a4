package tenancy_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// tiers is a home database with tenants in all three tiers, and the database of
// those in the third.
type tiers struct {
	*bundle
	directory *tenancy.Directory
	other     *bundle
	one       map[tenancy.Tier]tenant.ID // a tenant of each
}

const otherRef = "other"

func newTiers(t testing.TB) *tiers {
	t.Helper()
	return tiersIn(t, setup(t))
}

// tiersIn is newTiers with this home database.
func tiersIn(t testing.TB, home *bundle) *tiers {
	t.Helper()
	b := &tiers{bundle: home, other: setup(t), one: map[tenancy.Tier]tenant.ID{}}
	b.directory = b.bundle.directory(t, &tenancy.DirectoryOptions{PollOnly: true})
	for _, tier := range []tenancy.Tier{tenancy.TierShared, tenancy.TierSchema, tenancy.TierDatabase} {
		b.one[tier] = b.settle(t, tier)
	}
	return b
}

// settle makes a tenant that lives in the tier.
func (b *tiers) settle(t testing.TB, tier tenancy.Tier) tenant.ID {
	t.Helper()
	id := tenant.NewID()
	record := tenancy.Record{ID: id, Plan: tenant.Pro, Status: tenant.Active, Placement: tenancy.Placement{Tier: tier}}
	at := b.bundle
	switch tier {
	case tenancy.TierDatabase:
		record.Placement.Database = otherRef
		at = b.other
	case tenancy.TierSchema:
		b.schema(t, id)
	}
	b.put(t, record)
	require.NoError(t, b.directory.Sync(t.Context()))
	table := "tenant_marker"
	if tier == tenancy.TierSchema {
		table = pgx.Identifier{tenancy.SchemaName(id), table}.Sanitize()
	}
	conn := at.Conn(t, devstack.OwnerRole)
	_, err := conn.Exec(t.Context(), `select set_config($1, $2, false)`, tenancy.Setting, id.String())
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `insert into `+table+` (tenant_id) values ($1) on conflict do nothing`, id)
	require.NoError(t, err)
	return id
}

// schema makes a schema of the tenant's own, with the tables of the shop.
func (b *tiers) schema(t testing.TB, id tenant.ID) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), b.Conn(t, devstack.OwnerRole), func(tx pgx.Tx) error {
		if err := tenancy.CreateSchema(t.Context(), tx, id); err != nil {
			return err
		}
		name := tenancy.SchemaName(id)
		for _, sql := range []string{
			`create table ` + name + `.products (like public.products including all)`,
			`create table ` + name + `.stock (like public.stock including all,
				foreign key (tenant_id, product_id) references ` + name + `.products (tenant_id, id) deferrable initially deferred)`,
		} {
			if _, err := tx.Exec(t.Context(), sql); err != nil {
				return err
			}
		}
		return tenancy.ProtectSchema(t.Context(), tx, id)
	})
	require.NoError(t, err)
}

// appURL leads to the database where tenants of the tier live.
func (b *tiers) appURL(tier tenancy.Tier) string {
	if tier == tenancy.TierDatabase {
		return b.other.As(tenancy.AppRole)
	}
	return b.As(tenancy.AppRole)
}

// dial opens a handle that reaches all three tiers.
func (b *tiers) dial(t testing.TB, opts *tenancy.Options) *tenancy.DB {
	t.Helper()
	return b.dialBy(t, tenancy.TierShared, b.As(tenancy.AppRole), opts)
}

// dialBy is dial, where url leads to the database of the tier.
func (b *tiers) dialBy(t testing.TB, tier tenancy.Tier, url string, opts *tenancy.Options) *tenancy.DB {
	t.Helper()
	home, other := url, b.appURL(tenancy.TierDatabase)
	if tier == tenancy.TierDatabase {
		home, other = b.As(tenancy.AppRole), url
	}
	// The handle's own says how statements are run everywhere.
	if _, mode, ok := strings.Cut(url, "default_query_exec_mode="); ok && tier == tenancy.TierDatabase {
		home = withMode(home, mode)
	}
	o := tenancy.Options{}
	if opts != nil {
		o = *opts
	}
	o.Directory = b.directory
	o.Databases = &tenancy.DatabasesOptions{
		Resolver: tenancy.ResolverFunc(func(context.Context, string) (string, error) { return other, nil }),
	}
	if o.MaxConns > 0 { // a third more
		o.Databases.MaxConns = max(1, int(o.MaxConns)/3)
		o.Databases.MaxConnsPerTenant = o.Databases.MaxConns
	}
	return b.open(t, home, &o)
}

// withMode has a URL say how statements are run.
func withMode(url, mode string) string {
	separator := "?"
	if strings.Contains(url, "?") {
		separator = "&"
	}
	return url + separator + "default_query_exec_mode=" + mode
}
