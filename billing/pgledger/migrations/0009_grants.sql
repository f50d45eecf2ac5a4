-- Units that a tenant has for nothing or has paid for before: usage that occurred
-- while one is valid is taken from it before any is billed. remaining is what the
-- entries below add up to.
create table mcpsaas.billing_grants (
	id         uuid        not null primary key,
	tenant_id  uuid        not null,
	kind       text        not null check (kind in ('free', 'prepaid')),
	units      bigint      not null check (units > 0),
	remaining  bigint      not null check (remaining between 0 and units),
	priority   integer     not null,
	starts_at  timestamptz not null,
	expires_at timestamptz check (expires_at > starts_at),
	reference  text        not null,
	created_at timestamptz not null,
	actor      text        not null,
	reason     text        not null,
	unique (tenant_id, reference)
);
create index billing_grants_left on mcpsaas.billing_grants (tenant_id) where remaining > 0;

-- Every movement of units, from one account of a grant to another, for ever: what
-- is debited is credited.
create table mcpsaas.billing_grant_entries (
	id        bigint generated always as identity primary key,
	at        timestamptz not null,
	grant_id  uuid        not null references mcpsaas.billing_grants,
	debit     text        not null check (debit in ('issued', 'available', 'burned')),
	credit    text        not null check (credit in ('available', 'burned', 'revoked')),
	units     bigint      not null check (units > 0),
	events_in uuid, -- burned for, or returned from, the events of this batch
	actor     text        not null,
	reason    text        not null default '',
	check (debit <> credit)
);
create index billing_grant_entries_grant on mcpsaas.billing_grant_entries (grant_id, id);
create index billing_grant_entries_events on mcpsaas.billing_grant_entries (events_in) where events_in is not null;

create function mcpsaas.billing_grant_entries_append_only() returns trigger language plpgsql as $$
begin
	raise exception 'mcpsaas.billing_grant_entries is append only';
end $$;
create trigger append_only before update or delete or truncate on mcpsaas.billing_grant_entries
	for each statement execute function mcpsaas.billing_grant_entries_append_only();

-- granted is how many of the units of its events grants have covered; quantity is
-- the rest.
alter table mcpsaas.usage_batches
	drop constraint usage_batches_quantity_check,
	add column granted bigint not null default 0 check (granted >= 0),
	add constraint usage_batches_quantity_check check (quantity >= 0 and quantity + granted > 0);

-- What a batch was taken back for was not owed, so the grants have their units
-- again; once, should its events have been in two batches.
create function mcpsaas.billing_grants_return() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
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
	end loop;
	return null;
end $$;
create trigger grants_return after update of state on mcpsaas.usage_batches
	for each row when (new.state = 'voided' and old.state <> 'voided' and new.granted > 0)
	execute function mcpsaas.billing_grants_return();
