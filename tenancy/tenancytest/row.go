package tenancytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// table is a table as the catalog has it, where bert's is.
type table struct {
	name   string // as it was given
	schema string // empty for that of the tenant's tables
	table  string
	given  map[string]any
	apart  bool     // anna's is another one, in another schema or database
	whole  bool     // both have their row
	rows   []placed // to be taken away

	scoped  bool // it has a tenant_id
	columns []column
	keys    []key
	uniques []unique
}

// placed is where a row is.
type placed struct {
	side  side
	table uint32
	ctid  string
}

type column struct {
	Name, Type, Category string
	Label                *string // an enum's first
	Needed               bool    // not null, without a default
	Identity             bool
}

// key is a foreign key.
type key struct {
	Target  string // as [table.key] has it
	Columns []string
	Targets []string
}

// unique is a unique constraint or index.
type unique struct {
	Name    string
	Columns []string
	Primary bool
	UUID    bool // one column, of type uuid
}

// of names the table as it is the tenant's.
func (t *table) of(s side) string {
	schema := t.schema
	if schema == "" {
		schema = s.home
	}
	return pgx.Identifier{schema, t.table}.Sanitize()
}

// key tells the tables of one tenant apart.
func (t *table) key() string {
	if t.schema == "" {
		return t.table
	}
	return t.schema + "." + t.table
}

// mine is the condition for a tenant's own rows, as a statement may name them.
func (t *table) mine(s side) string {
	if !t.scoped {
		return `true`
	}
	return `tenant_id = '` + s.id.String() + `'`
}

const (
	findSQL = `
select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')`

	// identitySQL is the same for one table alone, on whichever server.
	identitySQL = `
select concat_ws(' ', extract(epoch from pg_postmaster_start_time()), d.oid, $1::oid) from pg_database d where d.datname = current_database()`

	columnsSQL = `
select a.attname::text, format_type(coalesce(nullif(t.typbasetype, 0), t.oid), -1), t.typcategory::text,
	(select min(e.enumlabel::text) from pg_enum e where e.enumtypid = t.oid),
	a.attnotnull and not a.atthasdef and a.attidentity = '', a.attidentity <> ''
from pg_attribute a join pg_type t on t.oid = a.atttypid
where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
order by a.attnum`

	keysSQL = `
select case when n.nspname = $2 then '' else n.nspname || '.' end || c.relname,
	array(select a.attname::text from unnest(k.conkey) with ordinality u(n, i) join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.n order by u.i),
	array(select a.attname::text from unnest(k.confkey) with ordinality u(n, i) join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.n order by u.i)
from pg_constraint k join pg_class c on c.oid = k.confrelid join pg_namespace n on n.oid = c.relnamespace
where k.conrelid = $1 and k.contype = 'f'`

	uniquesSQL = `
select c.relname::text,
	array(select a.attname::text from unnest(i.indkey::int2[]) with ordinality u(n, o) join pg_attribute a on a.attrelid = i.indrelid and a.attnum = u.n order by u.o),
	i.indisprimary,
	i.indnkeyatts = 1 and exists (select from pg_attribute a where a.attrelid = i.indrelid and a.attnum = i.indkey[0] and a.atttypid = 'uuid'::regtype)
from pg_index i join pg_class c on c.oid = i.indexrelid
where i.indrelid = $1 and i.indisunique`
)

// make reads what the catalog says of a table and gives each tenant a row.
func (r *run) make(ctx context.Context, spec Table) (*table, error) {
	t := &table{name: spec.Name, table: spec.Name, given: spec.Row}
	if schema, name, ok := strings.Cut(spec.Name, "."); ok {
		t.schema, t.table = schema, name
	}
	if t.schema == r.anna.home && t.schema == r.bert.home {
		t.schema = ""
	}
	var identity [2]string
	for i, s := range []side{r.anna, r.bert} {
		err := r.as(ctx, s, func(ctx context.Context, tx pgx.Tx) error { return t.read(ctx, tx, s, &identity[i]) })
		if err != nil {
			return nil, err
		}
	}
	t.apart = identity[0] != identity[1]
	t.scoped = slices.ContainsFunc(t.columns, func(c column) bool { return c.Name == "tenant_id" })
	if !t.scoped && !t.apart {
		return nil, fmt.Errorf("it has no column tenant_id")
	}
	var made pair
	for _, each := range []struct {
		side
		row *map[string]any
	}{{r.anna, &made.anna}, {r.bert, &made.bert}} {
		at := placed{side: each.side}
		err := r.as(ctx, each.side, func(ctx context.Context, tx pgx.Tx) error {
			return t.insert(ctx, tx, r.fresh(t, each.side), each.side, each.row, &at)
		})
		if err != nil {
			return t, fmt.Errorf("insert a row of its own: %w", err)
		}
		t.rows = append(t.rows, at)
	}
	r.rows[t.key()], t.whole = made, true
	return t, nil
}

// read reads what the catalog says of the tenant's table.
func (t *table) read(ctx context.Context, tx pgx.Tx, s side, identity *string) (err error) {
	schema := t.schema
	if schema == "" {
		schema = s.home
	}
	var oid uint32
	if err := tx.QueryRow(ctx, findSQL, schema, t.table).Scan(&oid); err != nil {
		return fmt.Errorf("no such table: %w", err)
	}
	if err := tx.QueryRow(ctx, identitySQL, oid).Scan(identity); err != nil {
		return err
	}
	if t.columns, err = collect[column](ctx, tx, columnsSQL, oid); err != nil {
		return err
	}
	if t.keys, err = collect[key](ctx, tx, keysSQL, oid, s.home); err != nil {
		return err
	}
	t.uniques, err = collect[unique](ctx, tx, uniquesSQL, oid)
	return err
}

// takeAway deletes the rows that were made, and no others.
func (r *run) takeAway(ctx context.Context, t *table) error {
	var errs []error
	for _, p := range t.rows {
		errs = append(errs, r.as(ctx, p.side, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `delete from `+t.of(p.side)+` where tableoid = $1 and ctid = $2::text::tid`, p.table, p.ctid)
			return err
		}))
	}
	return errors.Join(errs...)
}

func collect[V any](ctx context.Context, tx pgx.Tx, sql string, args ...any) ([]V, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[V])
}

// fresh returns the values of a new row of the tenant's: the given ones,
// references to its own rows, and generated ones where something is needed.
func (r *run) fresh(t *table, s side) map[string]any {
	values := make(map[string]any)
	inUnique := func(name string) bool {
		return slices.ContainsFunc(t.uniques, func(u unique) bool { return slices.Contains(u.Columns, name) })
	}
	for _, c := range t.columns {
		if c.Needed || c.Category == "S" && inUnique(c.Name) {
			values[c.Name] = c.generate()
		}
	}
	for _, k := range t.keys {
		row := r.rows[k.Target].anna
		if s == r.bert {
			row = r.rows[k.Target].bert
		}
		for i, name := range k.Columns {
			if v, ok := row[k.Targets[i]]; ok {
				values[name] = v
			}
		}
	}
	maps.Copy(values, t.given)
	if t.scoped {
		values["tenant_id"] = s.id.String()
	}
	return values
}

// generate makes a value of the column's type, another each time where the type
// has many.
func (c column) generate() any {
	id := tenant.NewID().String()
	number := int(id[len(id)-1])<<7 | int(id[len(id)-2])
	switch {
	case c.Label != nil:
		return *c.Label
	case c.Type == "uuid":
		return id
	case c.Category == "N":
		return number
	case c.Category == "B":
		return true
	case c.Category == "D":
		return "2026-01-01"
	case c.Category == "A":
		return []any{}
	case c.Type == "json", c.Type == "jsonb":
		return map[string]any{}
	case c.Category == "S" && (c.Type == "bpchar" || c.Type == "\"char\""):
		return "x"
	default:
		return id
	}
}

// insert writes a row, and returns it as the table has it and where it is.
func (t *table) insert(ctx context.Context, tx pgx.Tx, values map[string]any, s side, row *map[string]any, at *placed) error {
	sql, args, err := t.insertSQL(values, s)
	if err != nil {
		return err
	}
	return tx.QueryRow(ctx, sql+` returning to_jsonb(t), t.tableoid, t.ctid::text`, args...).Scan(row, &at.table, &at.ctid)
}

// insertSQL leaves the types to the server: the values go as one JSON object.
func (t *table) insertSQL(values map[string]any, s side) (string, []any, error) {
	object, err := json.Marshal(values)
	if err != nil {
		return "", nil, err
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		names = append(names, pgx.Identifier{name}.Sanitize())
	}
	if len(names) == 0 {
		return `insert into ` + t.of(s) + ` as t default values`, nil, nil
	}
	list := strings.Join(names, ", ")
	return fmt.Sprintf(`insert into %s as t (%s) select %s from jsonb_populate_record(null::%[1]s, $1)`, t.of(s), list, list),
		[]any{string(object)}, nil
}
