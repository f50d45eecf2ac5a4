create table mcpsaas.billing_notices (
	id          text        not null primary key,
	type        text        not null,
	created     timestamptz not null,
	object_id   text        not null,
	customer    text        not null,
	api_version text        not null,
	live        boolean     not null,
	payload     bytea       not null,
	-- Notices of one lane are worked on one at a time: the customer, or the
	-- object where no customer is named.
	lane        text        not null,
	state       text        not null default 'new' check (state in ('new', 'working', 'applied', 'ignored', 'dead')),
	attempt     integer     not null default 0, -- the fence: never falls
	tries       integer     not null default 0, -- attempts since it was last put in the queue
	next_at     timestamptz not null,
	lease_until timestamptz,
	received_at timestamptz not null,
	finished_at timestamptz,
	tenant_id   uuid,
	reason      text        not null default ''
);
create unique index billing_notices_lane on mcpsaas.billing_notices (lane) where state = 'working';
create index billing_notices_due on mcpsaas.billing_notices (next_at, id) where state in ('new', 'working');
create index billing_notices_waiting on mcpsaas.billing_notices (received_at) where state in ('new', 'working');
create index billing_notices_dead on mcpsaas.billing_notices (received_at) where state = 'dead';
create index billing_notices_received on mcpsaas.billing_notices (received_at);
