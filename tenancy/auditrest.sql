json_build_object(
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
	where rel.tenants and rel.tenant is null),
'foreign_keys', (select coalesce(json_agg(json_build_object(
	'table', k.conrelid::bigint, 'target', k.confrelid::bigint, 'name', k.conname,
	'columns', (select json_agg(a.attname order by c.n) from unnest(k.conkey) with ordinality c(attnum, n)
		join pg_attribute a on a.attrelid = k.conrelid and a.attnum = c.attnum),
	'target_columns', (select json_agg(a.attname order by c.n) from unnest(k.confkey) with ordinality c(attnum, n)
		join pg_attribute a on a.attrelid = k.confrelid and a.attnum = c.attnum),
	'on_update', k.confupdtype, 'on_delete', k.confdeltype, 'full', k.confmatchtype = 'f', 'crosses', rel.schema <> target.schema and (rel.tenant is not null or target.tenant is not null),
	'deferrable', k.condeferrable, 'deferred', k.condeferred
	) order by k.conname), '[]')
	from pg_constraint k join rel on rel.oid = k.conrelid join rel target on target.oid = k.confrelid
	where k.contype = 'f' and k.conparentid = 0 and (rel.tenants and target.tenants and rel.tenant is null
		or rel.schema <> target.schema and (rel.tenant is not null or target.tenant is not null))),
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
