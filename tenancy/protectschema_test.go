package tenancy_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// inSchema runs a statement as the tenant's role in its own schema, as the
// tenant current. It has no door of its own here, because that is what is tested.
func (b *bundle) inSchema(t testing.TB, current, home tenant.ID, fn func(ctx context.Context, tx pgx.Tx) error) error {
	t.Helper()
	return pgx.BeginFunc(t.Context(), b.Conn(t, tenancy.AppRole), func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `select set_config('app.current_tenant_id', $1, true), set_config('role', $2, true), set_config('search_path', $2 || ', pg_temp', true)`,
			current.String(), tenancy.SchemaName(home))
		if err != nil {
			return err
		}
		return fn(t.Context(), tx)
	})
}

// schema makes a tenant with a schema that has one table with a tenant_id and
// one without.
func (b *bundle) schema(t testing.TB) tenant.ID {
	t.Helper()
	id, err := b.schemaBy(t, devstack.OwnerRole)
	require.NoError(t, err)
	return id
}

func (b *bundle) schemaBy(t testing.TB, owner string) (tenant.ID, error) {
	t.Helper()
	id := tenant.NewID()
	ctx := t.Context()
	return id, pgx.BeginFunc(ctx, b.Conn(t, owner), func(tx pgx.Tx) error {
		if err := tenancy.CreateSchema(ctx, tx, id); err != nil {
			return err
		}
		name := tenancy.SchemaName(id)
		for _, sql := range []string{
			`create table %s.notes (tenant_id uuid not null, id int, body text, primary key (tenant_id, id))`,
			`create table %s.bare (id int generated always as identity primary key, body text)`,
			`create sequence %s.counter`,
			`grant usage on sequence %s.counter to app_user`,
			`create view %[1]s.looks with (security_invoker) as select body from %[1]s.bare`,
			`grant select on %s.looks to app_user`,
		} {
			if _, err := tx.Exec(ctx, fmt.Sprintf(sql, name)); err != nil {
				return err
			}
		}
		return tenancy.ProtectSchema(ctx, tx, id)
	})
}

// In its own schema a tenant has its tables, and in another's nothing, by
// whatever name and in whatever context it comes.
//
// Mutations that it saw: no constant policy on tables without tenant_id, the
// guard by tenant_id alone (a row of its own in another's table), usage on schemas
// granted to public.
func TestSchema(t *testing.T) {
	t.Parallel()
	b := setup(t)
	anna, bert := b.schema(t), b.schema(t)
	for _, id := range []tenant.ID{anna, bert} {
		err := b.inSchema(t, id, id, func(ctx context.Context, tx pgx.Tx) error {
			for _, sql := range []string{
				`insert into notes (id, body) values (1, 'mine')`,
				`insert into bare (body) values ('mine')`,
				`select nextval('counter')`,
				`insert into tenant_config (key, value) values ('a', 'b')`,
			} {
				if _, err := tx.Exec(ctx, sql); err != nil {
					return err
				}
			}
			var n int
			require.NoError(t, tx.QueryRow(ctx, `select (select count(*) from notes) + (select count(*) from bare) + (select count(*) from looks) + (select count(*) from tenant_config)`).Scan(&n))
			require.Equal(t, 4, n)
			return nil
		})
		require.NoError(t, err)
	}
	theirs := tenancy.SchemaName(bert)
	for _, table := range []string{"notes", "bare", "looks", "tenant_config", "tenant_marker"} {
		err := b.inSchema(t, anna, anna, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, fmt.Sprintf(`select from %s.%s`, theirs, table))
			return err
		})
		require.ErrorContains(t, err, "permission denied for schema", table)
		err = b.inSchema(t, anna, bert, func(ctx context.Context, tx pgx.Tx) error {
			var n int
			require.NoError(t, tx.QueryRow(ctx, fmt.Sprintf(`select count(*) from %s`, table)).Scan(&n))
			require.Zero(t, n, table)
			return nil
		})
		require.NoError(t, err)
	}
	for _, sql := range []string{
		`insert into notes (id) values (7)`,
		`insert into notes (tenant_id, id) values ('` + bert.String() + `', 7)`,
		`insert into bare (body) values ('forged')`,
	} {
		err := b.inSchema(t, anna, bert, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, sql)
			return err
		})
		require.ErrorContains(t, err, "row-level security", sql)
	}
	for _, sql := range []string{`truncate notes`, `create table mine (id int)`, `update tenant_marker set marker = gen_random_uuid()`, `select from mcpsaas.tenants`, `select from public.products`} {
		err := b.inSchema(t, anna, anna, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, sql)
			return err
		})
		require.ErrorContains(t, err, "permission denied", sql)
	}
	_, err := b.Conn(t, tenancy.AppRole).Exec(t.Context(), `select from `+theirs+`.bare`)
	require.ErrorContains(t, err, "permission denied", "the application's role alone reaches nothing")
}

// To protect again changes nothing; what is new is protected, what was spoiled is
// mended, and the caller's search_path stays.
func TestProtectSchema(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.schema(t)
	name := tenancy.SchemaName(id)
	conn := b.Conn(t, devstack.OwnerRole)
	ctx := t.Context()
	generation := func() (xmin string) {
		require.NoError(t, conn.QueryRow(ctx, `
select string_agg(x, ',' order by x) from (
	select p.xmin::text || p.polname as x from pg_policy p join pg_class c on c.oid = p.polrelid where c.relnamespace = $1::text::regnamespace
	union all select c.xmin::text || c.relname from pg_class c where c.relnamespace = $1::text::regnamespace) x`, name).Scan(&xmin))
		return xmin
	}
	protect := func() {
		tx, err := conn.Begin(ctx)
		require.NoError(t, err)
		_, err = tx.Exec(ctx, `set local search_path = mcpsaas, public`)
		require.NoError(t, err)
		require.NoError(t, tenancy.CreateSchema(ctx, tx, id))
		var path string
		require.NoError(t, tx.QueryRow(ctx, `show search_path`).Scan(&path))
		require.Equal(t, "mcpsaas, public", path)
		require.NoError(t, tx.Commit(ctx))
	}
	settled := generation()
	protect()
	require.Equal(t, settled, generation())
	for _, spoil := range []string{
		`create table {schema}.late (id int)`,
		`create table {schema}.events (tenant_id uuid, at int) partition by range (at); create table {schema}.events_1 partition of {schema}.events for values from (0) to (9); grant select on {schema}.events_1 to {schema}`,
		`alter table {schema}.bare disable row level security`,
		`alter table {schema}.notes no force row level security`,
		`grant select on {schema}.bare to public`,
		`grant truncate on {schema}.bare to {schema}`,
		`grant select on {schema}.looks to public`,
		`do $$ begin execute (select format('alter policy %I on {schema}.bare using (true)', polname) from pg_policy where polrelid = '{schema}.bare'::regclass and not polpermissive); end $$`,
		`do $$ begin execute (select format('alter policy %I on {schema}.bare using (''` + tenant.NewID().String() + `''::uuid = (select NULLIF(current_setting(''app.current_tenant_id'', true), '''')::uuid))', polname) from pg_policy where polrelid = '{schema}.bare'::regclass and not polpermissive); end $$`,
	} {
		_, err := conn.Exec(ctx, strings.ReplaceAll(spoil, "{schema}", name))
		require.NoError(t, err, spoil)
		spoiled := generation()
		protect()
		require.NotEqual(t, spoiled, generation(), spoil)
		settled = generation()
		protect()
		require.Equal(t, settled, generation(), spoil)
		var open int
		require.NoError(t, conn.QueryRow(ctx, `select count(*) from pg_class c where relnamespace = $1::text::regnamespace and relkind in ('r', 'p')
and not relispartition and not (relrowsecurity and relforcerowsecurity and (select count(*) = 2 from pg_policy p where p.polrelid = c.oid))`, name).Scan(&open))
		require.Zero(t, open)
	}
}

// Whoever comes at once, it is made once; and gone it is gone.
func TestSchemaAtOnce(t *testing.T) {
	t.Parallel()
	one, two := setup(t), setup(t)
	id := tenant.NewID()
	ctx := t.Context()
	do := func(b *bundle, fn func(context.Context, pgx.Tx, tenant.ID) error) error {
		return pgx.BeginFunc(ctx, b.Conn(t, devstack.OwnerRole), func(tx pgx.Tx) error { return fn(ctx, tx, id) })
	}
	for _, fn := range []func(context.Context, pgx.Tx, tenant.ID) error{tenancy.CreateSchema, tenancy.DropSchema} {
		var wg sync.WaitGroup
		errs := make([]error, 6)
		for i := range errs {
			b := []*bundle{one, two}[i%2]
			wg.Go(func() { errs[i] = do(b, fn) })
		}
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
	}
	var n int
	require.NoError(t, one.Conn(t, devstack.OwnerRole).QueryRow(ctx, `select count(*) from pg_roles where rolname = $1`, tenancy.SchemaName(id)).Scan(&n))
	require.Zero(t, n, "the last one takes the role away")
	require.ErrorIs(t, do(one, func(ctx context.Context, tx pgx.Tx, _ tenant.ID) error {
		return tenancy.CreateSchema(ctx, tx, tenancy.Sentinel)
	}), tenancy.ErrUnknownTenant)
}
