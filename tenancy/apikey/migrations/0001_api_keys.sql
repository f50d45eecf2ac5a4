-- API keys. A row is marked when it is no longer wanted, not deleted: replicas
-- follow the table by what changed. Only probes' keys, which live for a minute,
-- are deleted, long after they expired.
create table mcpsaas.api_keys (
	id           text        primary key check (id ~ '^[0-9A-Za-z]{12}$'),
	tenant_id    uuid        not null,
	name         text        not null,
	scopes       text[]      not null,
	-- HMAC-SHA256 of the whole token under the pepper that pepper_id names.
	hash         bytea       not null check (octet_length(hash) = 32),
	pepper_id    text        not null,
	-- The key that onboarding made; there is one per tenant, for ever.
	first        boolean     not null default false,
	created_by   text        not null,
	created_at   timestamptz not null default now(),
	expires_at   timestamptz,
	revoked_at   timestamptz,
	-- Not part of what replicas follow: it changes without changed and version.
	last_used_at timestamptz,
	version      bigint      not null default 1,
	changed      xid8        not null default pg_current_xact_id()
);
create unique index api_keys_first on mcpsaas.api_keys (tenant_id) where first;
create index api_keys_tenant on mcpsaas.api_keys (tenant_id, created_at);
create index api_keys_changed on mcpsaas.api_keys (changed);

-- The first key's token, sealed, until the tenant fetches it. The row is
-- deleted by whoever reads it, so it is read once.
create table mcpsaas.api_key_handoffs (
	tenant_id  uuid        primary key,
	key_id     text        not null references mcpsaas.api_keys (id) on delete cascade,
	sealed     bytea       not null,
	pepper_id  text        not null,
	expires_at timestamptz not null
);
