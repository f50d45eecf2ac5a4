package tenancy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// policyExpr is what makes a row the tenant's own. NULLIF because the setting
// reads as the empty string instead of NULL once a transaction of the session
// has set it, and the empty string is no uuid. The select around it is
// evaluated once per statement instead of once per row.
const policyExpr = `tenant_id = (select NULLIF(current_setting('` + Setting + `', true), '')::uuid)`

// defaultExpr fills tenant_id for an insert that doesn't name it.
const defaultExpr = `NULLIF(current_setting('` + Setting + `', true), '')::uuid`

// The names of the policies carry a hash of their body, so that a later
// version of this package, or an edit, shows in the name.
var (
	policyHash   = hashOf(policyExpr)
	guardPolicy  = "tenant_guard_" + policyHash
	accessPolicy = "tenant_access_" + policyHash
)

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}

// protection is one table and who gets which privileges on it.
type protection struct {
	table        pgx.Identifier
	app, control string // comma-separated privileges
}

// tenantTable is what a table of the tenants' own data gets. The control role
// reads it for an export and empties it for an erasure, under the policies.
func tenantTable(table pgx.Identifier) protection {
	return protection{table: table, app: "select, insert, update, delete", control: "select, delete"}
}

// PolicySQL returns the statements that protect a table: row level security,
// enabled and forced on the owner too; a restrictive policy, which no further
// policy can widen, and the permissive one that row level security wants
// besides, both for every command, with USING and WITH CHECK; tenant_id not
// null and filled from the context; an index that begins with tenant_id; and
// for [AppRole] the privileges to select, insert, update and delete, no more.
//
// The text is for your own migrations and may be run again. It expects the
// roles that [Migrate] creates. table is a name, or a schema and a name with a
// dot between them, spelled as in the catalog: it is quoted here. The schema
// defaults to public.
func PolicySQL(table string) (string, error) {
	id, err := parseTable(table)
	if err != nil {
		return "", err
	}
	return tenantTable(id).sql(), nil
}

// parseTable reads "name" or "schema.name".
func parseTable(table string) (pgx.Identifier, error) {
	parts := strings.Split(table, ".")
	if len(parts) == 1 {
		parts = []string{"public", table}
	}
	if len(parts) != 2 || parts[0] == "" || parts[1] == "" || strings.ContainsRune(table, 0) || strings.Contains(table, "$$") {
		return nil, fmt.Errorf("tenancy: table %q: want a name, or a schema and a name with a dot between", table)
	}
	return parts, nil
}

func (p protection) sql() string { return p.fill(protectSQL + policiesSQL + grantsSQL) }

// mend is what is missing if only the policies are.
func (p protection) mend() string { return p.fill(dropSQL + policiesSQL) }

func (p protection) fill(text string) string {
	return strings.NewReplacer(
		"{table}", p.table.Sanitize(),
		"{literal}", quoteLiteral(p.table.Sanitize()),
		"{expr}", policyExpr,
		"{default}", defaultExpr,
		"{guard}", pgx.Identifier{guardPolicy}.Sanitize(),
		"{access}", pgx.Identifier{accessPolicy}.Sanitize(),
		"{app}", p.app,
		"{control}", p.control,
	).Replace(text)
}

const protectSQL = `alter table {table} enable row level security;
alter table {table} force row level security;
alter table {table} alter column tenant_id set not null;
alter table {table} alter column tenant_id set default {default};
do $$
declare
	old name;
begin
	-- Policies that an earlier version generated.
	for old in
		select polname from pg_policy
		where polrelid = {literal}::regclass and polname ~ '^tenant_(guard|access)_[0-9a-f]{8}$'
	loop
		execute format('drop policy %I on %s', old, {literal});
	end loop;
	if not exists (
		select from pg_index i
		join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
		where i.indrelid = {literal}::regclass and i.indisvalid and i.indpred is null and a.attname = 'tenant_id'
	) then
		create index on {table} (tenant_id);
	end if;
end $$;
`

const dropSQL = `drop policy if exists {guard} on {table};
drop policy if exists {access} on {table};
`

const policiesSQL = `create policy {guard} on {table} as restrictive for all to public
	using ({expr})
	with check ({expr});
create policy {access} on {table} as permissive for all to public
	using ({expr})
	with check ({expr});
`

// The owner keeps all its privileges: the policies are forced on it.
const grantsSQL = `revoke all on {table} from public, app_user, mcpsaas_control;
grant {app} on {table} to app_user;
grant {control} on {table} to mcpsaas_control;
`

// quoteLiteral quotes s as a string constant; standard_conforming_strings is
// on by default since PostgreSQL 9.1.
func quoteLiteral(s string) string {
	if strings.Contains(s, `\`) {
		return ` E'` + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + `'`
	}
	return `'` + strings.ReplaceAll(s, `'`, `''`) + `'`
}
