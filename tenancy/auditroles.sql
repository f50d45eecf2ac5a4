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
	'member', (select coalesce(json_agg(json_build_object('role', g.name, 'reaches', g.reaches) order by g.name), '[]')
		from (select p.rolname::text as name, json_agg(d.name order by d.name) as reaches
			from member m join danger d on d.oid = m.oid join pg_roles p on p.oid = m.direct
			where m.role = r.oid and m.direct not in (select oid from tenant_role)
				and m.direct in (select g.roleid from pg_auth_members g where g.member = r.oid)
			group by p.rolname) g),
	'owns_database', (select datdba = r.oid from db),
	'temporary', (select coalesce(json_agg(a.name order by a.name), '[]') from db_access a where a.role = r.oid and a.privilege_type = 'TEMPORARY'),
	'create', (select coalesce(json_agg(a.name order by a.name), '[]') from db_access a where a.role = r.oid and a.privilege_type = 'CREATE'),
	'creatable', (select coalesce(json_agg(json_build_object('schema', a.schema, 'via', a.via) order by a.schema), '[]')
		from (select a.schema, json_agg(a.name order by a.name) as via from ns_access a
			where a.role = r.oid and a.privilege_type = 'CREATE' and not a.tenants group by a.schema) a),
	'owned_schemas', (select coalesce(json_agg(ns.name order by ns.name), '[]') from ns where ns.owner = r.oid),
	'control_usage', (select coalesce(json_agg(a.name order by a.name), '[]') from ns_access a
		where a.role = r.oid and a.schema = 'mcpsaas' and a.privilege_type = 'USAGE'),
	'schema_grants', (select coalesce(json_agg(json_build_object('schema', a.schema, 'via', a.name, 'privilege', lower(a.privilege_type))
			order by a.schema, a.name, a.privilege_type), '[]')
		from ns_access a where a.role = r.oid and (a.tenants or a.tenant and a.schema <> 'mcpsaas')),
	'functions', (select coalesce(json_agg(json_build_object('name', f.name, 'via', f.via,
		'files', f.proname in ('lo_import', 'lo_export') or f.proname ~ '^pg_') order by f.name), '[]')
		from (select f.name, f.proname, json_agg(f.via order by f.via) as via from file_proc f where f.role = r.oid group by 1, 2) f),
	'large_objects', (select count(distinct l.oid) from pg_largeobject_metadata l,
		aclexplode(coalesce(l.lomacl, acldefault('L', l.lomowner))) a
		where a.grantee in (select reach.oid from reach where reach.role = r.oid)),
	'reach', (select coalesce(json_agg(reach.name order by reach.name), '[]') from reach where reach.role = r.oid and reach.oid <> 0 and not reach.tenant)
	) order by r.name), '[]') from role r),
'control', (select json_build_object('name', r.rolname, 'login', r.rolcanlogin, 'super', r.rolsuper, 'bypass', r.rolbypassrls, 'create_role', r.rolcreaterole)
	from pg_roles r where r.rolname = $2::text),
'relations', (select coalesce(json_agg(json_build_object(
	'oid', rel.oid::bigint, 'schema', rel.schema, 'name', rel.name, 'kind', rel.kind,
	'owner', pg_get_userbyid(rel.owner), 'owner_free', rel.owner in (select oid from free),
	'enabled', rel.enabled, 'forced', rel.forced, 'partition', rel.partition, 'tenants', rel.tenants,
	'invoker', rel.options is not null and coalesce((select o.option_value::bool from pg_options_to_table(rel.options) o where o.option_name = 'security_invoker'), false),
	'column', case when rel.attnum is not null then json_build_object('type', rel.type, 'not_null', rel.not_null, 'preset', rel.preset) end,
	'parents', (select json_agg(h.inhparent::bigint) from pg_inherits h where h.inhrelid = rel.oid),
	'reads', case when rel.kind in ('v', 'm') then (select coalesce(json_agg(distinct d.refobjid::bigint), '[]')
		from pg_rewrite w
		join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
		where w.ev_class = rel.oid and d.refobjid <> rel.oid) else '[]' end,
	'public', rel.oid in (select acl.oid from acl where acl.grantee = 0),
	'home', rel.oid in (select allowed.oid from allowed where allowed.home),
	'access', access.grants
	) order by rel.schema, rel.name), '[]') from rel left join access on access.oid = rel.oid),
'policies', (select coalesce(json_agg(json_build_object(
	'tables', p.tables, 'name', p.polname, 'permissive', p.polpermissive, 'command', p.polcmd, 'everyone', p.everyone,
	'using', p.using, 'check', p.check, 'functions', coalesce(p.functions, '{}')) order by p.polname), '[]')
	from (select json_agg(p.polrelid::bigint) as tables, p.polname, p.polpermissive, p.polcmd, p.everyone, p.using, p.check, f.functions
		from policy p left join policy_function f on f.oid = p.oid
		group by p.polname, p.polpermissive, p.polcmd, p.everyone, p.using, p.check, f.functions) p),
'tenant_roles', (select coalesce(json_agg(json_build_object('name', t.name, 'login', p.rolcanlogin, 'super', p.rolsuper, 'bypass', p.rolbypassrls,
	'create_role', p.rolcreaterole, 'create_db', p.rolcreatedb, 'replication', p.rolreplication,
	'member', m.names, 'inherited', coalesce(i.inherited, '{}'), 'admin', coalesce(i.admin, '{}')) order by t.name), '[]')
	from tenant_role t join pg_roles p on p.oid = t.oid
	left join (select e.member, array_agg(g.rolname::text order by g.rolname) as names from edge e join pg_roles g on g.oid = e.roleid group by e.member) m on m.member = t.oid
	left join (select e.roleid, array_agg(r.name order by r.name) filter (where e.inherit) as inherited, array_agg(r.name order by r.name) filter (where e.admin) as admin
		from edge e join role r on r.oid = e.member where e.inherit or e.admin group by e.roleid) i on i.roleid = t.oid
	where p.rolcanlogin or p.rolsuper or p.rolbypassrls or p.rolcreaterole or p.rolcreatedb or p.rolreplication or m.names is not null or i.roleid is not null),
'schema_owners', (select coalesce(json_agg(json_build_object('schema', ns.name, 'owner', p.rolname) order by ns.name), '[]')
	from ns join pg_roles p on p.oid = ns.owner where ns.tenant is not null and p.oid in (select oid from tenant_role))
)
