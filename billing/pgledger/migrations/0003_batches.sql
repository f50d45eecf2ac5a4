create table mcpsaas.usage_batches (
	id            uuid        not null primary key,
	-- The batch that the events are attached to: this one, or, for a tenant
	-- with two targets, the first of those sealed together.
	events_in     uuid        not null,
	tenant_id     uuid        not null,
	target_id     bigint      not null references mcpsaas.billing_targets,
	period_start  timestamptz not null,
	period_end    timestamptz not null,
	quantity      bigint      not null check (quantity > 0),
	events        integer     not null,
	first_event   timestamptz not null,
	last_event    timestamptz not null,
	slot          timestamptz not null,
	state         text        not null default 'sealed' check (state in
		('sealed', 'sending', 'verifying', 'unknown', 'confirmed', 'parked', 'rejected', 'voided', 'written_off')),
	attempt       integer     not null default 0,
	epoch         integer     not null default 1,
	epoch_at      timestamptz,
	refused       boolean     not null default false,
	sealed_at     timestamptz not null,
	first_sent_at timestamptz,
	last_sent_at  timestamptz,
	lease_until   timestamptz,
	next_at       timestamptz not null,
	confirmed_at  timestamptz,
	request_id    text        not null default '',
	reason        text        not null default '',
	unique (target_id, slot)
);
create index usage_batches_open on mcpsaas.usage_batches (target_id, slot)
	where state in ('sealed', 'sending', 'verifying', 'unknown');
create index usage_batches_doubt on mcpsaas.usage_batches (target_id, first_sent_at)
	where state in ('sending', 'verifying', 'unknown');
create index usage_batches_oldest on mcpsaas.usage_batches (sealed_at)
	where state in ('sealed', 'sending', 'verifying', 'unknown');
create index usage_batches_unsettled on mcpsaas.usage_batches (state, tenant_id)
	where state in ('sealed', 'sending', 'verifying', 'unknown', 'parked', 'rejected');
create index usage_batches_period on mcpsaas.usage_batches (target_id, period_start);

-- Every step of every batch, for ever. Append only: see the trigger.
create table mcpsaas.usage_batch_log (
	id         bigint generated always as identity primary key,
	batch_id   uuid        not null,
	at         timestamptz not null,
	attempt    integer     not null,
	state      text        not null,
	actor      text        not null,
	request_id text        not null default '',
	reason     text        not null default ''
);
create index usage_batch_log_batch on mcpsaas.usage_batch_log (batch_id, id);

create function mcpsaas.usage_batch_log_append_only() returns trigger language plpgsql as $$
begin
	raise exception 'mcpsaas.usage_batch_log is append only';
end $$;
create trigger append_only before update or delete or truncate on mcpsaas.usage_batch_log
	for each statement execute function mcpsaas.usage_batch_log_append_only();

-- When the provider last answered, and last refused our credential.
create table mcpsaas.billing_signals (
	name text        not null primary key,
	at   timestamptz not null
);
