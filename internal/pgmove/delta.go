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
	tables   []*part // in the order of the move's
	rows     int64   // keys
	fresh    int     // temporary tables made by widen
}

// part is a table of a delta. Its keys are in the temporary table keys, at
// both places, and those rows that the source has now in rows, at the target.
type part struct {
	*table
	keys, rows string
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

// Backlog is how many entries the log has.
func (m *Move) Backlog(ctx context.Context) (n int64, err error) {
	err = m.within(ctx, m.From, pgx.ReadCommitted, func(tx *tx) error {
		return tx.QueryRow(ctx, `select count(*) from mcpsaas.move_log where tenant_id = $1`, m.Tenant).Scan(&n)
	})
	return n, err
}

func (m *Move) carry(ctx context.Context, from, to *tx) (int64, error) {
	d := &delta{Move: m, from: from, to: to}
	rows, err := from.Query(ctx, `select distinct table_name from mcpsaas.move_log where tenant_id = $1`, m.Tenant)
	if err != nil {
		return 0, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		i := slices.IndexFunc(m.tables, func(t *table) bool { return t.name == name })
		if i < 0 {
			return 0, fmt.Errorf("table %s was changed, and isn't there any more", name)
		}
		if _, err := d.part(ctx, m.tables[i]); err != nil {
			return 0, err
		}
	}
	for _, p := range d.tables {
		if err := d.take(ctx, p); err != nil {
			return 0, fmt.Errorf("table %s: %w", p.name, err)
		}
		if err := d.fetch(ctx, p); err != nil {
			return 0, fmt.Errorf("table %s: %w", p.name, err)
		}
	}
	if err := d.apply(ctx); err != nil {
		return 0, err
	}
	for _, p := range d.tables {
		if err := d.verify(ctx, p); err != nil {
			return 0, err
		}
		if err := d.note(ctx, p); err != nil {
			return 0, err
		}
	}
	return d.rows, nil
}

// part returns the table's part of the delta, made if it is new.
func (d *delta) part(ctx context.Context, t *table) (*part, error) {
	for _, p := range d.tables {
		if p.table == t {
			return p, nil
		}
	}
	n := slices.Index(d.Move.tables, t)
	p := &part{table: t, keys: fmt.Sprintf("move_keys_%d", n), rows: fmt.Sprintf("move_rows_%d", n)}
	sides := []*tx{d.from, d.to}
	if d.Same {
		sides = sides[:1]
	}
	for _, side := range sides {
		// The types of keys are PostgreSQL's own, the same at both places.
		_, err := side.Exec(ctx, fmt.Sprintf("create temporary table %s (%s) on commit drop", quote(p.keys),
			list(t.key, func(name string) string { return quote(name) + " " + t.keyType(name) })))
		if err != nil {
			return nil, err
		}
	}
	if err := d.stage(ctx, d.to, p.rows, t); err != nil {
		return nil, err
	}
	d.tables = append(d.tables, p)
	slices.SortFunc(d.tables, func(a, b *part) int {
		return slices.Index(d.Move.tables, a.table) - slices.Index(d.Move.tables, b.table)
	})
	return p, nil
}

// keyType is the type of a column of the key, without a domain around it.
func (t *table) keyType(name string) string { return t.source.column(name).BaseType }

// take takes the keys out of the log.
func (d *delta) take(ctx context.Context, p *part) error {
	i := -1
	columns := list(p.key, func(name string) string {
		i++
		return fmt.Sprintf("(key->>%d)::%s", i, p.keyType(name))
	})
	tag, err := d.from.Exec(ctx, fmt.Sprintf(`
with taken as (delete from mcpsaas.move_log where tenant_id = $1 and table_name = $2 returning key)
insert into pg_temp.%s select distinct %s from taken`, quote(p.keys), columns), d.Tenant, p.name)
	if err != nil {
		return err
	}
	d.rows += tag.RowsAffected()
	if !d.Same {
		if _, err := d.pipe(ctx, d.from, d.to, fmt.Sprintf("select %s from pg_temp.%s", list(p.key, quote), quote(p.keys)), p.keys, p.table); err != nil {
			return err
		}
	}
	if tag.RowsAffected() > manyRows {
		return d.analyze(ctx, p.keys)
	}
	return nil
}

// manyRows is from when on it pays to tell the planner how many there are.
const manyRows = 1000

func (d *delta) analyze(ctx context.Context, name string) error {
	if _, err := d.to.Exec(ctx, "analyze pg_temp."+quote(name)); err != nil || d.Same {
		return err
	}
	_, err := d.from.Exec(ctx, "analyze pg_temp."+quote(name))
	return err
}

// fetch brings the present rows of the keys to the target.
func (d *delta) fetch(ctx context.Context, p *part) error {
	query := fmt.Sprintf("select %s from %s t join pg_temp.%s k on %s where %s", d.columns(p.table),
		d.From.table(p.name), quote(p.keys), p.same("t", "k"), d.mine(p.source, "t"))
	if !d.Same {
		_, err := d.pipe(ctx, d.from, d.to, query, p.rows, p.table)
		return err
	}
	_, err := d.to.Exec(ctx, fmt.Sprintf("insert into pg_temp.%s ", quote(p.rows))+query)
	return err
}

// same compares the keys of two sets of rows.
func (t *table) same(a, b string) string {
	return strings.ReplaceAll(list(t.key, func(name string) string {
		return fmt.Sprintf("%s.%s = %s.%s", a, quote(name), b, quote(name))
	}), ", ", " and ")
}

// apply makes the target what the source is.
//
// It begins with the rows that are gone and that nobody refers to, so that their
// values are free for others; then come the rows that are there, those that are
// referred to first; and at last the rest of those that are gone, to which
// nobody refers any more: no foreign key's action is left with anything to do.
//
// Where rows have swapped values between them that are unique, or keys that are
// referred to, no order works, and all of them are replaced.
func (d *delta) apply(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, d.to.Tx, func(pgx.Tx) error { return d.update(ctx) })
	if err != nil && strings.HasPrefix(sqlState(err), "23") {
		err = d.replace(ctx)
	}
	return err
}

func (d *delta) update(ctx context.Context) error {
	for _, p := range slices.Backward(d.tables) {
		free := ""
		for _, c := range p.children {
			free += fmt.Sprintf(" and not exists (select from %s c where %s and %s)", d.To.table(c.table.name),
				d.mine(c.table.target, "c"), c.points("c", "t"))
		}
		if err := d.deleteGone(ctx, p, free); err != nil {
			return err
		}
	}
	for _, p := range d.tables {
		if err := d.write(ctx, p); err != nil {
			return fmt.Errorf("table %s: %w", p.name, err)
		}
	}
	for _, p := range slices.Backward(d.tables) {
		if len(p.children) == 0 {
			continue
		}
		if err := d.deleteGone(ctx, p, ""); err != nil {
			return err
		}
	}
	return d.checked(ctx)
}

// checked has the constraints that can wait checked now, and wait again.
func (d *delta) checked(ctx context.Context) error {
	if err := constraints(ctx, d.to, "immediate"); err != nil {
		return err
	}
	return constraints(ctx, d.to, "deferred")
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
func (d *delta) deleteGone(ctx context.Context, p *part, and string) error {
	_, err := d.to.Exec(ctx, fmt.Sprintf("delete from %s t using pg_temp.%s k where %s and %s and not exists (select from pg_temp.%s r where %s)%s",
		d.To.table(p.name), quote(p.keys), p.same("t", "k"), d.mine(p.target, "t"), quote(p.rows), p.same("r", "t"), and))
	if err != nil {
		return fmt.Errorf("table %s: %w", p.name, err)
	}
	return nil
}

// write updates the rows that the target has and inserts the others, in one
// statement, so that rows of a table may refer to each other. It is no upsert,
// which a deferrable key doesn't allow.
func (d *delta) write(ctx context.Context, p *part) error {
	changing := slices.DeleteFunc(slices.Clone(p.columns), func(name string) bool {
		return slices.Contains(p.key, name) || name == tenantColumn || p.target.column(name).Identity == "a"
	})
	updated := ""
	if len(changing) > 0 {
		updated = fmt.Sprintf("with updated as (update %s t set %s from pg_temp.%s r where %s and %s returning 1) ", d.To.table(p.name),
			list(changing, func(name string) string { return quote(name) + " = r." + quote(name) }),
			quote(p.rows), p.same("r", "t"), d.mine(p.target, "t"))
	}
	insert := fmt.Sprintf("insert into %s (%s) overriding system value select %s from pg_temp.%s r where not exists (select from %s t where %s and %s)",
		d.To.table(p.name), list(p.columns, quote), list(p.columns, func(name string) string { return "r." + quote(name) }),
		quote(p.rows), d.To.table(p.name), p.same("r", "t"), d.mine(p.target, "t"))
	if updated != "" {
		insert += " and (select count(*) from updated) >= 0" // the updates come first: they free values
	}
	_, err := d.to.Exec(ctx, updated+insert)
	return err
}
