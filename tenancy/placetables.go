package tenancy

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// dataTable is a table that has tenants' rows.
type dataTable struct {
	oid         uint32
	id          pgx.Identifier
	partitioned bool
	tenants     bool       // it has a column tenant_id; else all its rows are of the tenant whose schema it is in
	columns     []column   // in their order, without those that are dropped
	key         []string   // the columns of the primary key; none: it has none
	references  []uint32   // the tables that its foreign keys point at
	sequences   []sequence // that its columns take their values from
}

// column is a column of a table.
type column struct {
	name      string
	kind      string // its type with the modifier, as search_path has it written
	notNull   bool
	generated bool   // its value is computed from others'
	identity  string // "a" always, "d" by default, or empty
	expr      string // of the default or of what is computed; may be empty
}

// sequence is what a column takes its values from.
type sequence struct {
	id     pgx.Identifier
	column string
}

func (t dataTable) name() string { return strings.Join(t.id, ".") }

// logical is the table's name in whatever place the tenant is: a tenant's own
// schema stands for public.
func (t dataTable) logical() pgx.Identifier {
	if tenantSchema.MatchString(t.id[0]) {
		return pgx.Identifier{"public", t.id[1]}
	}
	return t.id
}

// from is what to select from: rows of a table that inherits from this one are
// that one's.
func (t dataTable) from() string {
	if t.partitioned {
		return t.id.Sanitize()
	}
	return "only " + t.id.Sanitize()
}

// generatedPolicy matches the names of our own.
var generatedPolicy = regexp.MustCompile(`^tenant_(guard|access)_[0-9a-f]{8}$`)

const (
	dataTablesSQL = `
select c.oid, n.nspname, c.relname, c.relkind = 'p', own.tenants,
	coalesce((select array_agg(a.attname::text order by k.n) from pg_index i
		cross join unnest(i.indkey::int2[]) with ordinality k (attnum, n)
		join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
		where i.indrelid = c.oid and i.indisprimary), '{}'),
	array(select distinct k.confrelid from pg_constraint k where k.conrelid = c.oid and k.contype = 'f'),
	row_security_active(c.oid) and has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'delete'),
	pol.names, pol.permissive, pol.whole, pol.using, pol.check
from pg_class c join pg_namespace n on n.oid = c.relnamespace
cross join lateral (select exists (select from pg_attribute a
	where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped) as tenants) own
cross join lateral (
	select coalesce(array_agg(p.polname::text order by p.polname), '{}') as names,
		coalesce(array_agg(p.polpermissive order by p.polname), '{}') as permissive,
		coalesce(array_agg(p.polcmd = '*' and p.polroles = '{0}' order by p.polname), '{}') as whole,
		coalesce(array_agg(coalesce(pg_get_expr(p.polqual, p.polrelid), '') order by p.polname), '{}') as using,
		coalesce(array_agg(coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '') order by p.polname), '{}') as check
	from pg_policy p where p.polrelid = c.oid
) pol
where c.relkind in ('r', 'p') and not c.relispartition
	and case when $1 = 'public' then own.tenants and n.nspname !~ '^pg_' and n.nspname !~ '^t_[0-9a-f]{32}$'
		and n.nspname not in ('information_schema', 'mcpsaas')
	else n.nspname = $1 end
order by 2, 3`

	dataColumnsSQL = `
select a.attrelid, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated <> '', a.attidentity::text,
	coalesce(pg_get_expr(d.adbin, d.adrelid), '')
from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = any ($1) and a.attnum > 0 and not a.attisdropped
order by a.attrelid, a.attnum`

	// Owned by the column: serial ('a') and identity ('i').
	dataSequencesSQL = `
select d.refobjid, n.nspname, c.relname, a.attname
from pg_depend d
join pg_class c on c.oid = d.objid and c.relkind = 'S'
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
	and d.deptype in ('a', 'i') and d.refobjid = any ($1)
order by 1, 2, 3`
)

// tables lists the tables that have the tenant's rows, and fails if one of them
// isn't protected, or has a policy that can hide some of the tenant's rows from
// it: they could be neither read nor deleted, and nobody would know. tx is one
// of [place.within].
func (p place) tables(ctx context.Context, tx pgx.Tx) ([]dataTable, error) {
	rows, err := tx.Query(ctx, dataTablesSQL, p.schema)
	if err != nil {
		return nil, err
	}
	var open, hidden []string
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (dataTable, error) {
		t := dataTable{id: make(pgx.Identifier, 2)}
		var protected bool
		var s tableState
		err := row.Scan(&t.oid, &t.id[0], &t.id[1], &t.partitioned, &t.tenants, &t.key, &t.references, &protected,
			&s.PolicyNames, &s.PolicyPermissive, &s.PolicyWhole, &s.PolicyUsing, &s.PolicyCheck)
		policies := s.policies()
		var owner tenant.ID
		if t.id[0] == SchemaName(p.tenant) {
			owner = p.tenant
		}
		if !protected || !shapeOf(owner, t.tenants, false).holds(policies) {
			open = append(open, t.name())
		}
		for _, policy := range policies {
			if !policy.Permissive && !generatedPolicy.MatchString(policy.Name) {
				hidden = append(hidden, fmt.Sprintf("%s by policy %q", t.name(), policy.Name))
			}
		}
		return t, err
	})
	if err != nil {
		return nil, err
	}
	if len(open) > 0 {
		return nil, fmt.Errorf("%w: %s: run tenancy.Protect", ErrUnprotected, strings.Join(open, ", "))
	}
	if len(hidden) > 0 {
		return nil, fmt.Errorf("%w: rows of the tenant may be hidden: %s", ErrUnprotected, strings.Join(hidden, ", "))
	}
	return tables, describeTables(ctx, tx, tables)
}

// describeTables adds what the tables consist of.
func describeTables(ctx context.Context, tx pgx.Tx, tables []dataTable) error {
	oids, at := make([]uint32, len(tables)), make(map[uint32]*dataTable, len(tables))
	for i := range tables {
		oids[i], at[tables[i].oid] = tables[i].oid, &tables[i]
	}
	rows, err := tx.Query(ctx, dataColumnsSQL, oids)
	if err != nil {
		return err
	}
	var oid uint32
	var c column
	_, err = pgx.ForEachRow(rows, []any{&oid, &c.name, &c.kind, &c.notNull, &c.generated, &c.identity, &c.expr}, func() error {
		at[oid].columns = append(at[oid].columns, c)
		return nil
	})
	if err != nil {
		return err
	}
	if rows, err = tx.Query(ctx, dataSequencesSQL, oids); err != nil {
		return err
	}
	var schema, name, of string
	_, err = pgx.ForEachRow(rows, []any{&oid, &schema, &name, &of}, func() error {
		at[oid].sequences = append(at[oid].sequences, sequence{pgx.Identifier{schema, name}, of})
		return nil
	})
	return err
}
