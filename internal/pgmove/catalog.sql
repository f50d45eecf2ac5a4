-- The tables of schema $1, as JSON. A trigger whose condition asks for the
-- parameter named $2 is taken to stand aside for rows that are carried over.
select coalesce(json_agg(json_build_object(
	'oid', c.oid::bigint, 'name', c.relname, 'kind', c.relkind, 'persistence', c.relpersistence,
	'protected', c.relrowsecurity and c.relforcerowsecurity,
	'inherits', exists (select from pg_inherits i join pg_class o on o.oid in (i.inhrelid, i.inhparent) and o.oid <> c.oid
		where c.oid in (i.inhrelid, i.inhparent) and c.relkind = 'r'),
	'rows', c.reltuples,
	'columns', (
		select coalesce(json_agg(json_build_object(
			'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'type_oid', a.atttypid::bigint,
			'base', (case when t.typtype = 'd' then t.typbasetype else t.oid end)::bigint,
			'base_type', format_type(case when t.typtype = 'd' then t.typbasetype else t.oid end, -1),
			'not_null', a.attnotnull, 'identity', a.attidentity, 'generated', a.attgenerated <> '',
			'textual', a.atttypid >= 16384 and (t.typtype <> 'b' or t.typcategory = 'A') and t.typtype <> 'e' or t.typsend = 0,
			'sequence', coalesce(s.name, ''), 'down', coalesce(s.down, false)
		) order by a.attnum), '[]')
		from pg_attribute a
		join pg_type t on t.oid = a.atttypid
		left join lateral (
			-- An identity's own sequence, or the one that the default asks.
			select quote_ident(sn.nspname) || '.' || quote_ident(sc.relname) as name, q.seqincrement < 0 as down
			from pg_depend d
			join pg_class sc on sc.oid = case when d.classid = 'pg_class'::regclass then d.objid else d.refobjid end and sc.relkind = 'S'
			join pg_namespace sn on sn.oid = sc.relnamespace
			join pg_sequence q on q.seqrelid = sc.oid
			where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
					and d.refobjid = a.attrelid and d.refobjsubid = a.attnum and d.deptype in ('i', 'a')
				or d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass and d.objid = (
					select f.oid from pg_attrdef f where f.adrelid = a.attrelid and f.adnum = a.attnum)
			limit 1
		) s on true
		where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
	),
	'key', (
		select coalesce(json_agg(a.attname order by k.n), '[]')
		from pg_index i, unnest(i.indkey) with ordinality k (attnum, n)
		join pg_attribute a on a.attnum = k.attnum
		where i.indrelid = c.oid and i.indisprimary and a.attrelid = c.oid
	),
	-- The columns whose values no two rows may share: all of them, if that takes an
	-- expression or a condition to say.
	'unique', (
		select coalesce(json_agg(distinct a.attname), '[]')
		from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
			and (a.attnum = any (i.indkey::int2[]) or i.indexprs is not null or i.indpred is not null)
		where i.indrelid = c.oid and (i.indisunique or i.indisexclusion) and not i.indisprimary
	),
	'constraints', (
		select coalesce(json_agg(json_build_object(
			'name', k.conname, 'type', k.contype, 'definition', pg_get_constraintdef(k.oid), 'deferrable', k.condeferrable,
			'columns', (select coalesce(json_agg(a.attname order by u.n), '[]') from unnest(k.conkey) with ordinality u (attnum, n)
				join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum),
			'indexed', exists (select from pg_index i where i.indrelid = c.oid and i.indisvalid and i.indpred is null
				and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> array(select a.attnum from pg_attribute a
					where a.attrelid = c.oid and a.attnum = any (k.conkey) and a.attname <> 'tenant_id')),
			'target', k.confrelid::bigint,
			'target_name', (select quote_ident(fn.nspname) || '.' || quote_ident(fc.relname)
				from pg_class fc join pg_namespace fn on fn.oid = fc.relnamespace where fc.oid = k.confrelid),
			'references', (select coalesce(json_agg(a.attname order by u.n), '[]') from unnest(k.confkey) with ordinality u (attnum, n)
				join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.attnum)
		) order by k.conname), '[]')
		from pg_constraint k
		where k.conrelid = c.oid and k.contype in ('u', 'c', 'f', 'x')
			-- A foreign key to a partitioned table has one of its own for each partition.
			and not exists (select from pg_constraint parent where parent.oid = k.conparentid and parent.conrelid = c.oid)
	),
	'triggers', (
		select coalesce(json_agg(g.tgname order by g.tgname), '[]')
		from pg_trigger g
		where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled in ('O', 'A')
			and g.tgname !~ '^mcpsaas_move_' and pg_get_triggerdef(g.oid) not like '%WHEN (%' || $2 || '%'
	),
	'rules', (select coalesce(json_agg(w.rulename order by w.rulename), '[]') from pg_rewrite w where w.ev_class = c.oid and w.ev_type <> '1')
) order by c.relname), '[]')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relkind in ('r', 'p', 'f', 'm') and not c.relispartition
