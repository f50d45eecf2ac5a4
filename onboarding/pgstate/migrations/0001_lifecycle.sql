-- Where each tenant stands and what it should be. A row is never deleted: that
-- of a deleted tenant is its tombstone.
create table mcpsaas.tenant_lifecycle (
	tenant           uuid        primary key references mcpsaas.tenants (id) deferrable initially deferred,
	state            text        not null check (state in (
		'requested', 'provisioning', 'failed', 'active', 'updating', 'update_failed', 'suspended',
		'deprovision_scheduled', 'deprovisioning', 'deprovision_failed', 'purging', 'cancelled', 'deleted')),
	desired          jsonb       not null,
	desired_version  bigint      not null,
	observed_version bigint      not null,
	billing_seq      bigint      not null,
	generation       bigint      not null,
	-- Who works on it. Every write is guarded by state and fence, so that an
	-- owner who stalled past its lease writes nothing.
	lease_owner      text,
	lease_until      timestamptz,
	fence            bigint      not null,
	-- When there is work to do; null: none until someone asks.
	next_at          timestamptz,
	failure          jsonb,
	archive_name     text,
	archive_digest   text,
	created_at       timestamptz not null default now(),
	updated_at       timestamptz not null default now(),
	activated_at     timestamptz,
	closed_at        timestamptz,
	archived_at      timestamptz,
	buried_at        timestamptz,
	check ((lease_owner is null) = (lease_until is null)),
	-- Nothing is purged without an archive that was read back.
	check (state not in ('purging', 'deleted') or archive_digest is not null and archived_at is not null)
);
create index tenant_lifecycle_due on mcpsaas.tenant_lifecycle (next_at) where next_at is not null;
create index tenant_lifecycle_state on mcpsaas.tenant_lifecycle (state, tenant);

create table mcpsaas.tenant_steps (
	tenant     uuid        not null references mcpsaas.tenant_lifecycle (tenant),
	op         text        not null,
	name       text        not null,
	ordinal    bigint      generated always as identity,
	state      text        not null check (state in ('pending', 'running', 'done', 'failed')),
	attempt    int         not null,
	next_at    timestamptz,
	failure    jsonb,
	output     jsonb,
	started_at timestamptz,
	ended_at   timestamptz,
	primary key (tenant, op, name)
);

create table mcpsaas.audit_log (
	id         bigint      generated always as identity primary key,
	at         timestamptz not null default now(),
	tenant     uuid        not null,
	actor      text        not null,
	action     text        not null,
	reason     text        not null,
	from_state text        not null,
	to_state   text        not null
);
create index audit_log_tenant on mcpsaas.audit_log (tenant, id);

-- Append only, for the owner too.
create function mcpsaas.audit_log_is_append_only() returns trigger language plpgsql as $$
begin
	raise exception 'mcpsaas.audit_log is append only' using errcode = 'insufficient_privilege';
end $$;
create trigger audit_log_append_only before update or delete or truncate on mcpsaas.audit_log
	for each statement execute function mcpsaas.audit_log_is_append_only();
revoke update, delete on mcpsaas.audit_log from mcpsaas_control;
