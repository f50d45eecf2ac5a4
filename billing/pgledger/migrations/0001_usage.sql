-- One row for each tool call. The primary key is the event's id alone, so that
-- an event is stored once however often it is sent. Ids are UUIDv7 (RFC 9562),
-- which sort by time: ranges of ids are ranges of time, and the table can be
-- partitioned by month without the date in the key. It starts with one
-- partition for everything; doc.go says how months are split off.
create table mcpsaas.usage_events (
	event_id    uuid        not null primary key,
	tenant_id   uuid        not null,
	tool        text        not null,
	plan        text        not null,
	units       bigint      not null check (units >= 0),
	outcome     text        not null,
	occurred_at timestamptz not null,
	recorded_at timestamptz not null,
	duration_us bigint      not null,
	unmetered   boolean     not null,
	request_id  text        not null,
	-- due: is to be billed and is in no batch yet. Kept equal to "has units, and
	-- a billing period of the tenant covers it or is about to".
	due         boolean     not null,
	batch_id    uuid,
	check (not due or batch_id is null and units > 0)
) partition by range (event_id);

create table mcpsaas.usage_events_rest partition of mcpsaas.usage_events default;

create index usage_events_tenant on mcpsaas.usage_events (tenant_id, occurred_at);
create index usage_events_due on mcpsaas.usage_events (tenant_id, occurred_at) where due;
create index usage_events_oldest on mcpsaas.usage_events (recorded_at) where due;

-- What usage_events says, by the hour: written in the same transaction, for the
-- rows that were really new.
create table mcpsaas.usage_hourly (
	tenant_id uuid        not null,
	hour      timestamptz not null,
	tool      text        not null,
	outcome   text        not null,
	calls     bigint      not null,
	units     bigint      not null,
	primary key (tenant_id, hour, tool, outcome)
);
