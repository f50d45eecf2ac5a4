-- What the rules of the audit judge, as one JSON object: one statement, so that
-- everything is seen at one moment and in one round trip. $1 are the names of
-- the application's roles, $2 is the name of the control role.
with role as materialized (
	select r.oid, r.rolname::text as name, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolreplication, r.rolinherit
	from pg_roles r where r.rolname = any ($1::text[])
), db as materialized (
	select d.oid, d.datname::text as name, d.datdba, d.datacl as acl from pg_database d where d.datname = current_database()
), ns as materialized (
	select n.oid, n.nspname::text as name, n.nspowner as owner, n.nspacl as acl
	from pg_namespace n where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
), tenant_column as materialized (
	select a.attrelid, a.attnum, format_type(a.atttypid, null) as type, a.attnotnull as not_null,
		coalesce(pg_get_expr(d.adbin, d.adrelid), '') as preset
	from pg_attribute a
	join pg_class c on c.oid = a.attrelid and c.relkind in ('r', 'p', 'v', 'm', 'f')
	left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
	where a.attname = 'tenant_id' and not a.attisdropped
), rel as materialized (
	select c.oid, n.name as schema, c.relname::text as name, c.relkind as kind, c.relowner as owner, c.relacl as acl,
		c.relrowsecurity as enabled, c.relforcerowsecurity as forced, c.relispartition as partition, c.reloptions as options,
		t.attnum, t.type, t.not_null, t.preset,
		c.relkind in ('r', 'p') and n.name <> 'mcpsaas' and t.attnum is not null as tenants
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
), danger as materialized (
	-- Roles that the application's may not be able to become.
	select m.oid, m.rolname::text as name from pg_roles m, db
	where m.rolsuper or m.rolbypassrls or m.rolcreaterole or m.rolreplication or m.oid = db.datdba
		or m.rolname ~ '^pg_' or m.rolname = $2::text
		or m.oid in (select rel.owner from rel) or m.oid in (select ns.owner from ns) or m.oid in (select proc.owner from proc)
), reach as materialized (
	-- Whose privileges a role has: its own and, by set role, those of each that
	-- it is a member of, whether it inherits them or not. What it has by a
	-- dangerous one isn't told: that it is a member is. 0 is public.
	select r.oid as role, r.name as role_name, m.oid, m.rolname::text as name
	from role r join pg_roles m on m.oid = r.oid or pg_has_role(r.oid, m.oid, 'member') and not exists (
		select from danger d where d.oid <> r.oid and pg_has_role(r.oid, d.oid, 'member') and pg_has_role(d.oid, m.oid, 'member'))
	where not r.rolsuper
	union all
	select r.oid, r.name, 0, '' from role r where not r.rolsuper
), acl as materialized (
	select rel.oid, a.grantee, a.privilege_type from rel, aclexplode(rel.acl) a
	union
	select a.attrelid, x.grantee, x.privilege_type
	from pg_attribute a join rel on rel.oid = a.attrelid, aclexplode(a.attacl) x
	where a.attacl is not null
), access as materialized (
	select acl.oid, json_agg(json_build_object('role', reach.role_name, 'via', reach.name, 'privilege', lower(acl.privilege_type))
		order by reach.role_name, reach.name, acl.privilege_type) as grants
	from acl join reach on reach.oid = acl.grantee join rel on rel.oid = acl.oid
	where rel.owner <> reach.role
	group by acl.oid
), db_access as materialized (
	select reach.role, reach.name, a.privilege_type
	from db, aclexplode(coalesce(db.acl, acldefault('d', db.datdba))) a
	join reach on reach.oid = a.grantee
	where db.datdba <> reach.role
), ns_access as materialized (
	select reach.role, ns.name as schema, reach.name, a.privilege_type
	from ns, aclexplode(ns.acl) a
	join reach on reach.oid = a.grantee
	where ns.owner <> reach.role
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
	where o.oid in (select unnest(i.indclass::oid[]) from pg_index i join rel on rel.oid = i.indrelid where rel.tenants)
	group by o.oid
)
select json_build_object(
'version', current_setting('server_version_num')::int,
'database', (select name from db),
'database_owner', (select pg_get_userbyid(datdba) from db),
'control_owner', coalesce((select pg_get_userbyid(ns.owner) from ns where ns.name = 'mcpsaas'), ''),
'user', current_user,
'may_act', coalesce((select bool_or(has_function_privilege(p.oid, 'execute')) from pg_proc p join ns on ns.oid = p.pronamespace
	where ns.name = 'mcpsaas' and p.proname = 'token' and has_schema_privilege(ns.oid, 'usage')), false),
'large_object_compat', current_setting('lo_compat_privileges')::bool,
'marker_readable', coalesce((select has_table_privilege(rel.oid, 'select') and has_schema_privilege('public', 'usage')
	from rel where rel.schema = 'public' and rel.name = 'tenant_marker'), false),
'roles', (select coalesce(json_agg(json_build_object(
	'name', r.name, 'super', r.rolsuper, 'bypass', r.rolbypassrls, 'create_role', r.rolcreaterole,
	'replication', r.rolreplication, 'inherit', r.rolinherit,
	'member', (select coalesce(json_agg(json_build_object('role', g.rolname, 'reaches',
			(select json_agg(d.name order by d.name) from danger d where pg_has_role(g.oid, d.oid, 'member'))) order by g.rolname), '[]')
		from pg_auth_members a join pg_roles g on g.oid = a.roleid
		where a.member = r.oid and exists (select from danger d where pg_has_role(g.oid, d.oid, 'member'))),
	'owns_database', (select datdba = r.oid from db),
	'temporary', (select coalesce(json_agg(a.name order by a.name), '[]') from db_access a where a.role = r.oid and a.privilege_type = 'TEMPORARY'),
	'create', (select coalesce(json_agg(a.name order by a.name), '[]') from db_access a where a.role = r.oid and a.privilege_type = 'CREATE'),
	'creatable', (select coalesce(json_agg(json_build_object('schema', a.schema, 'via', a.via) order by a.schema), '[]')
		from (select a.schema, json_agg(a.name order by a.name) as via from ns_access a
			where a.role = r.oid and a.privilege_type = 'CREATE' group by a.schema) a),
	'owned_schemas', (select coalesce(json_agg(ns.name order by ns.name), '[]') from ns where ns.owner = r.oid),
	'control_usage', (select coalesce(json_agg(a.name order by a.name), '[]') from ns_access a
		where a.role = r.oid and a.schema = 'mcpsaas' and a.privilege_type = 'USAGE'),
	'functions', (select coalesce(json_agg(json_build_object('name', f.name, 'via', f.via,
		'files', f.proname in ('lo_import', 'lo_export') or f.proname ~ '^pg_') order by f.name), '[]')
		from (select f.name, f.proname, json_agg(f.via order by f.via) as via from file_proc f where f.role = r.oid group by 1, 2) f),
	'large_objects', (select count(*) from pg_largeobject_metadata l
		where exists (select from aclexplode(coalesce(l.lomacl, acldefault('L', l.lomowner))) a
			where a.grantee in (select reach.oid from reach where reach.role = r.oid))),
	'reach', (select coalesce(json_agg(reach.name order by reach.name), '[]') from reach where reach.role = r.oid and reach.oid <> 0)
	) order by r.name), '[]') from role r),
'control', (select json_build_object('name', r.rolname, 'login', r.rolcanlogin, 'super', r.rolsuper, 'bypass', r.rolbypassrls, 'create_role', r.rolcreaterole)
	from pg_roles r where r.rolname = $2::text),
'relations', (select coalesce(json_agg(json_build_object(
	'oid', rel.oid::bigint, 'schema', rel.schema, 'name', rel.name, 'kind', rel.kind,
	'owner', pg_get_userbyid(rel.owner), 'owner_free', rel.owner in (select oid from free),
	'enabled', rel.enabled, 'forced', rel.forced, 'partition', rel.partition, 'tenants', rel.tenants,
	'invoker', coalesce((select o.option_value::bool from pg_options_to_table(rel.options) o where o.option_name = 'security_invoker'), false),
	'column', case when rel.attnum is not null then json_build_object('type', rel.type, 'not_null', rel.not_null, 'preset', rel.preset) end,
	'parents', (select coalesce(json_agg(h.inhparent::bigint), '[]') from pg_inherits h where h.inhrelid = rel.oid),
	'reads', case when rel.kind in ('v', 'm') then (select coalesce(json_agg(distinct d.refobjid::bigint), '[]')
		from pg_rewrite w
		join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
		where w.ev_class = rel.oid and d.refobjid <> rel.oid) else '[]' end,
	'public', exists (select from acl where acl.oid = rel.oid and acl.grantee = 0),
	'access', access.grants
	) order by rel.schema, rel.name), '[]') from rel left join access on access.oid = rel.oid),
'policies', (select coalesce(json_agg(json_build_object(
	'table', p.polrelid::bigint, 'name', p.polname, 'permissive', p.polpermissive, 'command', p.polcmd,
	'everyone', p.polroles = '{0}',
	'using', coalesce(pg_get_expr(p.polqual, p.polrelid), ''), 'check', coalesce(pg_get_expr(p.polwithcheck, p.polrelid), ''),
	'functions', (select coalesce(json_agg(distinct d.refobjid::bigint), '[]') from pg_depend d
		where d.classid = 'pg_policy'::regclass and d.objid = p.oid and d.refclassid = 'pg_proc'::regclass)
	) order by p.polname), '[]') from pg_policy p join rel on rel.oid = p.polrelid where rel.tenants),
'indexes', (select coalesce(json_agg(json_build_object(
	'table', i.indrelid::bigint, 'name', x.relname, 'unique', i.indisunique, 'primary', i.indisprimary, 'exclusion', i.indisexclusion,
	'usable', i.indisvalid and i.indpred is null, 'inherited', x.relispartition,
	'scoped', rel.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1]), 'leads', i.indkey[0] = rel.attnum,
	'leaky', (select coalesce(json_agg(k.col order by k.col), '[]') from (
			select pg_get_indexdef(i.indexrelid, k.n::int, false) as col
			from unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality k(attnum, class, n)
			left join opclass on opclass.oid = k.class
			where k.n <= i.indnkeyatts and k.attnum <> rel.attnum and (not opclass.leakproof or k.attnum = 0 and exists (
				select from regexp_matches(i.indexprs::text, ':(?:funcid|opfuncid) (\d+)', 'g') f
				join pg_proc p on p.oid = f[1]::oid where not p.proleakproof))) k),
	-- Definitions are slow to print: only those that a mend may need.
	'constraint', coalesce(c.conname, ''),
	'constraint_def', case when c.oid is null or rel.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1]) then '' else pg_get_constraintdef(c.oid) end,
	'def', case when i.indisunique and (i.indrelid in (select confrelid from pg_constraint where contype = 'f')
			or not rel.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])) then pg_get_indexdef(i.indexrelid) else '' end
	) order by x.relname), '[]')
	from pg_index i
	join rel on rel.oid = i.indrelid
	join pg_class x on x.oid = i.indexrelid
	left join pg_constraint c on c.conindid = i.indexrelid and c.conrelid = i.indrelid and c.contype in ('p', 'u', 'x')
	where rel.tenants),
'foreign_keys', (select coalesce(json_agg(json_build_object(
	'table', k.conrelid::bigint, 'target', k.confrelid::bigint, 'name', k.conname,
	'columns', (select json_agg(a.attname order by c.n) from unnest(k.conkey) with ordinality c(attnum, n)
		join pg_attribute a on a.attrelid = k.conrelid and a.attnum = c.attnum),
	'target_columns', (select json_agg(a.attname order by c.n) from unnest(k.confkey) with ordinality c(attnum, n)
		join pg_attribute a on a.attrelid = k.confrelid and a.attnum = c.attnum),
	'on_update', k.confupdtype, 'on_delete', k.confdeltype, 'full', k.confmatchtype = 'f',
	'deferrable', k.condeferrable, 'deferred', k.condeferred
	) order by k.conname), '[]')
	from pg_constraint k join rel on rel.oid = k.conrelid join rel target on target.oid = k.confrelid
	where k.contype = 'f' and k.conparentid = 0 and rel.tenants and target.tenants),
'functions', (select coalesce(json_agg(json_build_object(
	'oid', p.oid::bigint, 'schema', p.schema, 'name', p.name, 'arguments', pg_get_function_identity_arguments(p.oid),
	'owner', pg_get_userbyid(p.owner), 'owner_free', p.owner in (select oid from free),
	'definer', p.prosecdef, 'leakproof', p.proleakproof, 'volatility', p.provolatile,
	'language', p.language, 'config', p.proconfig, 'source', case when p.schema = 'mcpsaas_app' then p.prosrc else '' end,
	'reads_settings', p.pronargs = 0 or p.prosrc ~* 'current_setting',
	'search_path', (select substr(s, 13) from unnest(p.proconfig) s where s like 'search_path=%'),
	'executable', (select coalesce(json_agg(distinct reach.name), '[]') from aclexplode(coalesce(p.acl, acldefault('f', p.owner))) a
		join reach on reach.oid = a.grantee where p.owner <> reach.role and a.privilege_type = 'EXECUTE')
	) order by p.schema, p.name), '[]') from proc p),
'triggers', (select coalesce(json_agg(json_build_object('table', g.tgrelid::bigint, 'name', g.tgname, 'function', g.tgfoid::bigint) order by g.tgname), '[]')
	from pg_trigger g join rel on rel.oid = g.tgrelid where rel.tenants and not g.tgisinternal and g.tgparentid = 0),
'rules', (select coalesce(json_agg(json_build_object('table', w.ev_class::bigint, 'name', w.rulename) order by w.rulename), '[]')
	from pg_rewrite w join rel on rel.oid = w.ev_class where rel.tenants),
'publications', (select coalesce(json_agg(json_build_object('table', rel.oid::bigint, 'name', p.pubname, 'all', p.puballtables,
	'listed', exists (select from pg_publication_rel l where l.prpubid = p.oid and l.prrelid = rel.oid)) order by p.pubname), '[]')
	from pg_publication_tables t
	join pg_publication p on p.pubname = t.pubname
	join rel on rel.schema = t.schemaname and rel.name = t.tablename
	where rel.tenants),
'settings', (select coalesce(json_agg(json_build_object('role', coalesce(r.name, ''), 'in_database', s.setdatabase <> 0,
	'name', split_part(v, '=', 1), 'value', substr(v, strpos(v, '=') + 1)) order by v), '[]')
	from pg_db_role_setting s
	cross join db
	cross join unnest(s.setconfig) v
	left join role r on r.oid = s.setrole
	where s.setdatabase in (0, db.oid) and (s.setrole = 0 or r.oid is not null)),
'default_privileges', (select coalesce(json_agg(json_build_object('creator', pg_get_userbyid(d.defaclrole), 'schema', coalesce(n.nspname, ''),
	'kind', d.defaclobjtype, 'grantee', coalesce(r.name, '')) order by 1), '[]')
	from (select distinct d.defaclrole, d.defaclnamespace, d.defaclobjtype, a.grantee
		from pg_default_acl d, aclexplode(d.defaclacl) a where d.defaclobjtype in ('r', 'S')) d
	left join pg_namespace n on n.oid = d.defaclnamespace
	left join (select distinct oid, name from reach where oid <> 0) r on r.oid = d.grantee
	where d.defaclrole <> d.grantee and (d.grantee = 0 or r.name is not null))
)
