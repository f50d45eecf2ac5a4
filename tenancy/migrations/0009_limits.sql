-- The limits that a tenant has of its own, as package tenant writes them. What
-- can't be read there would keep every replica from following this table.
create function mcpsaas.limits_valid(limits jsonb) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
	select jsonb_typeof(limits) = 'array' and not exists (
		select from jsonb_array_elements(case when jsonb_typeof(limits) = 'array' then limits else '[]' end) l
		where jsonb_typeof(l) <> 'object'
			or jsonb_typeof(l -> 'name') is distinct from 'string'
			or not coalesce(l ->> 'units' ~ '^-?[0-9]{1,18}$' and jsonb_typeof(l -> 'units') = 'number', false)
			or coalesce(jsonb_typeof(l -> 'per'), 'string') <> 'string'
			or coalesce(jsonb_typeof(l -> 'tool'), 'string') <> 'string'
			or coalesce(jsonb_typeof(l -> 'mode'), 'string') <> 'string')
$$;
alter table mcpsaas.tenants
	add column limits jsonb not null default '[]' check (mcpsaas.limits_valid(limits));
revoke all on function mcpsaas.limits_valid from public;
grant execute on function mcpsaas.limits_valid to mcpsaas_control;
