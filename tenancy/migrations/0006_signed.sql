-- The keys that a tenant's context may be signed with. A key is kept as the two
-- blocks that HMAC makes of it (RFC 2104), so that to verify takes no more than
-- sha256. Several are valid at once, while one takes the other's place. Nobody
-- but the owner reads them: the control role has signed what it wants signed.
create table mcpsaas.signing_keys (
	id         text        primary key check (id ~ '^[A-Za-z0-9_-]{1,40}$'),
	inner_pad  bytea       not null check (length(inner_pad) = 64),
	outer_pad  bytea       not null check (length(outer_pad) = 64),
	created_at timestamptz not null default clock_timestamp()
);
revoke all on mcpsaas.signing_keys from mcpsaas_control;

-- current_tenant is the tenant whom the transaction's token was signed for, and
-- null without a token. A token is "tenant.expiry.key.mac": a uuid, seconds since
-- 1970, a key's id, and the HMAC-SHA-256 of what stands before it, in hex. One that
-- isn't sound fails with TN003, because no rows without an error would pass for
-- the truth.
--
-- What expires is the right to begin: the expiry is compared with the beginning of
-- the transaction, so that one which takes longer sees the same from its first
-- statement to its last. A key that is taken away ends it at once.
--
-- The two codes are compared as hashes, so that how long a comparison takes tells
-- nothing of the right one. Everything is named in full, because the function runs
-- as its owner with the caller's search_path; and what is sound takes one query,
-- because in a function each expression costs a microsecond or two. Call it within
-- (select ...): once per statement, not per row.
create function mcpsaas_app.current_tenant() returns uuid
language plpgsql stable parallel safe security definer as $$
declare
	tenant pg_catalog.uuid;
begin
	select pg_catalog.left(t.token, 36)::pg_catalog.uuid into tenant
	from (select pg_catalog.current_setting('app.current_tenant_token', true) as token offset 0) t
	join mcpsaas.signing_keys k on k.id operator(pg_catalog.=) pg_catalog.split_part(t.token, '.', 3)
	where case
		when pg_catalog.sha256(pg_catalog.sha256(k.outer_pad operator(pg_catalog.||) pg_catalog.sha256(k.inner_pad operator(pg_catalog.||)
				pg_catalog.convert_to(pg_catalog.left(t.token, -65), 'UTF8'))))
			operator(pg_catalog.=) pg_catalog.sha256(pg_catalog.decode(pg_catalog.right(t.token, 64), 'hex'))
		then pg_catalog.split_part(t.token, '.', 2)::pg_catalog.float8 operator(pg_catalog.>) pg_catalog.date_part('epoch', pg_catalog.now())
	end;
	if tenant is null and pg_catalog.current_setting('app.current_tenant_token', true) operator(pg_catalog.<>) '' then
		raise exception using errcode = 'TN003', message = 'the tenant''s context is not signed, or the signature has expired';
	end if;
	return tenant;
end $$;
-- Every role's that is bound by the policies: it tells each no more than whom its
-- own token is of.
grant execute on function mcpsaas_app.current_tenant to public;

-- token signs a context for the owner and the control role, who act for any
-- tenant. Without a key there is nothing to sign for.
create function mcpsaas.token(tenant text) returns text
language plpgsql volatile parallel safe security definer as $$
declare
	key mcpsaas.signing_keys;
	payload pg_catalog.text;
begin
	select k.* into key from mcpsaas.signing_keys k order by k.created_at using operator(pg_catalog.>) limit 1;
	if key.id is null then
		return '';
	end if;
	payload := pg_catalog.concat(tenant, '.', (pg_catalog.date_part('epoch', pg_catalog.now()) operator(pg_catalog.+) 60)::pg_catalog.int8, '.', key.id);
	return pg_catalog.concat(payload, '.', pg_catalog.encode(pg_catalog.sha256(key.outer_pad operator(pg_catalog.||)
		pg_catalog.sha256(key.inner_pad operator(pg_catalog.||) pg_catalog.convert_to(payload, 'UTF8'))), 'hex'));
end $$;
revoke all on function mcpsaas.token from public;
grant execute on function mcpsaas.token to mcpsaas_control;
