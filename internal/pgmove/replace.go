package pgmove

import (
	"context"
	"fmt"
	"slices"
)

// replace deletes the rows of the delta at the target, and with them whatever
// refers to them there, and then inserts all of these as the source has them.
func (d *delta) replace(ctx context.Context) error {
	if err := d.widen(ctx); err != nil {
		return err
	}
	for _, p := range slices.Backward(d.tables) {
		_, err := d.to.Exec(ctx, fmt.Sprintf("delete from %s t using pg_temp.%s k where %s and %s",
			d.To.table(p.name), quote(p.keys), p.same("t", "k"), d.mine(p.target, "t")))
		if err != nil {
			return fmt.Errorf("table %s: %w", p.name, err)
		}
	}
	for _, p := range d.tables {
		_, err := d.to.Exec(ctx, fmt.Sprintf("insert into %s (%s) overriding system value select %s from pg_temp.%s r",
			d.To.table(p.name), list(p.columns, quote), list(p.columns, func(name string) string { return "r." + quote(name) }), quote(p.rows)))
		if err != nil {
			return fmt.Errorf("table %s: %w", p.name, err)
		}
	}
	return d.checked(ctx)
}

// widen adds the rows of the target that refer to those of the delta, until
// there are no more: their deletion is what a foreign key's action would do, or
// would refuse.
func (d *delta) widen(ctx context.Context) error {
	for grown := true; grown; {
		grown = false
		for _, p := range slices.Clone(d.tables) {
			for _, c := range p.children {
				n, err := d.add(ctx, p, c)
				if err != nil {
					return fmt.Errorf("table %s: %w", c.table.name, err)
				}
				grown = grown || n > 0
			}
		}
	}
	return nil
}

// add adds the rows that refer by one foreign key, and reports how many.
func (d *delta) add(ctx context.Context, parent *part, c child) (int64, error) {
	p, err := d.part(ctx, c.table)
	if err != nil {
		return 0, err
	}
	d.fresh++
	fresh := fmt.Sprintf("move_fresh_%d", d.fresh)
	columns := list(p.key, func(name string) string { return "c." + quote(name) })
	tag, err := d.to.Exec(ctx, fmt.Sprintf(`create temporary table %s on commit drop as
select distinct %s from %s c join %s t on %s join pg_temp.%s k on %s
where %s and %s and not exists (select from pg_temp.%s o where %s)`, fresh,
		columns, d.To.table(p.name), d.To.table(parent.name), c.points("c", "t"), quote(parent.keys), parent.same("t", "k"),
		d.mine(p.target, "c"), d.mine(parent.target, "t"), quote(p.keys), p.same("o", "c")))
	if err != nil {
		return 0, err
	}
	if tag.RowsAffected() == 0 {
		return 0, nil
	}
	// Their rows are fetched by a part of their own, so that no row is fetched
	// twice.
	extra := &part{table: p.table, keys: fresh, rows: p.rows}
	if !d.Same {
		if _, err := d.from.Exec(ctx, fmt.Sprintf("create temporary table %s on commit drop as select * from pg_temp.%s with no data", fresh, quote(p.keys))); err != nil {
			return 0, err
		}
		if _, err := d.pipe(ctx, d.to, d.from, fmt.Sprintf("select * from pg_temp.%s", fresh), fresh, p.table); err != nil {
			return 0, err
		}
	}
	if err := d.fetch(ctx, extra); err != nil {
		return 0, err
	}
	sides := []*tx{d.from, d.to}
	if d.Same {
		sides = sides[:1]
	}
	for _, side := range sides {
		if _, err := side.Exec(ctx, fmt.Sprintf("insert into pg_temp.%s select * from pg_temp.%s", quote(p.keys), fresh)); err != nil {
			return 0, err
		}
	}
	return tag.RowsAffected(), nil
}
