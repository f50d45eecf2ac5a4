package tenancy_test

// injection is what someone runs who can have any statement run in another's
// transaction. Anna's it is, and bert's rows are what is wanted. In the text stand
// {anna}, {bert}: their ids; {home}, {place}: the names of their schemas; {token}:
// anna's, as the session has it; {mac}: its last part; {far}: a token of bert's
// without a valid code.
type injection struct {
	name string
	sql  []string

	// crosses is set where a context that isn't signed lets it through.
	crosses bool
}

// take are the ways to ask for bert's rows and to spoil them, which every
// injection ends with.
var take = []string{
	`select body from {home}.bare`,
	`select body from public.secrets`,
	`select body from public.secrets where tenant_id = '{bert}'`,
	`select body from {place}.secrets`,
	`select body from {place}.bare`,
	`update public.secrets set body = 'spoiled' where tenant_id <> '{anna}'`,
	`update {place}.bare set body = 'spoiled'`,
	`delete from public.secrets where tenant_id <> '{anna}'`,
	`delete from {place}.bare`,
	`insert into public.secrets (tenant_id, body) values ('{bert}', 'forged')`,
	`insert into public.secrets (body) values ('forged by default')`,
	`insert into {place}.secrets (tenant_id, body) values ('{bert}', 'forged')`,
	`insert into {place}.secrets (tenant_id, body) values ('{anna}', 'litter')`,
	`insert into {place}.bare (body) values ('forged')`,
}

const (
	become = `select set_config('app.current_tenant_id', '{bert}', true)`
	shadow = `create function public.sha256(bytea) returns bytea language sql immutable as $$ select '\x00'::bytea $$;
create function public.now() returns timestamptz language sql as $$ select '1970-01-01'::timestamptz $$;
create function public.encode(bytea, text) returns text language sql as $$ select '{mac}'::text $$;
create function public.yes(text, text) returns boolean language sql as $$ select true $$;
create function public.yes(bytea, bytea) returns boolean language sql as $$ select true $$;
create operator public.= (leftarg = text, rightarg = text, function = public.yes);
create operator public.= (leftarg = bytea, rightarg = bytea, function = public.yes)`
)

var injections = []injection{
	// Another's id.
	{name: "nothing", sql: nil},
	{name: "set_config", sql: []string{become}, crosses: true},
	{name: "set local", sql: []string{`set local app.current_tenant_id = '{bert}'`}, crosses: true},
	{name: "set for the session", sql: []string{`set app.current_tenant_id = '{bert}'`}, crosses: true},
	{name: "pg_settings", sql: []string{`update pg_settings set setting = '{bert}' where name = 'app.current_tenant_id'`}},
	{name: "within the statement", sql: []string{`with x as materialized (select set_config('app.current_tenant_id', '{bert}', true)) select body from x, public.secrets`}, crosses: true},
	{name: "within the statement, as its role", sql: []string{`with x as materialized (select set_config('app.current_tenant_id', '{bert}', true), set_config('role', '{place}', true)) select body from x, {place}.bare`}},
	{name: "changes while it is compared", sql: []string{
		`select set_config('enable_indexscan', 'off', true), set_config('enable_bitmapscan', 'off', true), set_config('enable_indexonlyscan', 'off', true), set_config('my.who', '{anna}', true)`,
		`select set_config('my.who', '{bert}', true), body from public.secrets where tenant_id = current_setting('my.who')::uuid`,
		`select set_config('my.who', '{anna}', true)`,
		`with x as materialized (select set_config('my.who', '{bert}', true)) select body from public.secrets, x where tenant_id = current_setting('my.who')::uuid`,
		`select set_config('my.who', '{anna}', true)`,
		`with x as materialized (select set_config('my.who', '{bert}', true)) update public.secrets set body = 'spoiled' from x where tenant_id = current_setting('my.who')::uuid`,
		`select set_config('my.who', '{anna}', true)`,
		`with x as materialized (select set_config('my.who', '{bert}', true)) delete from public.secrets using x where tenant_id = current_setting('my.who')::uuid`,
	}, crosses: true},
	{name: "query_to_xml", sql: []string{become, `select query_to_xml('select * from public.secrets', true, false, '')`}, crosses: true},
	{name: "query_to_xml that sets", sql: []string{`select query_to_xml('select set_config(''app.current_tenant_id'', ''{bert}'', true), s.* from public.secrets s', true, false, '')`}, crosses: true},
	{name: "database_to_xml", sql: []string{become, `select schema_to_xml('public', true, false, '')`, `select table_to_xml('public.secrets', true, false, '')`}, crosses: true},
	{name: "do", sql: []string{`do $$ declare r record; begin perform set_config('app.current_tenant_id', '{bert}', true); for r in select * from public.secrets loop raise notice '%', r.body; end loop; end $$`}, crosses: true},
	{name: "cursor", sql: []string{`declare c cursor for select body from public.secrets`, become, `fetch all from c`}, crosses: true},
	{name: "cursor with hold", sql: []string{become, `declare h cursor with hold for select body from public.secrets`, `commit`, `fetch all from h`}, crosses: true},
	{name: "prepared", sql: []string{`prepare p as select body from public.secrets`, `execute p`, become, `execute p`, `deallocate p`}, crosses: true},
	{name: "generic plan", sql: []string{`set plan_cache_mode = force_generic_plan`, `prepare g as select body from public.secrets`, `execute g`, become, `execute g`, `deallocate g`}, crosses: true},
	{name: "copy", sql: []string{become, `copy public.secrets to stdout`, `copy (select body from {place}.bare) to stdout`, `copy public.secrets to program 'cat'`}, crosses: true},
	{name: "enter", sql: []string{`select set_config('app.current_tenant_id', '', true)`, `select mcpsaas_app.enter('{bert}', 1, true, false)`}, crosses: true},
	{name: "enter with the own token", sql: []string{`select set_config('app.current_tenant_id', '', true)`, `select mcpsaas_app.enter('{bert}', 0, true, true), set_config('app.current_tenant_token', '{token}', true)`}, crosses: true},

	// Another's role.
	{name: "set role", sql: []string{become, `set local role "{place}"`}, crosses: true},
	{name: "set role without the id", sql: []string{`set local role "{place}"`}},
	{name: "reset role", sql: []string{`reset role`, become, `set role "{place}"`, `set search_path = "{place}"`, `select body from secrets`, `select body from bare`}, crosses: true},
	{name: "control role", sql: []string{`set role mcpsaas_control`, `select mcpsaas.token('{bert}')`}},
	{name: "owner", sql: []string{`set role mcpsaas_owner`, `set session authorization mcpsaas_owner`, `set session authorization postgres`, `select * from mcpsaas.signing_keys`}},
	{name: "grant", sql: []string{`grant mcpsaas_owner to app_user`, `grant select on mcpsaas.signing_keys to app_user`, `alter role app_user bypassrls`}},
	{name: "row_security", sql: []string{become, `set row_security = off`}},
	{name: "disable", sql: []string{`alter table public.secrets disable row level security`, `drop policy if exists x on public.secrets`, `alter table {place}.bare no force row level security`}},
	{name: "replica", sql: []string{`set session_replication_role = replica`, become}, crosses: true},

	// A token.
	{name: "no token", sql: []string{become, `select set_config('app.current_tenant_token', '', true)`}, crosses: true},
	{name: "forged", sql: []string{become, `select set_config('app.current_tenant_token', '{far}', true)`}, crosses: true},
	{name: "another id", sql: []string{become, `select set_config('app.current_tenant_token', replace(current_setting('app.current_tenant_token'), '{anna}', '{bert}'), true)`}, crosses: true},
	{name: "another expiry", sql: []string{become, `select set_config('app.current_tenant_token', regexp_replace(replace(current_setting('app.current_tenant_token'), '{anna}', '{bert}'), '\.\d+\.', '.99999999999.'), true)`}, crosses: true},
	{name: "another key", sql: []string{become, `select set_config('app.current_tenant_token', replace(current_setting('app.current_tenant_token'), '.k1.', '.' || repeat('x', 41) || '.'), true)`}, crosses: true},
	{name: "no code", sql: []string{become, `select set_config('app.current_tenant_token', '{bert}.99999999999.k1.', true)`, `select mcpsaas_app.current_tenant()`}, crosses: true},
	{name: "no key", sql: []string{become, `select set_config('app.current_tenant_token', '{bert}.99999999999..{mac}', true)`, `select mcpsaas_app.current_tenant()`}, crosses: true},
	{name: "two of them", sql: []string{become, `select set_config('app.current_tenant_token', '{bert}.99999999999.k1.' || current_setting('app.current_tenant_token'), true)`}, crosses: true},
	{name: "one and a half", sql: []string{become, `select set_config('app.current_tenant_token', current_setting('app.current_tenant_token') || '.{bert}', true)`}, crosses: true},
	{name: "one id within the other", sql: []string{become, `select set_config('app.current_tenant_token', '{bert}' || current_setting('app.current_tenant_token'), true)`}, crosses: true},
	{name: "signed by itself", sql: []string{become, `select set_config('app.current_tenant_token', '{bert}.99999999999.k1.' || encode(sha256('{bert}.99999999999.k1'), 'hex'), true)`}, crosses: true},
	{name: "bytea_output", sql: []string{`set bytea_output = 'escape'`, `set standard_conforming_strings = off`, `set extra_float_digits = -15`, become, `select set_config('app.current_tenant_token', '{far}', true)`}, crosses: true},
	{name: "keys", sql: []string{`select * from mcpsaas.signing_keys`, `select inner_pad from mcpsaas.signing_keys`, `insert into mcpsaas.signing_keys values ('k9', repeat('0', 64)::bytea, repeat('0', 64)::bytea)`, `select mcpsaas.token('{bert}')`}},
	{name: "keys to sign with", sql: []string{become, `select set_config('app.current_tenant_token', p || '.' || encode(sha256(outer_pad || sha256(inner_pad || convert_to(p, 'UTF8'))), 'hex'), true) from mcpsaas.signing_keys, (select '{bert}.99999999999.k1' as p) x`}, crosses: true},
	{name: "keys by the source", sql: []string{`select prosrc from pg_proc where proname in ('current_tenant', 'token')`, `select pg_get_functiondef('mcpsaas_app.current_tenant'::regproc)`, `select * from pg_stats where tablename = 'signing_keys'`, `select pg_relation_filepath('mcpsaas.signing_keys')`, `select pg_read_file('postgresql.conf')`, `select lo_import('/etc/passwd')`}},
	{name: "debugging", sql: []string{`set client_min_messages = debug5`, `set log_statement = 'all'`, `set debug_print_plan = on`, `set track_functions = 'all'`, `set plpgsql.extra_errors = 'all'`, become}, crosses: true},

	// What the verifier is made of.
	{name: "shadow", sql: []string{shadow, `set search_path = public, pg_catalog`, become, `select set_config('app.current_tenant_token', '{far}', true)`}, crosses: true},
	{name: "shadow by pg_temp", sql: []string{`create function pg_temp.sha256(bytea) returns bytea language sql as $$ select '\x00'::bytea $$`, `create temp table signing_keys (id text, inner_pad bytea, outer_pad bytea); insert into signing_keys values ('k1', repeat('0', 64)::bytea, repeat('0', 64)::bytea)`, `set search_path = pg_temp, public, pg_catalog`, become, `select set_config('app.current_tenant_token', '{far}', true)`}, crosses: true},
	{name: "replace", sql: []string{`create or replace function mcpsaas_app.current_tenant() returns uuid language sql as $$ select '{bert}'::uuid $$`, `create function mcpsaas_app.current_tenant(int default 1) returns uuid language sql as $$ select '{bert}'::uuid $$`, `alter function mcpsaas_app.current_tenant() owner to app_user`, `drop function mcpsaas_app.current_tenant()`, `alter table public.secrets rename to open`}},
	{name: "leak by error", sql: []string{become, `select 1 / (case when body like 'bert%' then 0 else 1 end) from public.secrets`, `select body::int from public.secrets`}, crosses: true},
	{name: "leak by a function", sql: []string{become, `create function pg_temp.tell(text) returns boolean language plpgsql cost 0.0000001 as $$ begin raise notice 'told %', $1; return true; end $$`, `select 1 from public.secrets where pg_temp.tell(body)`}, crosses: true},
	{name: "foreign servers", sql: []string{`create extension dblink`, `create extension postgres_fdw`, `select dblink('dbname=postgres', 'select 1')`, `load 'auto_explain'`}},
	{name: "out and in again", sql: []string{`commit`, `begin`, become, `select set_config('app.current_tenant_token', '{token}', true)`}, crosses: true},
	{name: "chain", sql: []string{`commit and chain`, become}, crosses: true},
	{name: "savepoint", sql: []string{`savepoint a`, become, `rollback to a`, `release a`, become}, crosses: true},
	{name: "discard", sql: []string{`commit`, `discard all`, `begin`, become}, crosses: true},
}
