-- How many units of a grant are not to be used any more: it was revoked, or paid
-- back. They are taken from what is left, and from what comes back later.
alter table mcpsaas.billing_grants add column taken_back bigint not null default 0 check (taken_back between 0 and units);
update mcpsaas.billing_grants g set taken_back = units
where exists (select from mcpsaas.billing_grant_entries e where e.grant_id = g.id and e.credit = 'revoked');

-- Takes from a grant what is still to be taken and is there. The caller holds its
-- row.
create function mcpsaas.billing_grant_take_back(taken uuid, at timestamptz, actor text, reason text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
	n bigint := (
		select least(g.remaining, g.taken_back - coalesce((
			select sum(e.units) from mcpsaas.billing_grant_entries e where e.grant_id = g.id and e.credit = 'revoked'), 0)::bigint)
		from mcpsaas.billing_grants g where g.id = taken);
begin
	if n > 0 then
		update mcpsaas.billing_grants set remaining = remaining - n where id = taken;
		insert into mcpsaas.billing_grant_entries (at, grant_id, debit, credit, units, actor, reason)
		values (at, taken, 'available', 'revoked', n, actor, reason);
	end if;
end $$;
revoke execute on function mcpsaas.billing_grant_take_back(uuid, timestamptz, text, text) from public;
grant execute on function mcpsaas.billing_grant_take_back(uuid, timestamptz, text, text) to mcpsaas_control;

create or replace function mcpsaas.billing_grants_return() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
	burned record;
begin
	for burned in
		select e.grant_id, sum(case when e.credit = 'burned' then e.units else -e.units end) as units
		from mcpsaas.billing_grant_entries e
		where e.events_in = new.events_in group by 1 having sum(case when e.credit = 'burned' then e.units else -e.units end) > 0
		order by 1
	loop
		update mcpsaas.billing_grants set remaining = remaining + burned.units where id = burned.grant_id;
		insert into mcpsaas.billing_grant_entries (at, grant_id, debit, credit, units, events_in, actor, reason)
		values (clock_timestamp(), burned.grant_id, 'burned', 'available', burned.units, new.events_in, 'worker', 'batch ' || new.id || ' was voided');
		perform mcpsaas.billing_grant_take_back(burned.grant_id, clock_timestamp(), 'worker', 'it was taken back before');
	end loop;
	return null;
end $$;
