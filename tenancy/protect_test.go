package tenancy_test

import (
	"context"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Roles belong to the cluster, so that two databases that are migrated at once
// make the same ones.
func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	empty := devtest.Template{Name: "empty"}
	one, two := devtest.DB(t, empty), devtest.DB(t, empty)
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		d := []*devtest.Database{one, two}[i%2]
		conn := d.Conn(t, devstack.OwnerRole)
		wg.Go(func() { errs[i] = tenancy.Migrate(t.Context(), conn) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	for _, d := range []*devtest.Database{one, two} {
		db, err := tenancy.Open(t.Context(), d.As(tenancy.AppRole), nil)
		require.NoError(t, err)
		db.Close()
	}
}

// What is created later is within the control role's reach in schema mcpsaas,
// and out of the application's everywhere.
func TestLaterTables(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.owner(t, `create table mcpsaas.later (id bigint generated always as identity); create table forgotten (tenant_id uuid, id int)`)
	_, err := b.control.Exec(t.Context(), `insert into mcpsaas.later default values`)
	require.NoError(t, err)
	ctx := as(t.Context(), tenant.NewID())
	for _, sql := range []string{`select from mcpsaas.later`, `select from forgotten`, `insert into forgotten (id) values (1)`, `create table mine (id int)`, `create temporary table mine (id int)`} {
		_, err := b.db.Exec(ctx, sql)
		require.ErrorContains(t, err, "permission denied", sql)
	}
	require.NoError(t, b.db.CheckRoles(t.Context()), "what can't be reached is no fault")
	_, err = b.control.Exec(t.Context(), `select from products`)
	require.NoError(t, err)
	var n int
	require.NoError(t, b.control.QueryRow(t.Context(), `select count(*) from tenant_marker`).Scan(&n))
	require.Zero(t, n, "the policies bind the control role as well")
}

func TestProtect(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	conn := b.Conn(t, devstack.OwnerRole)
	exec := func(sql string) {
		_, err := conn.Exec(ctx, sql)
		require.NoError(t, err, sql)
	}
	generation := func() (xmin string) {
		const sql = `select string_agg(p.xmin::text, ',' order by p.xmin::text) || (select xmin::text from pg_class where oid = 'products'::regclass)
from pg_policy p where polrelid = 'products'::regclass`
		require.NoError(t, conn.QueryRow(ctx, sql).Scan(&xmin))
		return xmin
	}

	t.Run("again changes nothing", func(t *testing.T) {
		before := generation()
		require.NoError(t, tenancy.Protect(ctx, conn, "products", "public.stock"))
		require.Equal(t, before, generation())
	})
	t.Run("mends what has drifted", func(t *testing.T) {
		for _, spoil := range []string{
			`alter table products disable row level security`,
			`alter table products no force row level security`,
			`alter table products alter tenant_id drop default`,
			`grant truncate on products to ` + tenancy.AppRole,
			`grant select on products to public`,
			`revoke insert on products from ` + tenancy.AppRole,
			`do $$ begin execute (select format('drop policy %I on products', polname) from pg_policy where polrelid = 'products'::regclass and polpermissive); end $$`,
			`do $$ begin execute (select format('alter policy %I on products using (true)', polname) from pg_policy where polrelid = 'products'::regclass and polpermissive); end $$`,
			`create policy tenant_guard_00000000 on products using (true); do $$ begin execute (select format('drop policy %I on products', polname) from pg_policy where polrelid = 'products'::regclass and not polpermissive); end $$`,
		} {
			before := generation()
			exec(spoil)
			require.NoError(t, tenancy.Protect(ctx, conn, "products"), spoil)
			after := generation()
			require.NotEqual(t, before, after, spoil)
			require.NoError(t, b.db.CheckRoles(ctx), spoil)
			require.NoError(t, tenancy.Protect(ctx, conn, "products"), spoil)
			require.Equal(t, after, generation(), spoil)
			require.NoError(t, inTx(as(ctx, tenant.NewID()), b.db, `insert into products (name) values ('x')`), spoil)
		}
		var n int
		require.NoError(t, conn.QueryRow(ctx, `select count(*) from pg_policy where polrelid = 'products'::regclass`).Scan(&n))
		require.Equal(t, 2, n, "an earlier version's policies go")
	})
	t.Run("makes an index", func(t *testing.T) {
		exec(`create table plain (id int primary key, tenant_id uuid)`)
		require.NoError(t, tenancy.Protect(ctx, conn, "plain"))
		require.NoError(t, tenancy.Protect(ctx, conn, "plain"))
		var n int
		require.NoError(t, conn.QueryRow(ctx, `select count(*) from pg_index where indrelid = 'plain'::regclass`).Scan(&n))
		require.Equal(t, 2, n)
	})
	t.Run("as plain SQL, again and again", func(t *testing.T) {
		exec(`create schema "Odd"; grant usage on schema "Odd" to public; create table "Odd"."it's ""a"" ta\ble" (tenant_id uuid)`)
		sql, err := tenancy.PolicySQL(`Odd.it's "a" ta\ble`)
		require.NoError(t, err)
		exec(sql)
		exec(sql)
		require.NoError(t, b.db.CheckRoles(ctx))
		require.NoError(t, inTx(as(ctx, tenant.NewID()), b.db, `insert into "Odd"."it's ""a"" ta\ble" default values`))
	})
	t.Run("partitions", func(t *testing.T) {
		exec(`create table events (tenant_id uuid, at int) partition by range (at);
create table events_1 partition of events for values from (0) to (10);
grant select, insert on events_1 to ` + tenancy.AppRole)
		require.Error(t, b.db.CheckRoles(ctx))
		require.NoError(t, tenancy.Protect(ctx, conn, "events"))
		require.NoError(t, b.db.CheckRoles(ctx))
		anna := as(ctx, tenant.NewID())
		require.NoError(t, inTx(anna, b.db, `insert into events (at) values (1)`))
		require.ErrorContains(t, inTx(anna, b.db, `select from events_1`), "permission denied")
		require.ErrorContains(t, tenancy.Protect(ctx, conn, "events_1"), "a partition")
	})
	t.Run("refused", func(t *testing.T) {
		exec(`create table bare (id int); create table texts (tenant_id text); create view looks as select * from products;
create table nulls (tenant_id uuid); insert into nulls values (null)`)
		for table, want := range map[string]string{
			"nothing": "no such table",
			"bare":    "no column tenant_id of type uuid",
			"texts":   "no column tenant_id of type uuid",
			"looks":   "not a table",
			"nulls":   "contains null values",
			"a.b.c":   "want a name",
			"":        "want a name",
			"x.":      "want a name",
			"$$":      "want a name",
			"\x00":    "want a name",
		} {
			require.ErrorContains(t, tenancy.Protect(ctx, conn, "products", table), want, table)
		}
	})
	t.Run("all or nothing", func(t *testing.T) {
		exec(`create table first (tenant_id uuid)`)
		require.Error(t, tenancy.Protect(ctx, conn, "first", "nothing"))
		var on bool
		require.NoError(t, conn.QueryRow(ctx, `select relrowsecurity from pg_class where oid = 'first'::regclass`).Scan(&on))
		require.False(t, on)
	})
}

// A tenant's writes are its own without naming it, and can't be another's.
func TestWrites(t *testing.T) {
	t.Parallel()
	b := setup(t)
	anna, bert := tenant.NewID(), tenant.NewID()
	b.add(t, anna, "apple")
	err := tenancy.TenantTx(as(t.Context(), bert), b.db, func(ctx context.Context, tx pgx.Tx) error {
		for _, sql := range []string{`update products set name = 'x'`, `delete from products`} {
			tag, err := tx.Exec(ctx, sql)
			require.NoError(t, err)
			require.Zero(t, tag.RowsAffected())
		}
		_, err := tx.Exec(ctx, `insert into products (tenant_id, name) values ($1, 'forged')`, anna)
		return err
	})
	require.ErrorContains(t, err, "row-level security")
	require.Equal(t, []string{"apple"}, b.names(t, anna))
}

// TestProtectAgainstShadow: a function that takes current_setting's place in
// the owner's search_path doesn't get into the policies.
//
// Mutation that it saw: Protect under the session's search_path.
func TestProtectAgainstShadow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	mine, theirs := tenant.NewID(), tenant.NewID()
	conn := b.Conn(t, devstack.OwnerRole)
	for _, sql := range []string{
		`create function public.current_setting(text, boolean) returns text immutable language sql as $$ select '` + theirs.String() + `' $$`,
		`set search_path = public, pg_catalog`,
		`create table notes (tenant_id uuid not null, body text)`,
	} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	require.NoError(t, tenancy.Protect(t.Context(), conn, "notes"))
	for _, id := range []tenant.ID{mine, theirs} {
		_, err := b.db.Exec(as(t.Context(), id), `insert into public.notes (body) values ($1)`, id.String())
		require.NoError(t, err)
	}
	var body string
	require.NoError(t, b.db.QueryRow(as(t.Context(), mine), `select string_agg(body, ' ') from public.notes`).Scan(&body))
	require.Equal(t, mine.String(), body)
}
