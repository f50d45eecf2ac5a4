-- Roles belong to the cluster, not to the database: another database of this
-- cluster may have made them, or be making them at this moment. What exists is
-- left as it is; tenancy.Open refuses a role that isn't fit.
do $$
begin
	if not exists (select from pg_roles where rolname = 'mcpsaas_control') then
		create role mcpsaas_control nologin nosuperuser nobypassrls noinherit nocreatedb nocreaterole noreplication;
	end if;
exception when duplicate_object or unique_violation then null;
end $$;

do $$
begin
	if not exists (select from pg_roles where rolname = 'app_user') then
		create role app_user login nosuperuser nobypassrls noinherit nocreatedb nocreaterole noreplication;
	end if;
exception when duplicate_object or unique_violation then null;
end $$;

-- The control pool logs in as the owner and runs as mcpsaas_control.
do $$
begin
	if not exists (
		select from pg_auth_members m
		where m.roleid = 'mcpsaas_control'::regrole and m.member = current_user::regrole
	) or not pg_has_role(current_user, 'mcpsaas_control', 'usage') then
		execute format('grant mcpsaas_control to %I', current_user);
	end if;
exception when duplicate_object or unique_violation then null;
end $$;

grant usage on schema mcpsaas to mcpsaas_control;
grant select on all tables in schema mcpsaas to mcpsaas_control;
revoke all on schema mcpsaas from public;

-- What later components create in schema mcpsaas is the control role's to use.
-- There is no such line for app_user: a table that nobody protected must stay
-- out of its reach, so that forgetting to protect one fails closed.
alter default privileges in schema mcpsaas
	grant select, insert, update, delete on tables to mcpsaas_control;
alter default privileges in schema mcpsaas
	grant usage, select on sequences to mcpsaas_control;
alter default privileges in schema mcpsaas
	grant execute on functions to mcpsaas_control;

-- A temporary table outlives the transaction of the tenant that made it, and
-- can shadow a real one; so can a table in a schema that anyone may create in.
do $$
begin
	execute format('revoke temporary on database %I from public', current_database());
	execute format('grant connect on database %I to app_user', current_database());
end $$;
revoke create on schema public from public;
grant usage on schema public to app_user, mcpsaas_control;
