package pgmove

import (
	"context"
	"fmt"
	"slices"
)

// replace applies a delta in which rows stand in each other's way. Those that
// are gone, or whose unique values are others now, make room at the target, and
// with them what refers to them there: no foreign key's action is left with
// anything to do. Then all that is at the source is written.
func (d *delta) replace(ctx context.Context) error {
	if err := d.widen(ctx); err != nil {
		return err
	}
	var room script
	for _, p := range d.parts {
		p.create(&room, p.out)
	}
	for _, p := range d.parts {
		if p.entries > 0 {
			d.makeRoom(&room, p)
		}
	}
	if err := room.run(ctx, d.to); err != nil {
		return err
	}
	if err := d.spread(ctx); err != nil {
		return err
	}
	if err := d.bring(ctx); err != nil {
		return err
	}
	var s script
	for _, p := range slices.Backward(d.parts) {
		s.add(p.name, "delete from %s t using %s k where %s and %s", d.To.table(p.name), p.out, p.same("t", "k"), d.mine(p.target, "t"))
	}
	for _, p := range d.parts {
		d.write(&s, p)
	}
	checked(&s)
	return s.run(ctx, d.to)
}

// widen takes in the tables that refer to those of the delta, and those that
// refer to them.
func (d *delta) widen(ctx context.Context) error {
	var from, to script
	for i := 0; i < len(d.parts); i++ {
		for _, c := range d.parts[i].children {
			if d.find(c.table) != nil {
				continue
			}
			p := d.newPart(c.table, 0)
			d.parts = append(d.parts, p)
			p.create(&to, p.keys)
			d.stage(&to, p.rows, p.table)
			if !d.Same {
				p.create(&from, p.keys)
			}
		}
	}
	slices.SortFunc(d.parts, func(a, b *part) int {
		return slices.Index(d.Move.tables, a.table) - slices.Index(d.Move.tables, b.table)
	})
	if err := from.run(ctx, d.from); err != nil {
		return err
	}
	return to.run(ctx, d.to)
}

func (d *delta) find(t *table) *part {
	for _, p := range d.parts {
		if p.table == t {
			return p
		}
	}
	return nil
}

// makeRoom notes the rows that are gone or whose unique values have changed.
func (d *delta) makeRoom(s *script, p *part) {
	changed := ""
	if len(p.target.Unique) > 0 {
		row := func(of string) string {
			return "row(" + list(p.target.Unique, func(name string) string { return of + "." + quote(name) }) + ")::text"
		}
		changed = " or " + row("r") + " <> " + row("t")
	}
	s.add(p.name, "insert into %s select %s from %s left join %s r on %s where r.%s is null%s",
		p.out, p.keyOf("t"), d.byKey(d.To, p.table, p.target, p.keys), p.rows, p.same("r", "t"), quote(p.key[0]), changed)
}

// spread adds the rows that refer to those that make room, until there are no
// more.
func (d *delta) spread(ctx context.Context) error {
	for again := true; again; {
		var s script
		var late int64
		for i, p := range d.parts { // those that are referred to first
			for _, c := range p.children {
				to := d.find(c.table)
				d.spreadTo(&s, p, to, c)
				// Only in a circle something is added that was passed already.
				if slices.Index(d.parts, to) < i {
					s.affected(&late)
				}
			}
		}
		if err := s.run(ctx, d.to); err != nil {
			return err
		}
		again = late > 0
	}
	return nil
}

// spreadTo follows one foreign key.
func (d *delta) spreadTo(s *script, parent, to *part, c child) {
	look := "" // an index that there is is used, as in byKey
	if c.indexed {
		look = " offset 0"
	}
	refers := func(keys string) string {
		return fmt.Sprintf("select %s from %s cross join lateral (select c.* from %s c where %s and %s%s) c", to.keyOf("c"),
			d.byKey(d.To, parent.table, parent.target, keys), d.To.table(to.name), c.points("c", "t"), d.mine(to.target, "c"), look)
	}
	with, query := "", "select distinct * from ("+refers(parent.out)+") f"
	if parent == to { // a tree, followed to its leaves
		with = fmt.Sprintf("with recursive tree as (select * from %s union %s) ", parent.out, refers("tree"))
		query = "select * from tree f"
	}
	s.add(to.name, "%sinsert into %s %s where not exists (select from %s o where %s)", with, to.out, query, to.out, to.same("o", "f"))
}

// bring fetches the rows that make room and were not in the delta.
func (d *delta) bring(ctx context.Context) error {
	counts := make([]int64, len(d.parts))
	var find, there, here script
	for i, p := range d.parts {
		p.create(&find, p.more)
		find.add(p.name, "insert into %s select * from %s f where not exists (select from %s k where %s)", p.more, p.out, p.keys, p.same("k", "f"))
		find.affected(&counts[i])
	}
	if err := find.run(ctx, d.to); err != nil {
		return err
	}
	for i, p := range d.parts {
		if counts[i] > 0 && !d.Same {
			p.create(&there, p.more)
		}
	}
	if err := there.run(ctx, d.from); err != nil {
		return err
	}
	there = script{}
	for i, p := range d.parts {
		if counts[i] == 0 {
			continue
		}
		if d.Same {
			here.add(p.name, "insert into %s %s", p.rows, d.current(p, p.more))
		} else {
			if _, err := d.pipe(ctx, d.to, d.from, "select * from "+p.more, p.more, p.table); err != nil {
				return about(p.name, err)
			}
			if _, err := d.pipe(ctx, d.from, d.to, d.current(p, p.more), p.rows, p.table); err != nil {
				return about(p.name, err)
			}
			there.add(p.name, "insert into %s select * from %s", p.keys, p.more)
		}
		here.add(p.name, "insert into %s select * from %s", p.keys, p.more)
		here.add(p.name, "analyze %s", p.rows)
	}
	if err := there.run(ctx, d.from); err != nil {
		return err
	}
	return here.run(ctx, d.to)
}
