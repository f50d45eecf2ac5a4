-- The two tables of our own among the tenants' tables. Migrate protects them
-- with the same generated policies as any other.
create table public.tenant_config (
	tenant_id uuid not null,
	key       text not null,
	value     text not null,
	primary key (tenant_id, key)
);

-- One row per tenant, and one of the sentinel that no tenant may ever see: by
-- them a probe proves that isolation works, in both directions.
create table public.tenant_marker (
	tenant_id uuid primary key,
	marker    uuid not null default gen_random_uuid()
);
