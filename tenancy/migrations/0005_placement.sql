-- What the application's role may call. Schema mcpsaas stays out of its reach.
create schema if not exists mcpsaas_app;
revoke all on schema mcpsaas_app from public;
grant usage on schema mcpsaas_app to app_user, mcpsaas_control;

alter table mcpsaas.tenants
	add constraint tenants_placement_schema check ((placement = 'schema') = (schema_name is not null)),
	add constraint tenants_placement_database check ((placement = 'database') = (database_ref is not null)),
	add constraint tenants_schema_name check (schema_name = 't_' || replace(id::text, '-', ''));

-- Where a tenant is, as the database that has or had its rows knows it: every
-- database has this table, so that a transaction can check it in the same round
-- trip as it sets its context. Only a tenant that was moved, or is being moved,
-- has a row, and keeps it: of one without a row, epoch 1 is right everywhere.
create table mcpsaas.fence (
	tenant_id   uuid        primary key,
	epoch       bigint      not null,
	open        boolean     not null,   -- false: the tenant's rows are not here, or not yet
	schema_name text,                   -- null: the tables of schema public
	changed_at  timestamptz not null default clock_timestamp()
);

-- enter sets the context of a tenant for one transaction.
--
-- It fails with TN002 if the session has a context already, or if intact is
-- not true; and with TN001 if the tenant's rows are not where the caller
-- takes them to be: expected is the epoch of the caller's placement, zero for a
-- caller that knows of no placements.
--
-- The shared lock is held until the transaction ends. Whoever moves the tenant
-- takes the exclusive one to change the fence, so that a transaction either
-- ends before, or sees the fence after: in a function that is volatile, each
-- statement has a snapshot of its own. Not so in repeatable read, where the
-- snapshot may be older than the wait for the lock: strict locks the row besides,
-- which fails with 40001 if it was changed since. A transaction older than
-- the row itself is waited for by the move before it begins.
--
-- Everything is named in full, because the function runs as its owner with the
-- caller's search_path: a clause SET would cost more than the function.
create function mcpsaas_app.enter(tenant text, expected bigint, intact boolean, strict boolean) returns void
language plpgsql volatile parallel unsafe security definer as $$
declare
	key pg_catalog.int8 := pg_catalog.hashtextextended(tenant, 7310868735423373166);
	fence_epoch pg_catalog.int8;
	fence_open pg_catalog.bool;
	fence_schema pg_catalog.text;
	ignored pg_catalog.text;
begin
	if intact is not true or pg_catalog.current_setting('app.current_tenant_id', true) operator(pg_catalog.<>) '' then
		raise exception using errcode = 'TN002', message = 'the session has a tenant''s context, or a cursor was left open';
	end if;
	if not pg_catalog.pg_try_advisory_xact_lock_shared(key) then
		perform pg_catalog.pg_advisory_xact_lock_shared(key);
	end if;
	if strict and not pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool then
		select f.epoch, f.open, f.schema_name into fence_epoch, fence_open, fence_schema
		from mcpsaas.fence f where f.tenant_id operator(pg_catalog.=) tenant::pg_catalog.uuid for share;
	else
		select f.epoch, f.open, f.schema_name into fence_epoch, fence_open, fence_schema
		from mcpsaas.fence f where f.tenant_id operator(pg_catalog.=) tenant::pg_catalog.uuid;
	end if;
	if (case
		when fence_epoch is null then expected operator(pg_catalog.>) 1
		when not fence_open then true
		when expected operator(pg_catalog.=) 0 then fence_schema is not null
		else fence_epoch operator(pg_catalog.<>) expected
	end) then
		raise exception using errcode = 'TN001', message = 'the tenant''s rows are not here';
	end if;
	ignored := pg_catalog.set_config('app.current_tenant_id', tenant, true);
end $$;
revoke all on function mcpsaas_app.enter from public;
grant execute on function mcpsaas_app.enter to app_user, mcpsaas_control;
