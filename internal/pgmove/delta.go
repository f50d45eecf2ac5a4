package pgmove

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// delta carries over what was written at the source since the last one: it is
// one at a time, within a transaction at each place.
type delta struct {
	*Move
	from, to *tx
	parts    []*part // in the order of the move's tables
}

// part is a table of a delta. Its keys are in the temporary table keys, at
// both places, and those rows that the source has now in rows, at the target. Keys
// of rows that have to make room are in out, there too.
type part struct {
	*table
	keys, rows, out, more string
	entries               int64 // of the log
}

// manyRows is from when on it pays to tell the planner how many there are.
const manyRows = 100

func (m *Move) newPart(t *table, entries int64) *part {
	n := slices.Index(m.tables, t)
	name := func(what string) string { return fmt.Sprintf("pg_temp.move_%s_%d", what, n) }
	return &part{table: t, keys: name("keys"), rows: name("rows"), out: name("out"), more: name("more"), entries: entries}
}

// CatchUp carries over what was written since the last time, and reports the
// number of rows.
func (m *Move) CatchUp(ctx context.Context) (rows int64, err error) {
	err = m.both(ctx, pgx.RepeatableRead, func(from, to *tx) error {
		rows, err = m.carry(ctx, from, to)
		return err
	})
	return rows, err
}

func (m *Move) carry(ctx context.Context, from, to *tx) (int64, error) {
	d := &delta{Move: m, from: from, to: to}
	entries := make(map[string]int64)
	rows, err := from.Query(ctx, `select table_name, count(*) from mcpsaas.move_log where tenant_id = $1 group by 1`, m.Tenant)
	if err != nil {
		return 0, err
	}
	var name string
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error { entries[name] = n; return nil }); err != nil {
		return 0, err
	}
	for _, t := range m.tables {
		if entries[t.name] > 0 {
			d.parts = append(d.parts, m.newPart(t, entries[t.name]))
			delete(entries, t.name)
		}
	}
	for name := range entries {
		return 0, fmt.Errorf("table %s was changed, and isn't there any more", name)
	}
	if len(d.parts) == 0 {
		return 0, nil
	}
	n, err = d.load(ctx)
	if err != nil {
		return 0, err
	}
	if err := d.apply(ctx); err != nil {
		return 0, err
	}
	return n, d.verify(ctx)
}

// load takes the keys out of the log, and brings the present rows to the
// target. It reports the number of keys.
func (d *delta) load(ctx context.Context) (keys int64, err error) {
	var take, fetch script
	for _, p := range d.parts {
		p.create(&take, p.keys)
		d.take(&take, p)
		take.affected(&keys)
		if p.entries > manyRows {
			take.add(p.name, "analyze %s", p.keys)
		}
		if !d.Same {
			p.create(&fetch, p.keys)
		}
		d.stage(&fetch, p.rows, p.table)
		if d.Same {
			fetch.add(p.name, "insert into %s %s", p.rows, d.current(p, p.keys))
		}
	}
	if err := take.run(ctx, d.from); err != nil {
		return 0, err
	}
	if err := fetch.run(ctx, d.to); err != nil {
		return 0, err
	}
	var count script
	for _, p := range d.parts {
		if !d.Same {
			if _, err := d.pipe(ctx, d.from, d.to, "select * from "+p.keys, p.keys, p.table); err != nil {
				return 0, about(p.name, err)
			}
			if _, err := d.pipe(ctx, d.from, d.to, d.current(p, p.keys), p.rows, p.table); err != nil {
				return 0, about(p.name, err)
			}
		}
		if p.entries > manyRows {
			if !d.Same {
				count.add(p.name, "analyze %s", p.keys)
			}
			count.add(p.name, "analyze %s", p.rows)
		}
	}
	return keys, count.run(ctx, d.to)
}

// create makes a temporary table for keys. Their types are PostgreSQL's own, the
// same at both places.
func (t *table) create(s *script, name string) {
	s.add(t.name, "create temporary table %s (%s) on commit drop", strings.TrimPrefix(name, "pg_temp."),
		list(t.key, func(name string) string { return quote(name) + " " + t.keyType(name) }))
}

// keyType is the type of a column of the key, without a domain around it.
func (t *table) keyType(name string) string { return t.source.column(name).BaseType }

// keyOf lists the columns of the key.
func (t *table) keyOf(alias string) string {
	return list(t.key, func(name string) string { return alias + "." + quote(name) })
}

// same compares the keys of two sets of rows.
func (t *table) same(a, b string) string {
	parts := make([]string, len(t.key))
	for i, name := range t.key {
		parts[i] = fmt.Sprintf("%s.%s = %s.%s", a, quote(name), b, quote(name))
	}
	return strings.Join(parts, " and ")
}

func (d *delta) take(s *script, p *part) {
	columns := make([]string, len(p.key))
	for i, name := range p.key {
		columns[i] = fmt.Sprintf("(key->>%d)::%s", i, p.keyType(name))
	}
	s.add(p.name, `with taken as (delete from mcpsaas.move_log where tenant_id = %s and table_name = %s returning key)
insert into %s select distinct %s from taken`, literal(d.Tenant), literal(p.name), p.keys, strings.Join(columns, ", "))
}

// current selects what the source has of the keys now.
func (d *delta) current(p *part, keys string) string {
	return fmt.Sprintf("select %s from %s", d.columns(p.table), d.byKey(d.From, p.table, p.source, keys))
}

// byKey are the rows of keys, as t, for a query. It leaves the planner no choice
// but to look each one up: it may know nothing of the table yet, and would read
// all of it.
func (m *Move) byKey(p *Place, t *table, r *relation, keys string) string {
	return fmt.Sprintf("%s k cross join lateral (select t.* from %s t where %s and %s offset 0) t",
		keys, p.table(t.name), t.same("t", "k"), m.mine(r, "t"))
}

// apply makes the target what the source is.
//
// It begins with the rows that are gone and that nobody refers to, so that their
// values are free for others; then come the rows that are there, those that are
// referred to first; and at last the rest of those that are gone, to which
// nobody refers any more: no foreign key's action is left with anything to do.
//
// Where rows have swapped values between them that are unique, or values that
// are referred to, no order works, and replace helps.
func (d *delta) apply(ctx context.Context) error {
	var s script
	for _, p := range slices.Backward(d.parts) {
		free := ""
		for _, c := range p.children {
			free += fmt.Sprintf(" and not exists (select from %s c where %s and %s)", d.To.table(c.table.name),
				d.mine(c.table.target, "c"), c.points("c", "t"))
		}
		d.deleteGone(&s, p, free)
	}
	for _, p := range d.parts {
		d.write(&s, p)
	}
	for _, p := range slices.Backward(d.parts) {
		if len(p.children) > 0 {
			d.deleteGone(&s, p, "")
		}
	}
	checked(&s)
	err := s.savepoint(ctx, d.to)
	if err != nil && strings.HasPrefix(sqlState(err), "23") {
		err = d.replace(ctx)
	}
	return err
}

// checked has the constraints that can wait checked now, and wait again.
func checked(s *script) {
	s.add("", "set constraints all immediate")
	s.add("", "set constraints all deferred")
}

// points compares a foreign key's columns with those that it refers to.
func (c child) points(from, to string) string {
	parts := make([]string, len(c.columns))
	for i := range c.columns {
		parts[i] = fmt.Sprintf("%s.%s = %s.%s", from, quote(c.columns[i]), to, quote(c.references[i]))
	}
	return strings.Join(parts, " and ")
}

// deleteGone deletes the rows that the source has no more.
func (d *delta) deleteGone(s *script, p *part, and string) {
	s.add(p.name, "delete from %s t using %s k where %s and %s and not exists (select from %s r where %s)%s",
		d.To.table(p.name), p.keys, p.same("t", "k"), d.mine(p.target, "t"), p.rows, p.same("r", "t"), and)
}

// write updates the rows that the target has and inserts the others, in one
// statement, so that rows of a table may refer to each other. It is no upsert,
// which a deferrable key doesn't allow.
func (d *delta) write(s *script, p *part) {
	changing := slices.DeleteFunc(slices.Clone(p.columns), func(name string) bool {
		return slices.Contains(p.key, name) || name == tenantColumn || p.target.column(name).Identity == "a"
	})
	with, and := "", ""
	if len(changing) > 0 {
		with = fmt.Sprintf("with updated as (update %s t set %s from %s r where %s and %s returning 1) ", d.To.table(p.name),
			list(changing, func(name string) string { return quote(name) + " = r." + quote(name) }),
			p.rows, p.same("r", "t"), d.mine(p.target, "t"))
		and = " and (select count(*) from updated) >= 0" // the updates come first: they free values
	}
	s.add(p.name, "%sinsert into %s (%s) overriding system value select %s from %s r where not exists (select from %s t where %s and %s)%s",
		with, d.To.table(p.name), list(p.columns, quote), list(p.columns, func(name string) string { return "r." + quote(name) }),
		p.rows, d.To.table(p.name), p.same("r", "t"), d.mine(p.target, "t"), and)
}
