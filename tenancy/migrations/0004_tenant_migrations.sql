-- What of the application's own files was applied to which schema of this
-- database, and how the last attempt at one ended that wasn't.
create table mcpsaas.tenant_migrations (
	schema_name  text        not null,
	version      bigint      not null,
	name         text        not null,
	checksum     text        not null,
	tenant_id    uuid,                 -- null: the shared schema
	attempted_at timestamptz not null default clock_timestamp(),
	applied_at   timestamptz,          -- null: not applied
	duration     interval,
	error        text,                 -- of the last attempt, if that failed
	-- Of a file that runs outside of a transaction: how many of its statements
	-- are done, and whether the next was begun and nobody knows how it ended.
	statements   int         not null default 0,
	running      boolean     not null default false,
	primary key (schema_name, version)
);
