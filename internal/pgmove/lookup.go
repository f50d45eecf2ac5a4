package pgmove

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// encodings refuses what would have to be converted on the way.
func (c *comparison) encodings() error {
	const sql = `select current_setting('server_encoding')`
	var a, b string
	if err := c.from.QueryRow(c.ctx, sql).Scan(&a); err != nil {
		return err
	}
	if err := c.to.QueryRow(c.ctx, sql).Scan(&b); err != nil {
		return err
	}
	if a != b {
		c.refuse("", "the databases have different encodings, %s and %s", a, b)
	}
	return nil
}

const foreignSQL = `
select distinct quote_ident(n.nspname) || '.' || quote_ident(c.relname)
from pg_constraint k
join pg_class c on c.oid = k.conrelid
join pg_namespace n on n.oid = c.relnamespace
where k.contype = 'f' and k.conparentid = 0 and k.confrelid = any ($1) and k.conrelid <> all ($1)
order by 1`

// foreign refuses tables that stay and refer to ones that go: their rows are
// the tenant's, and nothing says so.
func (c *comparison) foreign() error {
	var source, target []uint32
	for _, t := range c.tables {
		source, target = append(source, t.source.OID), append(target, t.target.OID)
	}
	if err := c.foreignAt(c.from, source); err != nil {
		return err
	}
	return c.foreignAt(c.to, target)
}

func (c *comparison) foreignAt(at *tx, oids []uint32) error {
	rows, err := at.Query(c.ctx, foreignSQL, oids)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, name := range names {
		c.refuse(name, "refers to rows of the tenant, and has no column tenant_id that says whose its own are")
	}
	return err
}

// lookups compares the tables that stay and are referred to.
func (c *comparison) lookups() error {
	seen := make(map[string]bool)
	for _, t := range c.tables {
		for _, k := range t.target.Constraints {
			if k.Type != "f" || slices.ContainsFunc(c.tables, func(o *table) bool { return o.target.OID == k.Target }) {
				continue
			}
			i := slices.IndexFunc(t.source.Constraints, func(o constraint) bool {
				return o.Type == "f" && o.Target != 0 && slices.Equal(without(o.Columns), without(k.Columns))
			})
			if i < 0 || c.Same && t.source.Constraints[i].Target == k.Target {
				continue // which pairConstraints has refused, or the same table
			}
			if source := t.source.Constraints[i].TargetName; !seen[source] {
				seen[source] = true
				if err := c.sameRows(source, source, k.TargetName); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func without(columns []string) []string {
	return slices.DeleteFunc(slices.Clone(columns), func(name string) bool { return name == tenantColumn })
}

// sameRows compares two tables that aren't carried over, and that rows refer
// to which are. The text of jsonb doesn't depend on the order of the columns.
func (c *comparison) sameRows(name, source, target string) error {
	const sql = `select count(*), coalesce(sum(hashtextextended((to_jsonb(t.*) - 'tenant_id')::text, 0)::numeric), 0)::text from %s t`
	var rows, others int64
	var sum, otherSum string
	if err := c.from.QueryRow(c.ctx, fmt.Sprintf(sql, source)).Scan(&rows, &sum); err != nil {
		return err
	}
	if err := c.to.QueryRow(c.ctx, fmt.Sprintf(sql, target)).Scan(&others, &otherSum); err != nil {
		return err
	}
	if rows != others || sum != otherSum {
		c.refuse(name, "isn't carried over, because it isn't one tenant's at both places, and has other rows at the target than at the source")
	}
	return nil
}

const elsewhereSQL = `
select quote_ident(n.nspname) || '.' || quote_ident(c.relname)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition
	and n.nspname !~ '^(pg_|t_[0-9a-f]{32}$)' and n.nspname not in ('information_schema', 'mcpsaas', 'mcpsaas_app', $1)
	and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped)
	and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')
order by 1`

// elsewhere refuses a tenant that has rows in further schemas.
func (c *comparison) elsewhere() error {
	if c.From.Own {
		return nil
	}
	rows, err := c.from.Query(c.ctx, elsewhereSQL, c.From.Schema)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		var some bool
		if err := c.from.QueryRow(c.ctx, `select exists (select from `+name+` where tenant_id::text = $1)`, c.Tenant).Scan(&some); err != nil {
			return err
		}
		if some {
			c.refuse(name, "has rows of the tenant and stands outside of schema %s", c.From.Schema)
		}
	}
	return nil
}

// Occupied returns the tables of the target that have rows of the tenant's
// already, but for those of m.Own.
func (m *Move) Occupied(ctx context.Context) ([]Problem, error) {
	t, err := open(ctx, m.To, pgx.RepeatableRead)
	if err != nil {
		return nil, err
	}
	defer t.end(ctx)
	var problems []Problem
	for _, table := range m.tables {
		if slices.Contains(m.Own, table.name) {
			continue
		}
		var some bool
		if err := t.QueryRow(ctx, fmt.Sprintf(`select exists (select from %s)`, m.To.rows(m, table.target))).Scan(&some); err != nil {
			return nil, err
		}
		if some {
			problems = append(problems, Problem{Table: table.name, Reason: "the target has rows of the tenant already"})
		}
	}
	return problems, nil
}

// rows is what the tenant has in a table, as t, for a query. The owner may be a
// superuser, whom the policies don't bind: the condition is written besides.
func (p *Place) rows(m *Move, r *relation) string {
	return p.table(r.Name) + " t where " + m.mine(r, "t")
}

func (m *Move) mine(r *relation, as string) string {
	if r.scoped() {
		return as + ".tenant_id = " + literal(m.Tenant)
	}
	return "true"
}
