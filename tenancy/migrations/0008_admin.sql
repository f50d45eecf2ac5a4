-- Whoever reads across tenants is on record before the first row is read. The
-- record is written by the two functions below and by nothing else; no role may
-- change it, its owner included.
do $$
begin
	if not exists (select from pg_roles where rolname = 'mcpsaas_admin') then
		create role mcpsaas_admin nologin nosuperuser nobypassrls noinherit nocreatedb nocreaterole noreplication;
	end if;
exception when duplicate_object or unique_violation then null;
end $$;

create table mcpsaas.admin_access (
	id       bigint      generated always as identity primary key,
	login    name        not null,
	actor    text        not null check (actor ~ '\S'),
	reason   text        not null check (reason ~ '\S'),
	write    boolean     not null,
	ttl      interval    not null check (ttl > interval '0'),
	began_at timestamptz not null
);
create index admin_access_began on mcpsaas.admin_access (began_at);

-- An access without a row here is going on, or nobody knows how it ended: the
-- process was killed. After began_at and twice the ttl it has ended.
create table mcpsaas.admin_access_end (
	access   bigint      primary key references mcpsaas.admin_access,
	outcome  text        not null check (outcome in ('committed', 'rolled_back', 'expired', 'failed')),
	ended_at timestamptz not null
);

create view mcpsaas.admin_log as
select a.id, a.login, a.actor, a.reason, a.write, a.ttl, a.began_at, e.outcome, e.ended_at
from mcpsaas.admin_access a left join mcpsaas.admin_access_end e on e.access = a.id;

revoke all on mcpsaas.admin_access, mcpsaas.admin_access_end, mcpsaas.admin_log from mcpsaas_control;
grant select on mcpsaas.admin_access, mcpsaas.admin_access_end, mcpsaas.admin_log to mcpsaas_control;

-- Privileges alone don't do: the owner has them all, and pg_write_all_data has
-- most.
create function mcpsaas.admin_log_stays() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
	raise exception using errcode = '42501', message = 'the record of admin access is never changed';
end $$;
create trigger admin_log_stays before update or delete or truncate on mcpsaas.admin_access
	for each statement execute function mcpsaas.admin_log_stays();
create trigger admin_log_stays before update or delete or truncate on mcpsaas.admin_access_end
	for each statement execute function mcpsaas.admin_log_stays();

-- What the record says of who and when is what the database knows, whoever
-- inserts it.
create function mcpsaas.admin_log_tells() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
	if tg_table_name = 'admin_access' then
		new.login := session_user;
		new.began_at := clock_timestamp();
	else
		if not exists (select from mcpsaas.admin_access a where a.id = new.access and a.login = session_user) then
			raise exception using errcode = '42501', message = 'the access is somebody else''s';
		end if;
		new.ended_at := clock_timestamp();
	end if;
	return new;
end $$;
create trigger admin_log_tells before insert on mcpsaas.admin_access
	for each row execute function mcpsaas.admin_log_tells();
create trigger admin_log_tells before insert on mcpsaas.admin_access_end
	for each row execute function mcpsaas.admin_log_tells();

-- The record must outlive a crash of the machine before anything is read.
create function mcpsaas.admin_begin(actor text, reason text, write boolean, ttl_ms bigint) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
	access bigint;
begin
	perform set_config('synchronous_commit', 'on', true);
	insert into mcpsaas.admin_access (login, actor, reason, write, ttl, began_at)
	values (session_user, actor, reason, write, make_interval(secs => ttl_ms / 1000.0), clock_timestamp())
	returning id into access;
	return access;
end $$;
create function mcpsaas.admin_end(access bigint, outcome text) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
	insert into mcpsaas.admin_access_end (access, outcome, ended_at) values (access, outcome, clock_timestamp());
$$;
revoke all on function mcpsaas.admin_begin, mcpsaas.admin_end from public, mcpsaas_control;
grant usage on schema mcpsaas to mcpsaas_admin;
grant execute on function mcpsaas.admin_begin, mcpsaas.admin_end to mcpsaas_admin;
