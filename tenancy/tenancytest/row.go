package tenancytest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// table is a table as the catalog has it.
type table struct {
	name    string
	id      pgx.Identifier
	oid     uint32
	given   map[string]any
	columns []column
	keys    []key
	uniques []unique
}

type column struct {
	Name, Type, Category string
	Label                *string // an enum's first
	Needed               bool    // not null, without a default
}

// key is a foreign key.
type key struct {
	Target  uint32
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

func (t *table) sql() string { return t.id.Sanitize() }

const (
	findSQL = `
select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')`

	columnsSQL = `
select a.attname::text, format_type(coalesce(nullif(t.typbasetype, 0), t.oid), -1), t.typcategory::text,
	(select min(e.enumlabel::text) from pg_enum e where e.enumtypid = t.oid),
	a.attnotnull and not a.atthasdef and a.attidentity = ''
from pg_attribute a join pg_type t on t.oid = a.atttypid
where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
order by a.attnum`

	keysSQL = `
select k.confrelid,
	array(select a.attname::text from unnest(k.conkey) with ordinality u(n, i) join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.n order by u.i),
	array(select a.attname::text from unnest(k.confkey) with ordinality u(n, i) join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.n order by u.i)
from pg_constraint k where k.conrelid = $1 and k.contype = 'f'`

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
	t := &table{name: spec.Name, given: spec.Row}
	if schema, name, ok := strings.Cut(spec.Name, "."); ok {
		t.id = pgx.Identifier{schema, name}
	} else {
		t.id = pgx.Identifier{"public", spec.Name}
	}
	err := r.as(ctx, r.anna, func(ctx context.Context, tx pgx.Tx) (err error) {
		if err := tx.QueryRow(ctx, findSQL, t.id[0], t.id[1]).Scan(&t.oid); err != nil {
			return fmt.Errorf("no such table: %w", err)
		}
		if t.columns, err = collect[column](ctx, tx, columnsSQL, t.oid); err != nil {
			return err
		}
		if t.keys, err = collect[key](ctx, tx, keysSQL, t.oid); err != nil {
			return err
		}
		t.uniques, err = collect[unique](ctx, tx, uniquesSQL, t.oid)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(t.columns, func(c column) bool { return c.Name == "tenant_id" }) {
		return nil, fmt.Errorf("it has no column tenant_id")
	}
	var made pair
	for id, row := range map[tenant.ID]*map[string]any{r.anna: &made.anna, r.bert: &made.bert} {
		err := r.as(ctx, id, func(ctx context.Context, tx pgx.Tx) (err error) {
			*row, err = t.insert(ctx, tx, r.fresh(t, id))
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("insert a row of its own: %w", err)
		}
	}
	r.rows[t.oid] = made
	return t, nil
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
func (r *run) fresh(t *table, id tenant.ID) map[string]any {
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
		if id == r.bert {
			row = r.rows[k.Target].bert
		}
		for i, name := range k.Columns {
			if v, ok := row[k.Targets[i]]; ok {
				values[name] = v
			}
		}
	}
	maps.Copy(values, t.given)
	values["tenant_id"] = id.String()
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

// insert writes a row and returns it as the table has it.
func (t *table) insert(ctx context.Context, tx pgx.Tx, values map[string]any) (map[string]any, error) {
	sql, args, err := t.insertSQL(values)
	if err != nil {
		return nil, err
	}
	var row map[string]any
	err = tx.QueryRow(ctx, sql+` returning to_jsonb(t)`, args...).Scan(&row)
	return row, err
}

// insertSQL leaves the types to the server: the values go as one JSON object.
func (t *table) insertSQL(values map[string]any) (string, []any, error) {
	object, err := json.Marshal(values)
	if err != nil {
		return "", nil, err
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		names = append(names, pgx.Identifier{name}.Sanitize())
	}
	list := strings.Join(names, ", ")
	return fmt.Sprintf(`insert into %s as t (%s) select %s from jsonb_populate_record(null::%[1]s, $1)`, t.sql(), list, list),
		[]any{string(object)}, nil
}
