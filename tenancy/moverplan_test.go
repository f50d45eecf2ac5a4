package tenancy_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// byHand is an application that makes its tables itself: shared ones with
// tenant_id, and others in the schema of one tenant.
type byHand struct {
	*estate
	id tenant.ID
}

// newByHand runs both texts, each with its schema in the search_path, and
// protects what they have made but for a table "open".
func newByHand(t testing.TB, shared, own string) *byHand {
	t.Helper()
	b := &byHand{estate: newEstate(t, nil)}
	b.id = b.tenant(sharedPlace)
	ctx := t.Context()
	conn := b.home.Conn(t, devstack.OwnerRole)
	_, err := conn.Exec(ctx, shared)
	require.NoError(t, err)
	rows, err := conn.Query(ctx, `select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
		where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition and c.relname <> 'open'`)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.NoError(t, tenancy.Protect(ctx, conn, tables...))
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return tenancy.CreateSchema(ctx, tx, b.id) })
	require.NoError(t, err)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `set local search_path = `+tenancy.SchemaName(b.id)+`, public`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, own); err != nil {
			return err
		}
		return tenancy.ProtectSchema(ctx, tx, b.id)
	})
	require.NoError(t, err)
	return b
}

const plainTable = `create table a (tenant_id uuid not null, id int not null, n int not null default 1, primary key (tenant_id, id));`

// TestMoveRefused has a reason for each tenant that can't be moved, and nothing
// is done. Mutation: each check of the comparison that is dropped fails its row.
func TestMoveRefused(t *testing.T) {
	t.Parallel()
	circle := `create table a (tenant_id uuid not null, id int not null, b int, primary key (tenant_id, id));
		create table b (tenant_id uuid not null, id int not null, a int, primary key (tenant_id, id));
		alter table a add foreign key (tenant_id, b) references b;
		alter table b add foreign key (tenant_id, a) references a `
	lookup := `create table kinds (id int primary key, name text); insert into kinds values (1, 'x');
		create table a (tenant_id uuid not null, id int not null, kind int references kinds, primary key (tenant_id, id));`
	for name, test := range map[string]struct {
		shared string
		own    string // as shared, if empty
		fill   string // as the superuser, with {id} and {schema}
		want   string // empty: it can be moved
	}{
		"plain":           {shared: plainTable},
		"no key":          {shared: `create table a (tenant_id uuid not null, n int)`, want: "table a: no primary key"},
		"key of floats":   {shared: `create table a (tenant_id uuid not null, n float8, primary key (tenant_id, n))`, want: "column n is of type double precision"},
		"keys differ":     {shared: plainTable, own: strings.Replace(plainTable, "primary key (tenant_id, id)", "primary key (tenant_id, id, n)", 1), want: "the primary keys differ"},
		"no table":        {shared: plainTable, own: `select 1`, want: "the target doesn't have it"},
		"new table":       {shared: `select 1`, own: plainTable, want: "the source doesn't have it"},
		"no column":       {shared: plainTable, own: strings.Replace(plainTable, "n int not null default 1,", "", 1), want: "the target has no column n"},
		"new column":      {shared: strings.Replace(plainTable, "n int not null default 1,", "", 1), own: plainTable, want: "the source has no column n"},
		"type":            {shared: plainTable, own: strings.Replace(plainTable, "n int", "n bigint", 1), want: "of type integer at the source and bigint at the target"},
		"null":            {shared: plainTable, own: strings.Replace(plainTable, "n int not null", "n int", 1), want: "not null at one place"},
		"generated":       {shared: plainTable, own: strings.Replace(plainTable, "n int not null default 1", "n int not null generated always as (id + 1) stored", 1), want: "generated in another way"},
		"identity":        {shared: plainTable, own: strings.Replace(plainTable, "n int not null default 1", "n int not null generated always as identity", 1), want: "generated in another way"},
		"constraint":      {shared: plainTable, own: plainTable + `alter table a add check (n > 0)`, want: "the source has no constraint like a_n_check"},
		"its constraint":  {shared: plainTable + `alter table a add unique (tenant_id, n)`, own: plainTable, want: "the target has no constraint like a_tenant_id_n_key"},
		"named otherwise": {shared: plainTable + `alter table a add constraint x check (n > 0)`, own: plainTable + `alter table a add constraint y check (n > 0)`},
		"unlogged":        {shared: plainTable, own: strings.Replace(plainTable, "create", "create unlogged", 1), want: "unlogged at one place"},
		"inherits":        {shared: plainTable + `create table c () inherits (a)`, own: plainTable, want: "inherits, or is inherited from"},
		"rule":            {shared: plainTable, own: plainTable + `create rule r as on insert to a do also nothing`, want: "rule r of the target"},
		"oid":             {shared: strings.Replace(plainTable, "n int not null default 1", "n oid", 1), want: "such as a large object"},
		"counts down":     {shared: strings.Replace(plainTable, "n int not null default 1", "n int generated by default as identity (increment -1)", 1), want: "counts down"},
		"trigger": {shared: plainTable, own: plainTable + `create function f() returns trigger language plpgsql as 'begin return new; end';
			create trigger g before insert on a for each row execute function f()`, want: "trigger g would fire"},
		"trigger that stands aside": {shared: plainTable, own: plainTable + `create function f() returns trigger language plpgsql as 'begin raise ''it fired''; end';
			create trigger g before insert on a for each row when (current_setting('mcpsaas.moving', true) is distinct from 'on') execute function f()`,
			fill: `insert into a values ('{id}', 1)`},
		"circle":            {shared: circle, want: "refer to each other in a circle"},
		"deferrable circle": {shared: circle + " deferrable", fill: `insert into a values ('{id}', 1, null); insert into b values ('{id}', 1, 1); update a set b = 1`},
		"child without tenant_id": {shared: plainTable + `create table c (id int primary key, t uuid, a int, foreign key (t, a) references a)`, own: plainTable,
			want: "table public.c: refers to rows of the tenant"},
		"lookup":           {shared: lookup, fill: `insert into a values ('{id}', 1, 1)`},
		"lookup differs":   {shared: lookup, fill: `insert into kinds values (2, 'y'); insert into a values ('{id}', 1, 2)`, want: "has other rows at the target"},
		"the same lookup":  {shared: lookup, own: strings.Replace(lookup[strings.Index(lookup, "create table a"):], "references kinds", "references public.kinds", 1), fill: `insert into kinds values (2, 'y'); insert into a values ('{id}', 1, 2)`},
		"occupied":         {shared: plainTable, fill: `insert into {schema}.a values ('{id}', 1)`, want: "the target has rows of the tenant already"},
		"elsewhere":        {shared: plainTable, fill: `create schema app authorization mcpsaas_owner; set role mcpsaas_owner; create table app.x (tenant_id uuid); insert into app.x values ('{id}')`, want: "table app.x: has rows of the tenant"},
		"others elsewhere": {shared: plainTable, fill: `create schema app authorization mcpsaas_owner; set role mcpsaas_owner; create table app.x (tenant_id uuid); insert into app.x values (gen_random_uuid())`},
		"other files": {shared: plainTable, fill: `insert into mcpsaas.tenant_migrations (schema_name, version, name, checksum, applied_at)
			values ('public', 1, 'a', 'x', now()), ('{schema}', 1, 'a', 'y', now())`, want: "have not got the same migrations"},
		"deprovisioning":    {shared: plainTable, fill: `update mcpsaas.tenants set status = 'deprovisioning'`, want: "the tenant is deprovisioning"},
		"suspended":         {shared: plainTable, fill: `update mcpsaas.tenants set status = 'suspended'`},
		"partitions":        {shared: `create table a (tenant_id uuid not null, id int, primary key (tenant_id, id)) partition by range (id); create table a1 partition of a for values from (0) to (9)`, fill: `insert into a values ('{id}', 1)`},
		"own kind of value": {shared: `create type mood as enum ('sad', 'glad'); create table a (tenant_id uuid not null, id int, m mood, ms mood[], primary key (tenant_id, id))`, fill: `insert into a values ('{id}', 1, 'sad', '{glad}')`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.own == "" {
				test.own = test.shared
			}
			b := newByHand(t, test.shared, test.own)
			fill := strings.NewReplacer("{id}", b.id.String(), "{schema}", tenancy.SchemaName(b.id)).Replace(test.fill)
			_, err := b.home.Conn(t, "postgres").Exec(t.Context(), fill)
			require.NoError(t, err)
			m := b.mover(t, nil)
			plan, err := m.Plan(t.Context(), b.id, schemaPlace)
			require.NoError(t, err)
			_, err = m.Move(t.Context(), b.id, schemaPlace)
			if test.want == "" {
				require.Empty(t, plan.Problems)
				require.NoError(t, err)
				return
			}
			refused, ok := errors.AsType[*tenancy.MoveRefusedError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, plan.Problems, refused.Plan.Problems)
			require.Contains(t, refused.Error(), test.want)
			require.EqualValues(t, 0, super[int64](t, b.home, `select count(*) from mcpsaas.moves`))
			require.EqualValues(t, 0, super[int64](t, b.home, `select count(*) from pg_trigger where tgname like 'mcpsaas%'`))
		})
	}
}

// TestMoveFillsIn has tables of a tenant's own without tenant_id, whose rows get
// one in the shared tables and lose it again; with values of all kinds that
// PostgreSQL fills in itself.
func TestMoveFillsIn(t *testing.T) {
	t.Parallel()
	b := newByHand(t, `
create table a (tenant_id uuid not null, id bigint generated always as identity, serial serial, name text not null, loud text generated always as (upper(name)) stored,
	parent bigint, primary key (tenant_id, id), unique (tenant_id, name), foreign key (tenant_id, parent) references a (tenant_id, id));
grant usage on sequence a_serial_seq to app_user;
create table b (tenant_id uuid not null, a bigint not null, at timestamptz, amount numeric, raw bytea, doc jsonb, tags text[], span tstzrange,
	primary key (tenant_id, a), foreign key (tenant_id, a) references a (tenant_id, id))`, `
create table a (id bigint generated always as identity primary key, serial serial, name text not null unique, loud text generated always as (upper(name)) stored,
	parent bigint references a (id));
grant usage on sequence a_serial_seq to app_user;
create table b (a bigint not null primary key references a (id), at timestamptz, amount numeric, raw bytea, doc jsonb, tags text[], span tstzrange)`)
	b.must(b.id, `insert into a (name) select 'n' || i from generate_series(1, 20) i`, `update a set parent = id - 1 where id > 1`,
		`insert into b select tenant_id, id, now(), id / 7.0, sha256(name::bytea), jsonb_build_object('n', id), array[name, null, 'a"b\c'], tstzrange(now(), null) from a`)
	read := func(schema string) string {
		conn := b.home.Conn(t, "postgres")
		_, err := conn.Exec(t.Context(), `set search_path = `+schema)
		require.NoError(t, err)
		var text string
		require.NoError(t, conn.QueryRow(t.Context(), `select string_agg((to_jsonb(x.*) - 'tenant_id')::text || (to_jsonb(y.*) - 'tenant_id')::text, ' ' order by id) from a x join b y on y.a = x.id`).Scan(&text))
		return text
	}
	before := read("public")
	m := b.mover(t, nil)
	schema := tenancy.SchemaName(b.id)
	_, err := m.Move(t.Context(), b.id, schemaPlace)
	require.NoError(t, err)
	require.Equal(t, before, read(schema))
	b.must(b.id, `insert into a (name) values ('new')`, `insert into b (a) select max(id) from a`)
	before = read(schema)
	_, err = m.Move(t.Context(), b.id, sharedPlace)
	require.NoError(t, err)
	require.Equal(t, before, read("public"))
	// A sequence that was left behind would give a number again.
	b.must(b.id, `insert into a (name) values ('newer')`)
	require.EqualValues(t, 22, super[int64](t, b.home, `select count(distinct serial) from a`))
}

// TestMoveLargeRows carries a row of 50 MB to another database.
func TestMoveLargeRows(t *testing.T) {
	t.Parallel()
	e := newEstate(t, sqlFiles("0001_files.sql", `create table files (tenant_id uuid not null, id int not null, body bytea not null, primary key (tenant_id, id))`))
	e.database("away")
	id := e.tenant(sharedPlace)
	e.must(id, `insert into files (id, body) select i, decode(repeat(md5(i::text), 50 * 1024 * 1024 / 16), 'hex') from generate_series(1, 1) i`)
	sum := func() string {
		db, _ := e.at(id)
		return super[string](t, db, `select string_agg(length(body) || encode(sha256(body), 'hex'), ' ' order by id) from files`)
	}
	before := sum()
	_, err := e.mover(t, nil).Move(t.Context(), id, awayPlace)
	require.NoError(t, err)
	require.Equal(t, before, sum())
}

// TestMoveToAnotherServer crosses to a server of its own and back.
func TestMoveToAnotherServer(t *testing.T) {
	t.Parallel()
	stack, err := devstack.Start(t.Context(), devstack.Options{Postgres: true, Fast: true})
	require.NoError(t, err)
	t.Cleanup(func() { stack.Close(context.Background()) })
	e := newEstate(t, shopFiles())
	e.mu.Lock()
	e.databases["away"] = &devtest.Database{URL: stack.DatabaseURL, Superuser: stack.SuperuserURL}
	e.mu.Unlock()
	id := e.tenant(sharedPlace)
	e.must(id, fillShop)
	before := e.fingerprint(t, id, "products", "stock", "tenant_marker")
	m := e.mover(t, nil)
	for _, to := range []tenancy.Placement{awayPlace, sharedPlace} {
		_, err := m.Move(context.WithoutCancel(t.Context()), id, to)
		require.NoError(t, err)
		require.Equal(t, before, e.fingerprint(t, id, "products", "stock", "tenant_marker"))
	}
}
