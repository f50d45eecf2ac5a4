-- A batch that its own billing period no longer takes may be billed with the next
-- as another batch of the same events; that one says which it stands for.
alter table mcpsaas.usage_batches
	drop constraint usage_batches_state_check,
	add constraint usage_batches_state_check check (state in
		('sealed', 'sending', 'verifying', 'unknown', 'confirmed', 'parked', 'rejected', 'voided', 'written_off', 'moved')),
	add column moved_from uuid references mcpsaas.usage_batches;
create index usage_batches_closing on mcpsaas.usage_batches (period_end)
	where state in ('sealed', 'sending', 'verifying', 'unknown');

create index billing_periods_end on mcpsaas.billing_periods (period_end);

-- Where the provider's total differs from what was confirmed: an hour of a meter,
-- or a billing period of usage records. It is settled when it is gone, or when a
-- person has accepted it (settled_by); an accepted one that changes is open again.
create table mcpsaas.billing_drift (
	id          bigint generated always as identity primary key,
	tenant_id   uuid        not null,
	target_id   bigint      not null references mcpsaas.billing_targets,
	window_from timestamptz not null,
	window_to   timestamptz not null,
	confirmed   bigint      not null,
	provider    bigint      not null,
	drift       bigint      not null check (drift <> 0),
	found_at    timestamptz not null,
	checked_at  timestamptz not null,
	settled_at  timestamptz,
	settled_by  text        not null default '',
	reason      text        not null default '',
	unique (target_id, window_from, window_to)
);
create index billing_drift_open on mcpsaas.billing_drift (tenant_id) where settled_at is null;
