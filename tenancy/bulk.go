package tenancy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// bulkRows is how many rows go into one statement.
const bulkRows = 5000

// BulkInsert does what [pgx.Tx.CopyFrom] does, for tables under row level
// security, where PostgreSQL refuses COPY FROM. The rows travel as one array
// per column, some thousand at a time. It returns the number of rows inserted;
// after an error tx must be rolled back. tenant_id needn't be among the columns.
func BulkInsert(ctx context.Context, tx pgx.Tx, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	n, err := bulkInsert(ctx, tx, table, columns, source)
	if err != nil {
		return n, fmt.Errorf("tenancy: bulk insert into %s: %w", strings.Join(table, "."), err)
	}
	return n, nil
}

func bulkInsert(ctx context.Context, tx pgx.Tx, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	if len(columns) == 0 {
		return 0, errors.New("no columns")
	}
	cols, types, err := bulkColumns(ctx, tx, table, columns)
	if err != nil {
		return 0, err
	}
	sql := bulkSQL(table, cols)
	values := make([]any, len(cols))
	var total int64
	for {
		n, err := fillColumns(types, cols, source)
		if err != nil || n == 0 {
			return total, err
		}
		for i := range cols {
			values[i] = cols[i].values
		}
		tag, err := tx.Exec(ctx, sql, values...)
		if err != nil {
			return total, err
		}
		total += tag.RowsAffected()
	}
}

// bulkColumn is a column and the values that wait for it.
type bulkColumn struct {
	name   string
	oid    uint32
	typ    string // without its modifier, so that too long a value is refused and not cut
	asText bool   // sent as text: unnest would flatten an array, and the driver must know the type of an array's elements
	values []any
}

// A domain's values travel as its base type's, and are checked as they are
// stored.
const bulkColumnsSQL = `
select a.attname, coalesce(nullif(t.typbasetype, 0), t.oid), format_type(coalesce(nullif(t.typbasetype, 0), t.oid), -1), t.typcategory = 'A'
from pg_attribute a join pg_type t on t.oid = a.atttypid
where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped and a.attname = any ($2)`

func bulkColumns(ctx context.Context, tx pgx.Tx, table pgx.Identifier, names []string) ([]bulkColumn, *pgtype.Map, error) {
	rows, err := tx.Query(ctx, bulkColumnsSQL, table.Sanitize(), names)
	if err != nil {
		return nil, nil, err
	}
	types := rows.TypeMap()
	found := make(map[string]bulkColumn)
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		var c bulkColumn
		err := row.Scan(&c.name, &c.oid, &c.typ, &c.asText)
		if _, known := types.TypeForOID(c.oid); !known {
			c.oid, c.asText = pgtype.TextOID, true
		}
		found[c.name] = c
		return struct{}{}, err
	})
	if err != nil {
		return nil, nil, err
	}
	cols := make([]bulkColumn, len(names))
	for i, name := range names {
		c, ok := found[name]
		if !ok {
			return nil, nil, fmt.Errorf("no such table, or no column %q in it", name)
		}
		cols[i] = c
	}
	return cols, types, nil
}

func bulkSQL(table pgx.Identifier, cols []bulkColumn) string {
	var names, results, params, aliases []string
	for i, c := range cols {
		names = append(names, pgx.Identifier{c.name}.Sanitize())
		alias := fmt.Sprintf("v%d", i+1)
		aliases = append(aliases, alias)
		param, result := c.typ, "u."+alias
		if c.asText {
			param, result = "text", result+"::"+c.typ
		}
		params = append(params, fmt.Sprintf("$%d::%s[]", i+1, param))
		results = append(results, result)
	}
	return fmt.Sprintf("insert into %s (%s) select %s from unnest(%s) as u(%s)", table.Sanitize(),
		strings.Join(names, ", "), strings.Join(results, ", "), strings.Join(params, ", "), strings.Join(aliases, ", "))
}

// fillColumns takes the next rows from the source and returns their number.
func fillColumns(types *pgtype.Map, cols []bulkColumn, source pgx.CopyFromSource) (int, error) {
	for i := range cols {
		cols[i].values = make([]any, 0, len(cols[i].values))
	}
	n := 0
	for n < bulkRows && source.Next() {
		values, err := source.Values()
		if err != nil {
			return 0, err
		}
		if len(values) != len(cols) {
			return 0, fmt.Errorf("row with %d values for %d columns", len(values), len(cols))
		}
		for i, v := range values {
			if cols[i].asText && v != nil {
				text, err := types.Encode(cols[i].oid, pgx.TextFormatCode, v, nil)
				if err != nil {
					return 0, fmt.Errorf("column %q: %w", cols[i].name, err)
				}
				v = nil
				if text != nil {
					v = string(text)
				}
			}
			cols[i].values = append(cols[i].values, v)
		}
		n++
	}
	return n, source.Err()
}
