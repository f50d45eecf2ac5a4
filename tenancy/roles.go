package tenancy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// RoleError says why row level security would not bind a role, or not hold
// for a table that the role can reach. It matches [ErrUnsafeRole].
type RoleError struct {
	Role   string
	Faults []Fault
}

// Fault is one reason, and the statement that mends it, to be run by the
// owner or a superuser.
type Fault struct {
	Class  string // such as "superuser", "owner", "not_forced": for metrics and tests
	Detail string
	Mend   string
}

// Error lists every fault with the statement that mends it.
func (e *RoleError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %q", ErrUnsafeRole, e.Role)
	for _, f := range e.Faults {
		fmt.Fprintf(&b, "\n  %s: %s\n    mend: %s", f.Class, f.Detail, f.Mend)
	}
	return b.String()
}

// Is reports whether target is [ErrUnsafeRole].
func (e *RoleError) Is(target error) bool { return target == ErrUnsafeRole }

// The role is judged by session_user: whatever the connection has set its
// role to, a statement can reset it to that. A statement can also set it to any
// role that this one is a member of, whether it inherits from it or not, so that
// theirs are its privileges too.
const roleSQL = `
with self as (
	select r.oid, r.rolsuper, r.rolbypassrls, r.rolcreaterole, d.oid as db, d.datdba
	from pg_roles r, pg_database d
	where r.rolname = session_user and d.datname = current_database()
), members as (
	select m.oid, m.rolname, m.oid <> s.oid and (m.rolsuper or m.rolbypassrls or m.rolcreaterole
		or m.oid = s.datdba or m.rolname ~ '^pg_') as mighty
	from self s, pg_roles m where pg_has_role(s.oid, m.oid, 'member')
), reach as (select oid, rolname from members where not mighty),
schemas as (
	select oid, nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'
)
select session_user::text, current_database()::text,
	s.rolsuper, s.rolbypassrls, s.rolcreaterole,
	array(select rolname::text from members where mighty order by 1),
	array(select rolname::text from reach where oid <> s.oid order by 1),
	s.oid = s.datdba,
	exists (select from reach where has_database_privilege(oid, s.db, 'temporary')),
	array(select nspname::text from schemas n where exists (select from reach where has_schema_privilege(oid, n.oid, 'create')) order by 1),
	exists (select from schemas n, reach where n.nspname = 'mcpsaas' and has_schema_privilege(reach.oid, n.oid, 'usage')),
	exists (select from reach where has_database_privilege(oid, s.db, 'create')),
	to_regclass('public.tenant_marker') is not null
from self s`

// A tenants' table is one with a column tenant_id. It counts if the role, or
// one of those in its reach ($1), can do anything with it.
const tenantTablesSQL = `
with reach as (select oid from pg_roles where rolname = session_user or rolname = any ($1))
select n.nspname, c.relname, c.relkind in ('r', 'p'), pg_get_userbyid(c.relowner)::text,
	pg_has_role(session_user, c.relowner, 'member'),
	c.relrowsecurity, c.relforcerowsecurity, c.relispartition,
	exists (select from reach r where has_table_privilege(r.oid, c.oid, 'truncate, trigger')
		or has_any_column_privilege(r.oid, c.oid, 'references')),
	coalesce((select array_agg(p.polname::text order by p.polname) from pg_policy p where p.polrelid = c.oid), '{}'),
	coalesce((select array_agg(p.polpermissive order by p.polname) from pg_policy p where p.polrelid = c.oid), '{}'),
	coalesce((select array_agg(p.polcmd = '*' and p.polroles = '{0}' order by p.polname) from pg_policy p where p.polrelid = c.oid), '{}'),
	coalesce((select array_agg(coalesce(pg_get_expr(p.polqual, p.polrelid), '') order by p.polname) from pg_policy p where p.polrelid = c.oid), '{}'),
	coalesce((select array_agg(coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '') order by p.polname) from pg_policy p where p.polrelid = c.oid), '{}')
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'm', 'f') and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'mcpsaas')
	and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped)
	and (pg_has_role(session_user, c.relowner, 'member')
		or exists (select from reach r where has_any_column_privilege(r.oid, c.oid, 'select, insert, update, references')
			or has_table_privilege(r.oid, c.oid, 'delete, truncate, trigger')))
order by 1, 2`

// querier is what the catalog is read through.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// checkRole returns a [*RoleError] unless row level security binds the role
// that q runs as, on every tenants' table that it can reach.
func checkRole(ctx context.Context, q querier) error {
	var role, database string
	var super, bypass, createRole, ownsDatabase, temporary, control, creates, migrated bool
	var mighty, reach, creatable []string
	err := q.QueryRow(ctx, roleSQL).Scan(&role, &database, &super, &bypass, &createRole, &mighty, &reach, &ownsDatabase,
		&temporary, &creatable, &control, &creates, &migrated)
	if err != nil {
		return fmt.Errorf("tenancy: check the role: %w", redact(err))
	}
	if !migrated {
		return fmt.Errorf("tenancy: the database has no table tenant_marker: run tenancy.Migrate on it first")
	}
	var faults []Fault
	add := func(class, detail, mend string, args ...any) {
		faults = append(faults, Fault{Class: class, Detail: detail, Mend: fmt.Sprintf(mend, args...)})
	}
	name, db := pgx.Identifier{role}.Sanitize(), pgx.Identifier{database}.Sanitize()
	// Whom a privilege may have come by.
	holders := grantees(append([]string{role}, reach...)...)
	switch {
	case super:
		add("superuser", "a superuser bypasses every policy", "alter role %s nosuperuser;", name)
	case bypass:
		add("bypassrls", "the role bypasses every policy", "alter role %s nobypassrls;", name)
	}
	if super {
		// It has every privilege there is: further faults would say nothing.
		return &RoleError{Role: role, Faults: faults}
	}
	if createRole {
		add("createrole", "the role can make itself a member of others", "alter role %s nocreaterole;", name)
	}
	for _, m := range mighty {
		add("member", fmt.Sprintf("the role can act as %q", m), "revoke %s from %s;", pgx.Identifier{m}.Sanitize(), name)
	}
	if ownsDatabase {
		add("owner", "the role owns the database; connect as "+AppRole+" instead", "alter database %s owner to <another role>;", db)
		return &RoleError{Role: role, Faults: faults}
	}
	if temporary {
		add("temporary", "temporary tables outlive a tenant's transaction", "revoke temporary on database %s from %s;", db, holders)
	}
	if creates {
		add("create", "the role can create schemas", "revoke create on database %s from %s;", db, holders)
	}
	for _, schema := range creatable {
		add("create", fmt.Sprintf("the role can create tables in schema %q", schema),
			"revoke create on schema %s from %s;", pgx.Identifier{schema}.Sanitize(), holders)
	}
	if control {
		add("control_schema", "the role can reach the control tables", "revoke usage on schema mcpsaas from %s;", holders)
	}
	tables, err := reachableTables(ctx, q, reach)
	if err != nil {
		return err
	}
	signed := slices.ContainsFunc(tables, func(t reachableTable) bool {
		return slices.Equal(t.id, pgx.Identifier{"public", "tenant_marker"}) && t.isSigned()
	})
	for _, t := range tables {
		faults = append(faults, t.faults(append([]string{role}, reach...), signed)...)
	}
	if len(faults) > 0 {
		return &RoleError{Role: role, Faults: faults}
	}
	return nil
}

// reachableTable is a tenants' table that the role can do something with.
type reachableTable struct {
	id        pgx.Identifier
	plain     bool // a table or a partitioned table: row level security can hold
	owner     string
	owned     bool
	enabled   bool
	forced    bool
	partition bool
	excess    bool // may truncate, reference or attach triggers
	policies  []policy
}

// isSigned reports whether the table's policies want a signed context: the
// marker's say so for all.
func (t reachableTable) isSigned() bool {
	return slices.ContainsFunc(t.policies, func(p policy) bool { return p.Name == shapeOf(tenant.ID{}, true, true).guardName() })
}

func reachableTables(ctx context.Context, q querier, reach []string) ([]reachableTable, error) {
	rows, err := q.Query(ctx, tenantTablesSQL, reach)
	if err != nil {
		return nil, fmt.Errorf("tenancy: read the tables: %w", redact(err))
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (reachableTable, error) {
		t := reachableTable{id: make(pgx.Identifier, 2)}
		var names, using, check []string
		var permissive, whole []bool
		err := row.Scan(&t.id[0], &t.id[1], &t.plain, &t.owner, &t.owned, &t.enabled, &t.forced, &t.partition, &t.excess,
			&names, &permissive, &whole, &using, &check)
		for i := range names {
			t.policies = append(t.policies, policy{names[i], permissive[i], whole[i], using[i], check[i]})
		}
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("tenancy: read the tables: %w", redact(err))
	}
	return tables, nil
}

// grantees lists everybody and the roles as a revoke does.
func grantees(roles ...string) string {
	list := []string{"public"}
	for _, role := range roles {
		list = append(list, pgx.Identifier{role}.Sanitize())
	}
	return strings.Join(list, ", ")
}

func (t reachableTable) faults(roles []string, signed bool) []Fault {
	var faults []Fault
	add := func(class, detail, mend string) {
		faults = append(faults, Fault{Class: class, Detail: strings.Join(t.id, ".") + ": " + detail, Mend: mend})
	}
	table := t.id.Sanitize()
	if !slices.Contains(roles, AppRole) {
		roles = append([]string{AppRole}, roles...)
	}
	revoke := func(what string) string {
		return fmt.Sprintf("revoke %s on %s from %s;", what, table, grantees(roles...))
	}
	switch {
	case t.owned:
		add("owner", fmt.Sprintf("the role is, or can act as, the owner %q", t.owner),
			fmt.Sprintf("alter table %s owner to <the owner of the database>;", table))
	case !t.plain:
		add("no_policies", "row level security can't hold for a materialized view or a foreign table", revoke("all"))
		return faults
	case t.partition:
		add("partition", "the policies of the partitioned table don't hold for a partition that is named itself", revoke("all"))
		return faults
	}
	if t.excess {
		add("excess", "truncate is not subject to row level security; references and trigger see every row",
			revoke("truncate, references, trigger"))
	}
	switch {
	case !t.enabled:
		add("not_enabled", "row level security is off", fmt.Sprintf("alter table %s enable row level security;", table))
	case !t.forced:
		add("not_forced", "row level security is not forced on the owner", fmt.Sprintf("alter table %s force row level security;", table))
	}
	p := tenantTable(t.id, signed)
	if owner := schemaOwner(t.id[0]); !owner.IsZero() {
		p = schemaTable(owner, t.id[1], true, signed)
	}
	if !p.intact(t.policies) {
		add("policies", "the generated policies are missing or were changed", p.mend())
	}
	return faults
}
