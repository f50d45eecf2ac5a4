-- When an event is billed as having occurred: its own time, unless that can't
-- be. mark says why: 'ahead' came from a clock that runs ahead, 'late' belongs to
-- a billing period that no longer takes usage, the one that began at late_for.
alter table mcpsaas.usage_events
	add column bill_at timestamptz,
	add column mark text check (mark in ('ahead', 'late')),
	add column late_for timestamptz;
update mcpsaas.usage_events set bill_at = occurred_at;
alter table mcpsaas.usage_events alter column bill_at set not null;

drop index mcpsaas.usage_events_due;
create index usage_events_due on mcpsaas.usage_events (tenant_id, bill_at) where due;
create index usage_events_marked on mcpsaas.usage_events (recorded_at) where mark is not null;

-- The least and the greatest id of a batch's events, so that a month with
-- unbilled usage is known without looking for its events. NULL: not known.
alter table mcpsaas.usage_batches add column first_id uuid, add column last_id uuid;

-- The least UUIDv7 of a time.
create function mcpsaas.usage_event_id(at timestamptz) returns uuid
language sql immutable strict set search_path = pg_catalog, pg_temp as $$
	select (lpad(to_hex(floor(extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Makes the partition of the month that a time falls into, unless it is there.
-- Appends to other partitions go on meanwhile: attaching locks the parent
-- against changes of its shape alone, and usage_events_rest, which is all but
-- empty, for a moment. Returns what it did: made, there, busy (another is at
-- it), or crowded: usage_events_rest holds so much that it would be locked for
-- long.
create function mcpsaas.usage_make_month(at timestamptz) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '250ms' as $$
declare
	month timestamptz := date_trunc('month', at, 'UTC');
	low   uuid := mcpsaas.usage_event_id(month);
	high  uuid := mcpsaas.usage_event_id((month at time zone 'UTC' + interval '1 month') at time zone 'UTC');
	name  text := 'usage_events_' || to_char(month at time zone 'UTC', 'YYYY_MM');
	big   bigint;
begin
	if not pg_try_advisory_xact_lock(822003, 0) then
		return 'busy';
	end if;
	if exists (
		select from pg_inherits i join pg_class c on c.oid = i.inhrelid
		where i.inhparent = 'mcpsaas.usage_events'::regclass and mcpsaas.usage_bound(c.oid, 'FROM') <= low
			and mcpsaas.usage_bound(c.oid, 'TO') >= high
	) then
		return 'there';
	end if;
	select count(*) into big from (select from mcpsaas.usage_events_rest limit 100001) as r;
	if big > 100000 then
		return 'crowded';
	end if;
	execute format('create table mcpsaas.%I (like mcpsaas.usage_events including all)', name);
	-- Events of the month that came before it.
	lock table mcpsaas.usage_events_rest in access exclusive mode;
	execute format('with moved as (delete from mcpsaas.usage_events_rest where event_id >= %L and event_id < %L returning *)
		insert into mcpsaas.%I select * from moved', low, high, name);
	execute format('alter table mcpsaas.usage_events attach partition mcpsaas.%I for values from (%L) to (%L)', name, low, high);
	return 'made';
end $$;

-- A bound of a partition: FROM or TO. The default partition has none (NULL).
create function mcpsaas.usage_bound(partition oid, side text) returns uuid
language sql stable strict set search_path = pg_catalog, pg_temp as $$
	select case when bound ~ (side || ' \(MINVALUE\)') then '00000000-0000-0000-0000-000000000000'::uuid
		else substring(bound from side || ' \(''([0-9a-f-]{36})''\)')::uuid end
	from (select pg_get_expr(relpartbound, oid) as bound from pg_class where oid = partition) as c
$$;

-- Drops a partition of usage_events, unless something in it is yet to be billed
-- or proved to be. Returns what it did: dropped, absent, due, open (in a batch
-- that isn't settled). Only late comers to that very partition wait while it is
-- looked at; all others for the moment of the detachment, and never for longer
-- than lock_timeout, after which this fails and is tried again.
create function mcpsaas.usage_drop_month(name text, before timestamptz) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '250ms' as $$
declare
	month oid := (
		select c.oid from pg_inherits i join pg_class c on c.oid = i.inhrelid
		where i.inhparent = 'mcpsaas.usage_events'::regclass and c.relname = name
			and mcpsaas.usage_bound(c.oid, 'TO') <= mcpsaas.usage_event_id(before));
	unbilled boolean;
begin
	if month is null then
		return 'absent';
	end if;
	execute format('lock table mcpsaas.%I in share row exclusive mode', name);
	execute format('select exists (select from mcpsaas.%I where due)', name) into unbilled;
	if unbilled then
		return 'due';
	end if;
	if exists (
		select from mcpsaas.usage_batches b
		where b.state in ('sealed', 'sending', 'verifying', 'unknown', 'parked', 'rejected')
			and (b.first_id is null
				or b.first_id < mcpsaas.usage_bound(month, 'TO') and b.last_id >= mcpsaas.usage_bound(month, 'FROM'))
	) then
		return 'open';
	end if;
	execute format('alter table mcpsaas.usage_events detach partition mcpsaas.%I', name);
	execute format('drop table mcpsaas.%I', name);
	return 'dropped';
end $$;

revoke execute on function mcpsaas.usage_make_month(timestamptz), mcpsaas.usage_drop_month(text, timestamptz) from public;
grant execute on function mcpsaas.usage_make_month(timestamptz), mcpsaas.usage_drop_month(text, timestamptz) to mcpsaas_control;

-- What there is already becomes the first partition, up to the next month; it is
-- read once for that. From there on there is one for each month.
do $$
declare
	high uuid := mcpsaas.usage_event_id((date_trunc('month', now() at time zone 'UTC') + interval '1 month') at time zone 'UTC');
begin
	if exists (select from mcpsaas.usage_events) then
		alter table mcpsaas.usage_events detach partition mcpsaas.usage_events_rest;
		alter table mcpsaas.usage_events_rest rename to usage_events_first;
		create table mcpsaas.usage_events_rest partition of mcpsaas.usage_events default;
		execute format('with moved as (delete from mcpsaas.usage_events_first where event_id >= %L returning *)
			insert into mcpsaas.usage_events_rest select * from moved', high);
		execute format('alter table mcpsaas.usage_events attach partition mcpsaas.usage_events_first for values from (minvalue) to (%L)', high);
	end if;
	for i in 0..3 loop
		perform mcpsaas.usage_make_month(now() + i * interval '1 month');
	end loop;
end $$;
