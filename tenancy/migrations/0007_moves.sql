-- A move of a tenant from one place to another, as the home database knows it.
-- The row of the last move that left a place says what became of the copy there.
create table mcpsaas.moves (
	id          bigint      generated always as identity primary key,
	tenant_id   uuid        not null references mcpsaas.tenants,
	source      text        not null,   -- placements, as people write them
	target      text        not null,
	epoch       bigint      not null,   -- the tenant's before the move
	state       text        not null check (state in
		('planned', 'copying', 'copied', 'caught_up', 'switching', 'switched', 'kept', 'purged', 'aborted')),
	-- Who works on it: what another process wrote since can't be overwritten.
	owner       uuid        not null,
	rows        bigint      not null default 0,   -- copied at first
	changes     bigint      not null default 0,   -- and carried over after that
	pause       interval,                         -- how long writers waited
	error       text        not null default '',  -- of the last attempt
	created_at  timestamptz not null default clock_timestamp(),
	updated_at  timestamptz not null default clock_timestamp(),
	switched_at timestamptz,
	keep_until  timestamptz                       -- the old copy, at the least
);
create unique index moves_running on mcpsaas.moves (tenant_id) where state not in ('kept', 'purged', 'aborted');
create index moves_tenant on mcpsaas.moves (tenant_id, id);
create index moves_kept on mcpsaas.moves (keep_until) where state = 'kept';

-- In each database that is an end of a move: who works on it. Every
-- transaction of a move locks its row, so that one that was taken over can do
-- no harm, however late it comes.
create table mcpsaas.move_ends (
	tenant_id uuid primary key,
	owner     uuid not null
);

-- Which rows of a tenant that is being moved were written since: only their
-- keys, because what counts is how they are when they are carried over.
create table mcpsaas.move_log (
	tenant_id  uuid  not null,
	table_name text  not null,
	key        jsonb not null
);
create index move_log_tenant on mcpsaas.move_log (tenant_id, table_name);
