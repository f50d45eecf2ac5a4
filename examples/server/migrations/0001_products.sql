-- The shop's own table. Isolation is added by tenancy.Protect; nothing in the
-- statements of this program mentions a tenant.
create table if not exists products (
    tenant_id   uuid        not null,
    id          uuid        not null default gen_random_uuid(),
    name        text        not null check (length(name) between 1 and 200),
    price_cents bigint      not null check (price_cents >= 0),
    created_at  timestamptz not null default now(),
    primary key (tenant_id, id)
);

create unique index if not exists products_name on products (tenant_id, name);
