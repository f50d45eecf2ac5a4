-- A batch that is being taken back: whether the provider has done so is not known
-- until it is voided, or confirmed as before.
alter table mcpsaas.usage_batches
	drop constraint usage_batches_state_check,
	add constraint usage_batches_state_check check (state in
		('sealed', 'sending', 'verifying', 'unknown', 'confirmed', 'parked', 'rejected', 'voiding', 'voided', 'written_off', 'moved'));
create index usage_batches_voiding on mcpsaas.usage_batches (tenant_id) where state = 'voiding';
-- One batch stands for one that was moved, whoever moved it.
create unique index usage_batches_moved_from on mcpsaas.usage_batches (moved_from) where moved_from is not null;
-- To explain an event, and a tenant's period.
create index usage_batches_events_in on mcpsaas.usage_batches (events_in);
create index usage_batches_tenant on mcpsaas.usage_batches (tenant_id, period_end);

-- What people decided, for ever: who, when, why, what came of it.
create table mcpsaas.billing_operations (
	id        bigint generated always as identity primary key,
	at        timestamptz not null,
	verb      text        not null,
	actor     text        not null check (actor <> ''),
	reason    text        not null check (reason <> ''),
	tenant_id uuid,
	batch_id  uuid,
	detail    jsonb       not null
);
create index billing_operations_tenant on mcpsaas.billing_operations (tenant_id, id);

create function mcpsaas.billing_operations_append_only() returns trigger language plpgsql as $$
begin
	raise exception 'mcpsaas.billing_operations is append only';
end $$;
create trigger append_only before update or delete or truncate on mcpsaas.billing_operations
	for each statement execute function mcpsaas.billing_operations_append_only();
