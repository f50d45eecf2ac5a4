-- What a tenant may spend on usage in a billing period, in the currency's smallest
-- unit. How many units that are depends on its plan.
create table mcpsaas.billing_caps (
	tenant_id uuid        not null primary key,
	amount    bigint      not null check (amount > 0),
	soft      boolean     not null,
	actor     text        not null,
	reason    text        not null,
	set_at    timestamptz not null
);
