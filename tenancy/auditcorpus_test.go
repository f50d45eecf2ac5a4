package tenancy_test

// seeded is a fault: what someone did to the database of the tests, and
// exactly what the audit must say of it.
type seeded struct {
	name  string
	spoil string   // with the role for {role}, the database for {database}, the owner for {owner}, tenants' schemas for {schema} and {other}
	want  []string // "TEN104 public.products"
	left  []string // what the mends leave, for want of a statement that decides
	role  string   // attributes of a role of the row's own, audited in place of app_user
	fresh bool     // a mend is for sessions that begin later
}

// Handwritten protection, to be spoiled by one policy.
const (
	bare = `create table notes (tenant_id uuid not null default nullif(current_setting('app.current_tenant_id', true), '')::uuid, id uuid not null, body text, primary key (tenant_id, id));
alter table notes enable row level security; alter table notes force row level security; grant select, insert, update, delete on notes to app_user;`
	scoped = `tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')::uuid)`
	dropOf = `do $$ begin execute (select format('drop policy %I on products', polname) from pg_policy where polrelid = 'products'::regclass and polpermissive = `
)

// mine makes the role of the row the only one that reaches the tenant's.
const mine = `grant {schema} to {role}; revoke {schema} from app_user; `

const enter = `mcpsaas_app.enter(tenant text, expected bigint, intact boolean, strict boolean)`

var enterFaults = []string{"TEN308 " + enter}

func policies(which, change string) string {
	return `do $$ begin execute (select format('alter policy %I on products ` + change + `', polname) from pg_policy where polrelid = 'products'::regclass and polpermissive = ` + which + `); end $$`
}

var seededFaults = []seeded{
	// Roles.
	{name: "superuser", role: "superuser", want: []string{"TEN001 {role}"}},
	{name: "bypassrls", role: "bypassrls", want: []string{"TEN002 {role}"}},
	{name: "createrole", role: "createrole", want: []string{"TEN003 {role}"}},
	{name: "replication", role: "replication", want: []string{"TEN004 {role}"}},
	{name: "member of the owner", role: "nocreatedb", spoil: `grant {owner} to {role}`, want: []string{"TEN005 {role} in {owner}"}},
	{name: "member of a reader of files", role: "nocreatedb", spoil: `grant pg_read_server_files to {role}`, want: []string{"TEN005 {role} in pg_read_server_files"}},
	{name: "member by way of another", role: "nocreatedb", spoil: `create role "by {role}"; grant {owner} to "by {role}"; grant "by {role}" to {role}`, want: []string{"TEN005 {role} in by {role}"}},
	{name: "member of a bound role that may too much", role: "nocreatedb", spoil: `create role "by {role}" nologin; grant "by {role}" to {role}; grant truncate on products to "by {role}"; grant create on schema public to "by {role}"; grant temporary, create on database {database} to "by {role}"; grant usage on schema mcpsaas to "by {role}"; create sequence counter; grant usage on sequence counter to "by {role}"`,
		want: []string{"TEN401 public.products", "TEN402 public.counter", "TEN405 mcpsaas", "TEN501 {role}", "TEN502 {role}", "TEN503 public"}},
	{name: "member of the control role", role: "nocreatedb", spoil: `grant mcpsaas_control to {role}`, want: []string{"TEN005 {role} in mcpsaas_control"}},
	{name: "member of a bound role through a mighty one", role: "nocreatedb", spoil: `create role "by {role}" nologin createrole; create role "low {role}"; grant "low {role}" to "by {role}"; grant "by {role}" to {role}; grant truncate on products to "low {role}"`,
		want: []string{"TEN005 {role} in by {role}"}},
	{name: "definer with a shadowed path", spoil: `create function f() returns int language sql security definer set search_path = public, pg_catalog, pg_temp as 'select 1'`, want: []string{"TEN304 public.f()", "TEN306 public.f()"}},
	{name: "pg_temp in the middle", spoil: `alter role app_user in database {database} set search_path = public, pg_temp, mcpsaas, pg_temp`, want: []string{"TEN011 app_user"}},
	{name: "member of the predefined", role: "nocreatedb", spoil: `grant pg_read_all_data to {role}`, want: []string{"TEN005 {role} in pg_read_all_data"}},
	{name: "inherit", role: "nocreatedb", spoil: `alter role {role} inherit`, want: []string{"TEN006 {role}"}},
	{name: "owns a table", role: "nocreatedb", spoil: `alter table products owner to {role}`, want: []string{"TEN007 public.products"}},
	{name: "owns a schema", role: "nocreatedb", spoil: `create schema mine authorization {role}`, want: []string{"TEN007 mine"}},
	{name: "owns a sequence", role: "nocreatedb", spoil: `create sequence counter; alter sequence counter owner to {role}`, want: []string{"TEN007 public.counter"}},
	{name: "owns a function", role: "nocreatedb", spoil: `create function f() returns int language sql security definer set search_path = pg_catalog, pg_temp as 'select 1'; revoke execute on function f from public; alter function f owner to {role}`, want: []string{"TEN007 public.f()"}},
	{name: "owns the database", role: "nocreatedb", spoil: `alter database {database} owner to {role}; alter schema public owner to {owner}`, want: []string{"TEN007 {database}"}},
	{name: "context preset for the role", spoil: `alter role app_user in database {database} set app.current_tenant_id = '5e471e15-0000-4000-8000-000000000001'`, want: []string{"TEN009 app_user"}},
	{name: "context preset for all", spoil: `alter database {database} set app.current_tenant_id = '5e471e15-0000-4000-8000-000000000001'`, want: []string{"TEN009 {database}"}},
	{name: "context preset in every database", role: "nocreatedb", spoil: `alter role {role} set app.current_tenant_id = 'x'`, want: []string{"TEN009 {role}"}},
	{name: "row_security off", spoil: `alter role app_user in database {database} set row_security = off`, want: []string{"TEN010 app_user"}},
	{name: "pg_temp first", spoil: `alter database {database} set search_path = pg_temp, public`, want: []string{"TEN011 {database}"}},

	// Tables.
	{name: "tenant_id of another type", spoil: `create table notes (tenant_id text not null, body text)`,
		want: []string{"TEN101 public.notes", "TEN103 public.notes", "TEN104 public.notes", "TEN105 public.notes", "TEN106 public.notes", "TEN114 public.notes"}},
	{name: "tenant_id nullable", spoil: `alter table products drop constraint products_pkey cascade, alter tenant_id drop not null; create index on products (tenant_id)`, want: []string{"TEN102 public.products"}},
	{name: "tenant_id without a default", spoil: `alter table products alter tenant_id drop default`, want: []string{"TEN103 public.products"}},
	{name: "tenant_id with a constant default", spoil: `alter table products alter tenant_id set default '5e471e15-0000-4000-8000-000000000001'`, want: []string{"TEN103 public.products"}},
	{name: "off", spoil: `alter table products disable row level security`, want: []string{"TEN104 public.products"}},
	{name: "not forced", spoil: `alter table products no force row level security`, want: []string{"TEN105 public.products"}},
	{name: "forgotten and out of reach", spoil: `create table notes (tenant_id uuid not null)`,
		want: []string{"TEN103 public.notes", "TEN104 public.notes", "TEN105 public.notes", "TEN106 public.notes", "TEN114 public.notes"}},
	{name: "in another schema", spoil: `create schema other; create table other.notes (tenant_id uuid primary key default nullif(current_setting('app.current_tenant_id', true), '')::uuid); grant select on other.notes to app_user`,
		want: []string{"TEN104 other.notes", "TEN105 other.notes", "TEN106 other.notes"}},
	{name: "restrictive policy gone", spoil: dropOf + `false); end $$`, want: []string{"TEN106 public.products"}},
	{name: "permissive policy gone", spoil: dropOf + `true); end $$`, want: []string{"TEN106 public.products"}},
	{name: "policy opened for reading", spoil: policies("false", "using (true)"), want: []string{"TEN107 public.products.tenant_guard_*"}},
	{name: "policy opened for writing", spoil: policies("false", "with check (true)"), want: []string{"TEN107 public.products.tenant_guard_*"}},
	{name: "permissive policy changed", spoil: policies("true", "using (true)"), want: []string{"TEN107 public.products.tenant_access_*"}},
	{name: "policy for one role", spoil: policies("false", "to app_user"), want: []string{"TEN107 public.products.tenant_guard_*"}},
	{name: "policy of another version", spoil: `create policy tenant_guard_00000000 on products as restrictive using (true)`, want: []string{"TEN107 public.products.tenant_guard_00000000"}},
	{name: "current_setting that isn't", spoil: `create function public.current_setting(text, boolean) returns text language sql stable as $$ select 'x' $$; alter database {database} set search_path = public, pg_catalog; ` + policies("false", `using (tenant_id = (select nullif(public.current_setting(''app.current_tenant_id'', true), '''')::uuid))`),
		fresh: true, want: []string{"TEN011 {database}", "TEN107 public.products.tenant_guard_*"}},
	{name: "permissive without restrictive", spoil: bare + `create policy slug on notes for select using (body = 'b')`, want: []string{"TEN106 public.notes", "TEN108 public.notes.slug"}},
	{name: "with check opened", spoil: bare + `create policy mine on notes using (` + scoped + `) with check (true)`, want: []string{"TEN106 public.notes", "TEN109 public.notes.mine"}},
	{name: "insert without a limit", spoil: bare + `create policy adds on notes for insert with check (true)`, want: []string{"TEN106 public.notes", "TEN109 public.notes.adds"}},
	{name: "restrictive for one command", spoil: bare + `create policy reads on notes as restrictive for select using (` + scoped + `)`, want: []string{"TEN106 public.notes", "TEN109 public.notes.reads"}},
	{name: "no nullif", spoil: `create policy mine on products using (tenant_id = (select current_setting('app.current_tenant_id', true)::uuid))`, want: []string{"TEN110 public.products.mine"}},
	{name: "current_setting that raises", spoil: `create policy mine on products using (tenant_id = (select nullif(current_setting('app.current_tenant_id'), '')::uuid))`, want: []string{"TEN110 public.products.mine"}},
	{name: "immutable helper", spoil: `create function me() returns uuid language sql immutable as $$ select nullif(current_setting('app.current_tenant_id', true), '')::uuid $$; create policy mine on products using (tenant_id = (select me()))`,
		want: []string{"TEN111 public.me()"}},
	{name: "volatile helper", spoil: `create function me() returns uuid language sql as $$ select nullif(current_setting('app.current_tenant_id', true), '')::uuid $$; create policy mine on products using (tenant_id = (select me()))`,
		want: []string{"TEN112 public.me()"}},
	{name: "context per row", spoil: `create policy mine on products using (tenant_id = nullif(current_setting('app.current_tenant_id', true), '')::uuid)`, want: []string{"TEN113 public.products.mine"}},
	{name: "helper per row", spoil: `create function me() returns uuid language sql stable as 'select null::uuid'; create policy mine on products using (tenant_id = me())`, want: []string{"TEN113 public.products.mine"}},
	{name: "no index", spoil: `alter table stock drop constraint stock_pkey, add primary key (product_id, tenant_id)`, want: []string{"TEN114 public.stock"}},
	{name: "partial index", spoil: `alter table stock drop constraint stock_pkey; create index on stock (tenant_id) where amount > 0`, want: []string{"TEN114 public.stock"}},
	{name: "partition granted", spoil: `create table events (tenant_id uuid, at int) partition by range (at); create table events_1 partition of events for values from (0) to (9); grant select on events_1 to app_user`,
		want: []string{"TEN102 public.events", "TEN103 public.events", "TEN104 public.events", "TEN105 public.events", "TEN106 public.events", "TEN114 public.events", "TEN115 public.events_1"}},
	{name: "inheriting", spoil: `create table old () inherits (products); revoke all on old from app_user`,
		want: []string{"TEN104 public.old", "TEN105 public.old", "TEN106 public.old", "TEN114 public.old", "TEN116 public.old"}},
	{name: "inheriting what has no tenant", spoil: `create table base (name text); grant select on base to app_user; alter table products inherit base`, want: []string{"TEN116 public.products", "TEN121 public.base"}},
	{name: "foreign table", spoil: `create extension file_fdw; create server files foreign data wrapper file_fdw; create foreign table far (tenant_id uuid) server files options (filename '/dev/null'); grant select on far to app_user`, want: []string{"TEN117 public.far"}},
	{name: "rewrite rule", spoil: `create rule log as on insert to products do also select 1`, want: []string{"TEN118 public.products.log"}},
	{name: "trigger of another's", spoil: `create role "other of {database}" nologin; create function f() returns trigger language plpgsql as 'begin return new; end'; alter function f owner to "other of {database}"; create trigger t before insert on products for each row execute function f()`,
		want: []string{"TEN119 public.products.t"}},
	{name: "trigger of a superuser's", spoil: `create function f() returns trigger language plpgsql security definer as 'begin return new; end'; revoke execute on function f from public; create trigger t before insert on products for each row execute function f(); alter function f owner to postgres`,
		want: []string{"TEN119 public.products.t"}, left: []string{"TEN119 public.products.t"}},
	{name: "published", spoil: `create publication p for table products`, want: []string{"TEN120 p of public.products"}},
	{name: "published with its schema", spoil: `create publication p for tables in schema public`, want: []string{"TEN120 p of schema public"}},
	{name: "all published", spoil: `create publication p for all tables`, want: []string{"TEN120 p"}},
	{name: "shared table", spoil: `create table countries (code text primary key); grant select on countries to app_user`, want: []string{"TEN121 public.countries"}},
	{name: "shared table of one column", spoil: `create table countries (code text primary key); grant update (code) on countries to public`, want: []string{"TEN121 public.countries"}},

	// Tenants' own schemas. Roles belong to all tests: who spoils one has it alone.
	{name: "tenant's role that logs in", role: "nocreatedb", spoil: mine + `alter role {schema} login`, want: []string{"TEN012 {schema}"}},
	{name: "tenant's role that no policy binds", role: "nocreatedb", spoil: mine + `alter role {schema} bypassrls createrole`, want: []string{"TEN012 {schema}"}},
	{name: "tenant's role in the owner", role: "nocreatedb", spoil: mine + `grant {owner} to {schema}`, want: []string{"TEN013 {schema} in {owner}"}},
	{name: "tenant's role in another's", role: "nocreatedb", spoil: mine + `grant {other} to {schema}`, want: []string{"TEN013 {schema} in {other}"}},
	{name: "tenant's role inherited", role: "nocreatedb", spoil: mine + `alter role {role} inherit`, want: []string{"TEN006 {role}", "TEN014 {role}"}},
	{name: "tenant's role to be granted", role: "nocreatedb", spoil: `grant {schema} to {role} with admin option`, want: []string{"TEN014 {schema} by {role}"}},
	{name: "schema of its role's", spoil: `alter schema {schema} owner to {schema}`, want: []string{"TEN015 {schema}"}},
	{name: "table of its role's", spoil: `alter table {schema}.bare owner to {schema}`, want: []string{"TEN015 {schema}.bare"}},
	{name: "schema open to the application", spoil: `grant usage on schema {schema} to app_user`, want: []string{"TEN016 {schema}"}},
	{name: "schema open to all", spoil: `grant usage on schema {schema} to public`, want: []string{"TEN016 {schema}"}},
	{name: "schema to create in", spoil: `grant create on schema {schema} to {schema}`, want: []string{"TEN016 {schema}"}},
	{name: "usage of a second schema", spoil: `grant usage on schema {other} to {schema}`, want: []string{"TEN016 {other}"}},
	{name: "usage of another schema", spoil: `create schema extra; grant usage on schema extra to {schema}`, want: []string{"TEN016 extra"}},
	{name: "usage of the control tables", spoil: `grant usage on schema mcpsaas to {schema}`, want: []string{"TEN405 mcpsaas"}},
	{name: "table in a schema to the application", spoil: `grant select on {schema}.bare to app_user`, want: []string{"TEN122 {schema}.bare"}},
	{name: "table in a schema to another's role", spoil: `grant select (id) on {schema}.bare to {other}`, want: []string{"TEN122 {schema}.bare"}},
	{name: "sequence in a schema to another's role", spoil: `grant usage on sequence {schema}.counter to {other}`, want: []string{"TEN122 {schema}.counter", "TEN402 {schema}.counter"}, left: nil},
	{name: "shared table to a tenant's role", spoil: `grant select on products to {schema}`, want: []string{"TEN122 public.products"}},
	{name: "table in a schema to all", spoil: `grant select on {schema}.bare to public`, want: []string{"TEN404 {schema}.bare"}},
	{name: "table in a schema to be emptied", spoil: `grant truncate on {schema}.bare to {schema}`, want: []string{"TEN401 {schema}.bare"}},
	{name: "forgotten in a schema", spoil: `create table {schema}.late (id int)`, want: []string{"TEN104 {schema}.late", "TEN105 {schema}.late", "TEN106 {schema}.late"}},
	{name: "constant policy gone", spoil: `do $$ begin execute (select format('drop policy %I on {schema}.bare', polname) from pg_policy where polrelid = '{schema}.bare'::regclass and not polpermissive); end $$`, want: []string{"TEN106 {schema}.bare"}},
	{name: "constant policy of another's", spoil: `do $$ begin execute (select format('alter policy %I on {schema}.bare using (''5e471e15-0000-4000-8000-000000000001''::uuid = (select NULLIF(current_setting(''app.current_tenant_id'', true), '''')::uuid))', polname) from pg_policy where polrelid = '{schema}.bare'::regclass and not polpermissive); end $$`,
		want: []string{"TEN107 {schema}.bare.tenant_guard_*"}},
	{name: "by the column alone", spoil: `do $$ begin execute (select format('drop policy %I on {schema}.notes', polname) from pg_policy where polrelid = '{schema}.notes'::regclass and not polpermissive); end $$; create policy mine on {schema}.notes as restrictive using (` + scoped + `)`, want: []string{"TEN106 {schema}.notes"}},
	{name: "nullable in a schema", spoil: `alter table {schema}.notes drop constraint notes_pkey, alter tenant_id drop not null, alter tenant_id drop default`, want: []string{"TEN102 {schema}.notes", "TEN103 {schema}.notes"}},
	{name: "foreign key out of a schema", spoil: `alter table {schema}.notes add x uuid, add constraint fk foreign key (tenant_id, x) references products (tenant_id, id)`, want: []string{"TEN206 {schema}.notes.fk"}},
	{name: "partition in a schema", spoil: `create table {schema}.events (at int) partition by range (at); create table {schema}.events_1 partition of {schema}.events for values from (0) to (9); grant select on {schema}.events_1 to {schema}`,
		want: []string{"TEN104 {schema}.events", "TEN105 {schema}.events", "TEN106 {schema}.events", "TEN115 {schema}.events_1"}},

	// Keys.
	{name: "foreign key", spoil: `alter table products add unique (id); alter table stock add constraint fk foreign key (product_id) references products (id) on delete cascade deferrable`,
		want: []string{"TEN201 public.stock.fk", "TEN202 public.products.products_id_key"}},
	{name: "foreign key that sets null", spoil: `alter table products add unique (id); alter table stock add other uuid, add constraint fk foreign key (other) references products (id) match full on update cascade on delete set null initially deferred`,
		want: []string{"TEN201 public.stock.fk", "TEN202 public.products.products_id_key"}},
	{name: "unique constraint", spoil: `alter table products add constraint "one name" unique (name) include (id)`, want: []string{"TEN202 public.products.one name"}},
	{name: "unique index", spoil: `create unique index one on products (lower(name)) where name <> ''`, want: []string{"TEN202 public.products.one", "TEN205 public.products.one"}, left: []string{"TEN205 public.products.one"}},
	{name: "primary key", spoil: `create table notes (tenant_id uuid not null, id uuid primary key); `, want: []string{"TEN103 public.notes", "TEN104 public.notes", "TEN105 public.notes", "TEN106 public.notes", "TEN114 public.notes", "TEN203 public.notes.notes_pkey"}},
	{name: "exclusion constraint", spoil: `alter table stock add during int4range, add constraint once exclude using gist (during with &&)`, want: []string{"TEN204 public.stock.once", "TEN205 public.stock.once"}, left: []string{"TEN205 public.stock.once"}},
	{name: "leaky column", spoil: `alter table products add price numeric; create index cheap on products (tenant_id, price)`, want: []string{"TEN205 public.products.cheap"}, left: []string{"TEN205 public.products.cheap"}},

	// Views and functions.
	{name: "view of a superuser's", spoil: `create view looks as select * from products; alter view looks owner to postgres; grant select on looks to app_user`, want: []string{"TEN301 public.looks"}},
	{name: "view within a view", spoil: `create view inside as select * from products; alter view inside owner to postgres; create view outside with (security_invoker) as select name from inside; grant select on outside to app_user`, want: []string{"TEN301 public.inside"}},
	{name: "view of the owner's", spoil: `create view looks as select * from products; alter view looks owner to {owner}; grant select on looks to app_user`, want: []string{"TEN302 public.looks"}},
	{name: "materialized view", spoil: `create materialized view copies as select name from products; grant select on copies to app_user`, want: []string{"TEN303 public.copies"}},
	{name: "definer of a superuser's", spoil: `create function f() returns bigint language sql security definer set search_path = pg_catalog, pg_temp as 'select count(*) from public.products'`, want: []string{"TEN304 public.f()"}},
	{name: "definer of the owner's", spoil: `create procedure f(a int, b text) language sql security definer set search_path = pg_catalog, pg_temp as 'select 1'; alter procedure f owner to {owner}`, want: []string{"TEN305 public.f(IN a integer, IN b text)"}},
	{name: "definer with the caller's path", spoil: `create function f() returns int language sql security definer as 'select 1'`, want: []string{"TEN304 public.f()", "TEN306 public.f()"}},
	{name: "definer with an open path", spoil: `create function f() returns int language sql security definer set search_path = public as 'select 1'`, want: []string{"TEN304 public.f()", "TEN306 public.f()"}},
	{name: "leakproof", spoil: `create function f(text) returns boolean language plpgsql leakproof as 'begin raise notice ''%'', $1; return true; end'`, want: []string{"TEN307 public.f(text)"}},

	{name: "our function edited", spoil: `do $$ begin execute replace(pg_get_functiondef('mcpsaas_app.enter'::regproc), 'is not true', 'is null'); end $$`, want: enterFaults},
	{name: "our function of another's", spoil: `create role "other of {database}" nologin; alter function mcpsaas_app.enter owner to "other of {database}"`, want: enterFaults},
	{name: "our function with a path", spoil: `alter function mcpsaas_app.enter set search_path = public`, want: enterFaults},
	{name: "our function stable", spoil: `alter function mcpsaas_app.enter stable`, want: enterFaults},
	{name: "our function gone", spoil: `drop function mcpsaas_app.enter`, want: enterFaults, left: enterFaults},
	{name: "a function beside ours", spoil: `create function mcpsaas_app.enter(tenant text) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as 'begin end'; alter function mcpsaas_app.enter(text) owner to {owner}`,
		want: []string{"TEN305 mcpsaas_app.enter(tenant text)"}},

	// Grants.
	{name: "truncate", spoil: `grant truncate on products to app_user`, want: []string{"TEN401 public.products"}},
	{name: "references", spoil: `grant references on products to app_user`, want: []string{"TEN401 public.products"}},
	{name: "trigger", spoil: `grant trigger on products to app_user`, want: []string{"TEN401 public.products"}},
	{name: "sequence to read", spoil: `create sequence counter; grant select on sequence counter to app_user`, want: []string{"TEN402 public.counter"}},
	{name: "sequence to set", spoil: `create sequence counter; grant update on sequence counter to public`, want: []string{"TEN402 public.counter"}},
	{name: "default privileges", spoil: `alter default privileges in schema public grant select on tables to app_user`, want: []string{"TEN403 public"}},
	{name: "default privileges everywhere", spoil: `alter default privileges for role {owner} grant usage on sequences to public`, want: []string{"TEN403 every schema"}},
	{name: "public", spoil: `grant select (name) on products to public; grant insert on products to public`, want: []string{"TEN404 public.products"}},
	{name: "control schema", spoil: `grant usage on schema mcpsaas to app_user`, want: []string{"TEN405 mcpsaas"}},
	{name: "control table", spoil: `grant select on mcpsaas.tenants to app_user`, want: []string{"TEN405 mcpsaas.tenants"}},

	// The database.
	{name: "temporary", spoil: `grant temporary on database {database} to public`, want: []string{"TEN501 app_user"}},
	{name: "create schemas", spoil: `grant create on database {database} to app_user`, want: []string{"TEN502 app_user"}},
	{name: "create tables", spoil: `grant create on schema public to public`, want: []string{"TEN503 public"}},
	{name: "large objects", spoil: `select lo_create(42); alter large object 42 owner to app_user; select lo_create(43); grant select on large object 43 to public`, want: []string{"TEN504 app_user"}},
	{name: "files", spoil: `grant execute on function pg_read_file(text) to app_user`, want: []string{"TEN505 pg_read_file(text)"}},
	{name: "large objects without privileges", spoil: `alter database {database} set lo_compat_privileges = on`, want: []string{"TEN507 {database}"}, fresh: true},
	{name: "marker table gone", spoil: `drop table tenant_marker`, want: []string{"TEN508 public.tenant_marker"}, left: []string{"TEN508 public.tenant_marker"}},
	{name: "config table gone", spoil: `drop table tenant_config`, want: []string{"TEN508 public.tenant_config"}, left: []string{"TEN508 public.tenant_config"}},
	{name: "sentinel gone", spoil: `delete from tenant_marker`, want: []string{"TEN508 public.tenant_marker"}},
}
