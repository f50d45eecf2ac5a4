package pgmove

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Move is one tenant's way from one place to another. Its methods are the
// steps, in their order; each may be run again.
type Move struct {
	Tenant string
	Owner  string // of the move: a token that nobody else has
	Epoch  int64  // the tenant's before the move
	From   *Place
	To     *Place

	// Same says that both places are in one database.
	Same bool

	// Own is left out of what must be empty at the target before the copy: the
	// tables that every tenant has rows in from the start.
	Own []string

	// LockTimeout is how long a statement may wait for a lock that others then
	// wait for behind it.
	// Defaults to 100 ms.
	LockTimeout time.Duration

	// Step is called at each point at which a process may die and leave a
	// state of its own.
	// Defaults to nothing.
	Step func(name string)

	shapes []string         // what the tables of both places looked like
	tables []*table         // those that refer to others after those
	top    map[string]int64 // by sequence of the target: the highest value that was carried over
}

// table is one whose rows are carried over.
type table struct {
	name     string
	source   *relation
	target   *relation
	key      []string // what the log has of a row
	columns  []string // what is carried over
	children []child  // the foreign keys at the target that point here
}

// child is a foreign key as the table sees it that it points at.
type child struct {
	table      *table
	columns    []string
	references []string
	indexed    bool // its columns
}

// Problem is a reason why a tenant can't be moved.
type Problem struct {
	Table  string // empty: none in particular
	Reason string
}

// String is what an operator reads.
func (p Problem) String() string {
	if p.Table == "" {
		return p.Reason
	}
	return "table " + p.Table + ": " + p.Reason
}

// Size is what a table has of the tenant's.
type Size struct {
	Name  string
	Rows  int64
	Bytes int64
}

// Prepare reads both catalogs, which must be done before any other step, and
// returns what stands in the way.
func (m *Move) Prepare(ctx context.Context) ([]Problem, error) {
	from, err := open(ctx, m.From, pgx.RepeatableRead)
	if err != nil {
		return nil, err
	}
	defer from.end(ctx)
	to := from
	if !m.Same {
		if to, err = open(ctx, m.To, pgx.RepeatableRead); err != nil {
			return nil, err
		}
		defer to.end(ctx)
	}
	c := &comparison{Move: m, ctx: ctx, from: from, to: to}
	if c.source, err = relations(ctx, from, m.From); err != nil {
		return nil, err
	}
	if c.target, err = relations(ctx, to, m.To); err != nil {
		return nil, err
	}
	if m.shapes, err = m.readShapes(ctx, from, to); err != nil {
		return nil, err
	}
	if err := c.compare(); err != nil {
		return nil, err
	}
	return c.problems, nil
}

// shapeSQL is short enough to be asked while the tenant waits.
const shapeSQL = `
select coalesce(md5(string_agg(concat_ws(' ', c.oid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attgenerated), ',' order by c.oid, a.attnum)), '')
from pg_class c join pg_attribute a on a.attrelid = c.oid
where c.relnamespace = (select oid from pg_namespace where nspname = $1) and c.relkind in ('r', 'p')
	and a.attnum > 0 and not a.attisdropped`

func (m *Move) readShapes(ctx context.Context, from, to *tx) ([]string, error) {
	shapes := make([]string, 2)
	if err := from.QueryRow(ctx, shapeSQL, m.From.Schema).Scan(&shapes[0]); err != nil {
		return nil, err
	}
	return shapes, to.QueryRow(ctx, shapeSQL, m.To.Schema).Scan(&shapes[1])
}

// ErrChanged means that tables were changed since Prepare: what is carried over
// may no longer be all there is.
var ErrChanged = errors.New("the tables have changed since they were compared")

// comparison is the work of Prepare.
type comparison struct {
	*Move
	ctx            context.Context
	from, to       *tx
	source, target []*relation
	problems       []Problem
}

func (c *comparison) refuse(table, format string, args ...any) {
	c.problems = append(c.problems, Problem{Table: table, Reason: fmt.Sprintf(format, args...)})
}

func (c *comparison) compare() error {
	c.tables, c.problems = nil, nil
	if err := c.encodings(); err != nil {
		return err
	}
	for _, s := range c.source {
		if s.Kind == "m" || !c.From.Own && !s.scoped() {
			continue
		}
		t := find(c.target, s.Name)
		switch {
		case t == nil:
			c.refuse(s.Name, "the target doesn't have it: migrate the target first")
		case !c.To.Own && !t.scoped():
			if err := c.sameRows(s.Name, c.From.table(s.Name), c.To.table(t.Name)); err != nil {
				return err
			}
		default:
			c.pair(s, t)
		}
	}
	for _, t := range c.target {
		if t.Kind != "m" && t.scoped() && find(c.source, t.Name) == nil {
			c.refuse(t.Name, "the source doesn't have it: migrate the source first")
		}
	}
	for _, step := range []func() error{c.foreign, c.lookups, c.elsewhere} {
		if err := step(); err != nil {
			return err
		}
	}
	c.order()
	return nil
}

// pair takes the two tables for one if they are alike.
func (c *comparison) pair(s, t *relation) {
	before := len(c.problems)
	for at, r := range map[string]*relation{"source": s, "target": t} {
		switch {
		case r.Kind == "f":
			c.refuse(s.Name, "a foreign table at the %s: its rows are somewhere else", at)
		case r.Inherits:
			c.refuse(s.Name, "inherits, or is inherited from, at the %s; only partitions are understood", at)
		}
	}
	if !t.Protected {
		c.refuse(s.Name, "row level security isn't forced at the target: protect it first")
	}
	if s.Persistence != t.Persistence {
		c.refuse(s.Name, "unlogged at one place and not at the other")
	}
	for _, name := range t.Triggers {
		c.refuse(s.Name, "trigger %s would fire on rows that are carried over: create it again with "+
			"when (current_setting('%s', true) is distinct from 'on')", name, Moving)
	}
	for _, name := range t.Rules {
		c.refuse(s.Name, "rule %s of the target would rewrite what is carried over: use a trigger instead", name)
	}
	row := &table{name: s.Name, source: s, target: t}
	c.pairColumns(row)
	c.pairConstraints(row)
	c.pairKey(row)
	if len(c.problems) == before {
		c.tables = append(c.tables, row)
	}
}

func (c *comparison) pairColumns(row *table) {
	for _, a := range row.source.Columns {
		b := row.target.column(a.Name)
		switch {
		case a.Name == tenantColumn:
			if b == nil {
				continue
			}
		case b == nil:
			c.refuse(row.name, "the target has no column %s: migrate the target first", a.Name)
			continue
		}
		switch {
		case a.Type != b.Type:
			c.refuse(row.name, "column %s is of type %s at the source and %s at the target: migrate the older one first", a.Name, a.Type, b.Type)
		case a.NotNull != b.NotNull && a.Name != tenantColumn:
			c.refuse(row.name, "column %s is not null at one place and null at the other: migrate the older one first", a.Name)
		case a.Identity != b.Identity || a.Generated != b.Generated:
			c.refuse(row.name, "column %s is generated in another way at the target: migrate the older one first", a.Name)
		case slices.Contains(oidTypes, a.Base):
			c.refuse(row.name, "column %s is of type %s: what it points at, such as a large object, is no row of the tenant's", a.Name, a.Type)
		case a.Down || b.Down:
			c.refuse(row.name, "the sequence of column %s counts down", a.Name)
		}
	}
	for _, b := range row.target.Columns {
		a := row.source.column(b.Name)
		if a == nil && b.Name != tenantColumn {
			c.refuse(row.name, "the source has no column %s: migrate the source first", b.Name)
		} else if !b.Generated {
			row.columns = append(row.columns, b.Name)
		}
	}
}

// oidTypes are oid and its aliases, and what extension lo makes of it.
var oidTypes = []uint32{26, 24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191}

// keyTypes are those whose text, as JSON, doesn't depend on a setting of the
// session that writes: bool, bytea, name, integers, text, the times, numeric,
// uuid and network addresses.
var keyTypes = []uint32{16, 17, 19, 20, 21, 23, 25, 650, 774, 829, 869, 1042, 1043, 1082, 1083, 1114, 1184, 1266, 1700, 2950}

func (c *comparison) pairKey(row *table) {
	without := func(key []string) []string {
		return slices.DeleteFunc(slices.Clone(key), func(name string) bool { return name == tenantColumn })
	}
	source, target := without(row.source.Key), without(row.target.Key)
	slices.Sort(target)
	sorted := slices.Sorted(slices.Values(source))
	switch {
	case len(row.source.Key) == 0 || len(row.target.Key) == 0:
		c.refuse(row.name, "no primary key, by which a row that is written during the move could be found: alter table %s add primary key (...)", quote(row.name))
		return
	case !slices.Equal(sorted, target):
		c.refuse(row.name, "the primary keys differ: migrate the older place first")
		return
	}
	row.key = source
	if len(source) == 0 {
		row.key = []string{tenantColumn} // one row per tenant
	}
	for _, name := range row.key {
		a, b := row.source.column(name), row.target.column(name)
		switch {
		case b == nil || a.Generated:
			c.refuse(row.name, "the primary key can't be followed: column %s is generated, or not at the target", name)
		case !slices.Contains(keyTypes, a.Base):
			c.refuse(row.name, "the primary key can't be followed: column %s is of type %s", name, a.Type)
		}
	}
}

// pairConstraints compares what the constraints say, not what they are called.
func (c *comparison) pairConstraints(row *table) {
	strip := strings.NewReplacer(tenantColumn+", ", "", " NOT VALID", "")
	read := func(r *relation) map[string]string {
		all := make(map[string]string)
		for _, k := range r.Constraints {
			all[strip.Replace(k.Definition)] = k.Name
		}
		return all
	}
	source, target := read(row.source), read(row.target)
	for definition, name := range source {
		if _, ok := target[definition]; !ok {
			c.refuse(row.name, "the target has no constraint like %s: migrate the target first", name)
		}
	}
	for definition, name := range target {
		if _, ok := source[definition]; !ok {
			c.refuse(row.name, "the source has no constraint like %s: migrate the source first", name)
		}
	}
}

// order puts the tables that are referred to first, as the target checks it.
func (c *comparison) order() {
	for _, t := range c.tables {
		t.children = nil
	}
	hard := make(map[*table][]*table) // on whom a table waits
	soft := make(map[*table][]*table)
	for _, t := range c.tables {
		for _, k := range t.target.Constraints {
			i := slices.IndexFunc(c.tables, func(o *table) bool { return k.Type == "f" && o.target.OID == k.Target })
			if i < 0 {
				continue
			}
			parent := c.tables[i]
			parent.children = append(parent.children, child{t, k.Columns, k.References, k.Indexed})
			if parent != t {
				soft[t] = append(soft[t], parent)
				if !k.Deferrable {
					hard[t] = append(hard[t], parent)
				}
			}
		}
	}
	sorted, rest := sortBy(c.tables, soft)
	if len(rest) > 0 {
		if sorted, rest = sortBy(c.tables, hard); len(rest) > 0 {
			c.refuse("", "tables %s refer to each other in a circle: make one of the foreign keys deferrable",
				list(rest, func(t *table) string { return t.name }))
		}
	}
	c.tables = sorted
}

// sortBy sorts the items so that each comes after those that it waits for. In
// rest are those of a circle, and who waits for them.
func sortBy[T comparable](items []T, after map[T][]T) (sorted, rest []T) {
	rest = slices.Clone(items)
	for len(rest) > 0 {
		i := slices.IndexFunc(rest, func(item T) bool {
			return !slices.ContainsFunc(after[item], func(parent T) bool { return slices.Contains(rest, parent) })
		})
		if i < 0 {
			return sorted, rest
		}
		sorted = append(sorted, rest[i])
		rest = slices.Delete(rest, i, i+1)
	}
	return sorted, nil
}
