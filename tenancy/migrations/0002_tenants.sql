create table mcpsaas.tenants (
	-- A row is never deleted: a deleted tenant's id stays as a tombstone.
	id           uuid        primary key,
	name         text        not null default '',
	plan         text        not null check (plan <> ''),
	status       text        not null check (status <> ''),
	-- Where the tenant's rows live. A change of plan only asks for a move.
	placement    text        not null default 'shared' check (placement in ('shared', 'schema', 'database')),
	schema_name  text,
	database_ref text,
	epoch        bigint      not null default 1,
	period_start timestamptz,
	period_end   timestamptz check (period_end > period_start),
	version      bigint      not null default 1,
	-- The transaction that wrote the row last: replicas follow the table by it.
	changed      xid8        not null default pg_current_xact_id(),
	created_at   timestamptz not null default now(),
	updated_at   timestamptz not null default now(),
	deleted_at   timestamptz,
	check ((period_start is null) = (period_end is null)),
	-- The sentinel of the row-level-security canary is nobody's id.
	check (id <> '5e471e15-0000-4000-8000-000000000000')
);
create index tenants_changed on mcpsaas.tenants (changed);
