-- What the rules of the audit judge, as one JSON object or two: one statement, so
-- that everything is seen at one moment and in one round trip. $1 are the names of
-- the application's roles, or NULL for the session's own; $2 is the name of the
-- control role. The first object is all that DB.CheckRoles wants.
--
-- There may be thousands of tenants' own schemas, each with a role. What is as
-- generated there is counted rather than told.
with recursive role as materialized (
	select r.oid, r.rolname::text as name, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolreplication, r.rolinherit
	from pg_roles r where r.rolname = any (coalesce($1::text[], array[session_user::text]))
), db as materialized (
	select d.oid, d.datname::text as name, d.datdba, d.datacl as acl from pg_database d where d.datname = current_database()
), ns as materialized (
	select n.oid, n.nspname::text as name, n.nspowner as owner, n.nspacl as acl,
		case when n.nspname ~ '^t_[0-9a-f]{32}$' then regexp_replace(substr(n.nspname, 3), '^(.{8})(.{4})(.{4})(.{4})', '\1-\2-\3-\4-') end as tenant
	from pg_namespace n where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
), tenant_column as materialized (
	-- Expressions are slow to print, and of these there are few different ones.
	select a.attrelid, a.attnum, format_type(a.atttypid, null) as type, a.attnotnull as not_null,
		coalesce(first_value(pg_get_expr(case when d.first then d.adbin end, d.adrelid)) over (partition by d.tree order by not d.first), '') as preset
	from pg_attribute a
	join pg_class c on c.oid = a.attrelid and c.relkind in ('r', 'p', 'v', 'm', 'f')
	left join (select d.adrelid, d.adnum, d.adbin, d.adbin::text collate "C" as tree,
			row_number() over (partition by d.adbin::text collate "C") = 1 as first
		from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum and a.attname = 'tenant_id') d
		on d.adrelid = a.attrelid and d.adnum = a.attnum
	where a.attname = 'tenant_id' and not a.attisdropped
), rel as materialized (
	select c.oid, n.name as schema, n.tenant, c.relname::text as name, c.relkind as kind, c.relowner as owner, c.relacl as acl,
		c.relrowsecurity as enabled, c.relforcerowsecurity as forced, c.relispartition as partition, c.reloptions as options,
		t.attnum, t.type, t.not_null, t.preset,
		c.relkind in ('r', 'p') and n.name <> 'mcpsaas' and (t.attnum is not null or n.tenant is not null) as tenants
	from pg_class c
	join ns n on n.oid = c.relnamespace
	left join tenant_column t on t.attrelid = c.oid
	where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
), proc as materialized (
	-- Functions that matter: by how they run, or by who calls them.
	select p.oid, n.name as schema, p.proname::text as name, p.proowner as owner, p.proacl as acl, p.prosecdef, p.proleakproof, p.provolatile,
		p.proconfig, p.pronargs, p.prosrc, l.lanname::text as language
	from pg_proc p
	join pg_language l on l.oid = p.prolang
	join ns n on n.oid = p.pronamespace
	where p.prosecdef or p.proleakproof or n.name = 'mcpsaas_app'
		or p.oid in (select d.refobjid from pg_depend d
			where d.classid = 'pg_policy'::regclass and d.refclassid = 'pg_proc'::regclass)
		or p.oid in (select g.tgfoid from pg_trigger g join rel on rel.oid = g.tgrelid where rel.tenants and not g.tgisinternal)
), edge as materialized (
	-- Since PostgreSQL 16 it is the membership that inherits, before it was the role.
	select m.member, m.roleid, m.admin_option as admin, coalesce((to_jsonb(m) ->> 'inherit_option')::bool, r.rolinherit) as inherit
	from pg_auth_members m join pg_roles r on r.oid = m.member
	union all -- as the manual has it in Predefined Roles
	select db.datdba, r.oid, false, false from db, pg_roles r where r.rolname = 'pg_database_owner'
), member as (
	-- What each direct membership leads to, itself included.
	select r.oid as role, e.roleid as direct, e.roleid as oid from role r join edge e on e.member = r.oid
	union
	select m.role, m.direct, e.roleid from member m join edge e on e.member = m.oid
), tenant_role as materialized (
	select m.oid, pg_get_userbyid(m.oid)::text as name from (select distinct m.oid from member m) m where pg_get_userbyid(m.oid) ~ '^t_[0-9a-f]{32}$'
), danger as materialized (
	-- Roles that the application's may not be able to become. Tenants' have rules of
	-- their own.
	select m.oid, m.rolname::text as name from pg_roles m, db
	where (m.rolsuper or m.rolbypassrls or m.rolcreaterole or m.rolreplication or m.oid = db.datdba
		or m.rolname ~ '^pg_' or m.rolname = $2::text
		or m.oid in (select rel.owner from rel) or m.oid in (select ns.owner from ns) or m.oid in (select proc.owner from proc))
		and m.oid not in (select oid from tenant_role)
), carried as (
	select m.oid from member m where m.oid in (select oid from danger)
	union
	select e.roleid from carried c join edge e on e.member = c.oid
), reach as materialized (
	-- Whose privileges a role has: its own and, by set role, those of each that
	-- it is a member of, whether it inherits them or not. What it has by a
	-- dangerous one isn't told: that it is a member is. 0 is public.
	select r.oid as role, r.name as role_name, r.oid, r.name, false as tenant from role r where not r.rolsuper
	union
	select r.oid, r.name, m.oid, pg_get_userbyid(m.oid)::text, m.oid in (select oid from tenant_role)
	from role r join member m on m.role = r.oid
	where not r.rolsuper and m.oid not in (select oid from carried)
	union all
	select r.oid, r.name, 0, '', false from role r where not r.rolsuper
), acl as materialized (
	select rel.oid, a.grantee, a.privilege_type from rel, aclexplode(rel.acl) a where a.grantee <> rel.owner
	union all
	select a.attrelid, x.grantee, x.privilege_type
	from pg_attribute a join rel on rel.oid = a.attrelid, aclexplode(a.attacl) x
	where a.attacl is not null
), allowed as materialized (
	-- Whether a role of a tenant's has no more in the tenant's schema than it should.
	select acl.oid, acl.privilege_type, reach.role_name, reach.name,
		reach.tenant and reach.name = rel.schema and not rel.partition and rel.kind <> 'f'
			and (rel.kind = 'S' or acl.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')) as home
	from acl join reach on reach.oid = acl.grantee join rel on rel.oid = acl.oid
	where rel.owner <> reach.role
), access as materialized (
	select a.oid, json_agg(distinct jsonb_build_object('role', a.role_name, 'via', a.name, 'privilege', lower(a.privilege_type))) as grants
	from allowed a where not a.home group by a.oid
), db_access as materialized (
	select reach.role, reach.name, a.privilege_type
	from db, aclexplode(coalesce(db.acl, acldefault('d', db.datdba))) a
	join reach on reach.oid = a.grantee
	where db.datdba <> reach.role
), ns_access as materialized (
	select reach.role, ns.name as schema, ns.tenant is not null as tenants, reach.name, reach.tenant, a.privilege_type
	from ns, aclexplode(ns.acl) a
	join reach on reach.oid = a.grantee
	where ns.owner <> reach.role and a.grantee <> ns.owner and not (reach.tenant and reach.name = ns.name and a.privilege_type = 'USAGE')
), file_proc as materialized (
	select p.oid::regprocedure::text as name, p.proname, reach.role, reach.name as via
	from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
	join reach on reach.oid = a.grantee
	where p.pronamespace = 'pg_catalog'::regnamespace and a.privilege_type = 'EXECUTE' and p.proname in (
		'lo_import', 'lo_export', 'pg_read_file', 'pg_read_binary_file', 'pg_ls_dir', 'pg_stat_file', 'lo_creat', 'lo_create', 'lo_from_bytea',
		'lo_open', 'lo_get', 'lo_put', 'lo_unlink', 'loread', 'lowrite', 'lo_truncate', 'lo_truncate64')
), free as materialized (
	select m.oid from pg_roles m where m.rolsuper or m.rolbypassrls
), opclass as materialized (
	-- Whether the operators that an index of this class serves are leakproof.
	select o.oid, coalesce(bool_and(p.proleakproof), true) as leakproof
	from pg_opclass o
	join pg_am m on m.oid = o.opcmethod
	left join pg_amop a on a.amopfamily = o.opcfamily and a.amoppurpose = 's' and a.amoplefttype = o.opcintype
		and (m.amname not in ('btree', 'hash', 'brin') or a.amoprighttype = o.opcintype)
	left join pg_operator r on r.oid = a.amopopr
	left join pg_proc p on p.oid = r.oprcode
	where o.oid in (select unnest(i.indclass::oid[]) from pg_index i join rel on rel.oid = i.indrelid where rel.tenants and rel.tenant is null)
	group by o.oid
), policy as materialized (
	select p.oid, p.polrelid, p.polname, p.polpermissive, p.polcmd, p.polroles = '{0}' as everyone,
		replace(coalesce(pg_get_expr(p.polqual, p.polrelid), ''), coalesce(rel.tenant, '?'), '{tenant}') as using,
		replace(coalesce(pg_get_expr(p.polwithcheck, p.polrelid), ''), coalesce(rel.tenant, '?'), '{tenant}') as check
	from pg_policy p join rel on rel.oid = p.polrelid where rel.tenants
), policy_function as materialized (
	select d.objid as oid, array_agg(distinct d.refobjid::bigint) as functions from pg_depend d
	where d.classid = 'pg_policy'::regclass and d.refclassid = 'pg_proc'::regclass group by d.objid
)
