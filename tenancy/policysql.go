package tenancy

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// PolicySQL returns the statement that protects a table: row level security,
// enabled and forced on the owner too; a restrictive policy, which no further
// policy can widen, and the permissive one that row level security wants
// besides, both for every command, with USING and WITH CHECK; tenant_id not
// null and filled from the context; an index that begins with tenant_id; and
// for [AppRole] the privileges to select, insert, update and delete, no more.
//
// The text is for your own migrations and may be run again, under any
// search_path. Whether the policies want a signed context it finds out where it is
// run: see [SignContext]. It expects the roles that [Migrate] creates. table is a name, or
// a schema and a name with a dot between them, spelled as in the catalog: it is
// quoted here. The schema defaults to public.
func PolicySQL(table string) (string, error) {
	id, err := parseTable(table)
	if err != nil {
		return "", err
	}
	return tenantTable(id, false).sql(), nil
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

func (p protection) sql() string {
	text := protectSQL
	if p.column {
		text += columnSQL
		if p.owner.IsZero() {
			text += indexSQL // in a tenant's own schema all rows are its
		}
	}
	either := `	if (` + strings.TrimPrefix(signedSQL, "select ") + `) then
` + p.signed(true).policies() + `	else
` + p.signed(false).policies() + `	end if;
`
	return p.fill(blockSQL(dropOldSQL + text + either + grantsSQL))
}

// mend is what is missing if only the policies are.
func (p protection) mend() string { return p.fill(blockSQL(dropOldSQL + p.policies())) }

func (s shape) policies() string {
	text := policiesSQL
	if !s.owner.IsZero() {
		// USING holds for what is written, too, if it stands alone. To print an
		// expression takes the database 10 us, and there may be thousands of schemas
		// to be judged.
		text = strings.ReplaceAll(text, "\n\t\twith check ({guard expr})", "")
		text = strings.ReplaceAll(text, "\n\t\twith check ({access expr})", "")
	}
	return strings.NewReplacer(
		"{guard expr}", s.guard.expr(s.owner),
		"{access expr}", s.access.expr(s.owner),
		"{guard}", pgx.Identifier{s.guardName()}.Sanitize(),
		"{access}", pgx.Identifier{s.accessName()}.Sanitize(),
	).Replace(text)
}

func (p protection) fill(text string) string {
	return strings.NewReplacer(
		"{table}", p.table.Sanitize(),
		"{literal}", quoteLiteral(p.table.Sanitize()),
		"{default}", defaultExpr,
		"{role}", pgx.Identifier{p.role}.Sanitize(),
		"{everyone}", grantees(p.everyone()...),
		"{app}", p.app,
		"{control}", p.control,
	).Replace(text)
}

// everyone are those whose privileges are decided here.
func (p protection) everyone() []string {
	if p.role == AppRole {
		return []string{AppRole, ControlRole}
	}
	return []string{p.role, AppRole, ControlRole}
}

// blockSQL makes one statement of several. What policies and defaults call is
// bound when they are made: a function named current_setting, or an operator of
// NULLIF's, in a schema that stands before pg_catalog must not be it.
func blockSQL(statements string) string {
	return `do $$
declare
	path pg_catalog.text := pg_catalog.current_setting('search_path');
	old pg_catalog.name;
begin
	perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
` + statements + `	perform pg_catalog.set_config('search_path', path, true);
end $$;
`
}

const dropOldSQL = `	-- Policies that an earlier version generated.
	for old in
		select polname from pg_policy
		where polrelid = {literal}::regclass and polname ~ '^tenant_(guard|access)_[0-9a-f]{8}$'
	loop
		execute format('drop policy %I on %s', old, {literal});
	end loop;
`

const protectSQL = `	alter table {table} enable row level security;
	alter table {table} force row level security;
`

const columnSQL = `	alter table {table} alter column tenant_id set not null;
	alter table {table} alter column tenant_id set default {default};
`

const indexSQL = `	if not exists (
		select from pg_index i
		join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
		where i.indrelid = {literal}::regclass and i.indisvalid and i.indpred is null and a.attname = 'tenant_id'
	) then
		create index on {table} (tenant_id);
	end if;
`

const policiesSQL = `	create policy {guard} on {table} as restrictive for all to public
		using ({guard expr})
		with check ({guard expr});
	create policy {access} on {table} as permissive for all to public
		using ({access expr})
		with check ({access expr});
`

// The owner keeps all its privileges: the policies are forced on it.
const grantsSQL = `	revoke all on {table} from {everyone};
	grant {app} on {table} to {role};
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
