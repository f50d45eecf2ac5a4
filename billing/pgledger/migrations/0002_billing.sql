-- Draws Change.Seq.
create sequence mcpsaas.billing_seq;

-- Whose a customer is. The first tenant keeps it.
create table mcpsaas.billing_accounts (
	customer   text        not null primary key,
	tenant_id  uuid        not null,
	email      text        not null default '',
	created_at timestamptz not null,
	updated_at timestamptz not null
);
create index billing_accounts_tenant on mcpsaas.billing_accounts (tenant_id);

-- What the provider said last; seq guards against an older word.
create table mcpsaas.billing_subscriptions (
	id                   text        not null primary key,
	tenant_id            uuid        not null,
	customer             text        not null,
	status               text        not null,
	plan                 text        not null,
	period_start         timestamptz not null,
	period_end           timestamptz not null,
	cancel_at_period_end boolean     not null,
	past_due_since       timestamptz,
	collection_paused    boolean     not null,
	ended_at             timestamptz,
	seq                  bigint      not null,
	updated_at           timestamptz not null
);
create index billing_subscriptions_tenant on mcpsaas.billing_subscriptions (tenant_id, seq);

-- Where usage goes. A target keeps its row, and so its slots, through
-- cancellation and return.
create table mcpsaas.billing_targets (
	id        bigint generated always as identity primary key,
	tenant_id uuid   not null,
	provider  text   not null,
	mode      text   not null,
	customer  text   not null,
	meter     text   not null,
	meter_id  text   not null,
	item      text   not null,
	-- What makes it this target: the item for usage records, else customer and
	-- meter, whose item may change.
	key       text   not null,
	unique (provider, mode, key)
);

-- Which usage goes to a target: what occurred in [since, until). It belongs to
-- the billing period [period_start, period_end), which may be longer: a plan
-- may change in the middle. While live, the next period follows on it.
create table mcpsaas.billing_periods (
	id              bigint generated always as identity primary key,
	tenant_id       uuid        not null,
	target_id       bigint      not null references mcpsaas.billing_targets,
	subscription_id text        not null,
	period_start    timestamptz not null,
	period_end      timestamptz not null,
	since           timestamptz not null,
	until           timestamptz not null,
	live            boolean     not null,
	check (period_start <= since and since <= until and until <= period_end)
);
create index billing_periods_tenant on mcpsaas.billing_periods (tenant_id, until);
create index billing_periods_live on mcpsaas.billing_periods (period_end) where live;
create index billing_periods_subscription on mcpsaas.billing_periods (subscription_id);
