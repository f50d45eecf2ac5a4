package tenancy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// A row is written as an object with a member for each column. Numbers in JSON
// are what each reader takes them to be, and neither -0, infinity nor the
// bounds of an array exist there: a value is a string, namely what
// PostgreSQL itself writes and reads back unchanged, as pg_dump relies on it.
// Three types lose nothing by being JSON's own.
var ownJSON = []string{"boolean", "smallint", "integer"}

// canonicalSQL has each value written in one way only, which loses nothing.
const canonicalSQL = `select set_config('extra_float_digits', '1', true), set_config('datestyle', 'ISO, YMD', true),
	set_config('intervalstyle', 'postgres', true), set_config('timezone', 'UTC', true),
	set_config('bytea_output', 'hex', true), set_config('lc_monetary', 'C', true),
	set_config('xmloption', 'content', true)`

// stored are the columns that are written: the others follow from them.
func (t dataTable) stored() []column {
	return slices.DeleteFunc(slices.Clone(t.columns), func(c column) bool { return c.generated })
}

func (t dataTable) manifestColumns() []ManifestColumn {
	var all []ManifestColumn
	for _, c := range t.stored() {
		all = append(all, ManifestColumn{c.name, c.kind})
	}
	return all
}

// lines is a query of one column, line, that has a row of the tenant's in each,
// in no order. as is the tenant that the rows are to show.
func (t dataTable) lines(id, as tenant.ID) string {
	var values []string
	for _, c := range t.stored() {
		name := pgx.Identifier{c.name}.Sanitize()
		value := "t." + name
		switch {
		case t.tenants && c.name == "tenant_id" && id != as:
			value = "'" + as.String() + "'::text"
		case !slices.Contains(ownJSON, c.kind):
			// The function goes by the type's own output, which a cast to text need
			// not; of NULL it makes an empty string. "is null" would hold for a
			// composite value whose fields are.
			value = "case when " + value + " is distinct from null then concat(" + value + ") end"
		}
		values = append(values, value+" as "+name)
	}
	// The name r alone would be a column of that name, if the table has one.
	return fmt.Sprintf(`select row_to_json(r.*)::text as line from (select %s from %s t%s) r`,
		strings.Join(values, ", "), t.from(), t.of(id)+t.order())
}

// of is the clause that selects the tenant's rows. COPY takes no parameters; an
// ID is safe within quotes by its making.
func (t dataTable) of(id tenant.ID) string {
	if !t.tenants {
		return ""
	}
	return " where t.tenant_id = '" + id.String() + "'"
}

// order is by the key, which has an index, or none.
func (t dataTable) order() string {
	if len(t.key) == 0 {
		return ""
	}
	var columns []string
	for _, c := range t.key {
		columns = append(columns, "t."+pgx.Identifier{c}.Sanitize())
	}
	return " order by " + strings.Join(columns, ", ")
}

// rawCSV is how COPY neither quotes nor escapes anything: there are no line ends
// and control characters in a line of JSON.
const rawCSV = ` with (format csv, quote e'\x01', delimiter e'\x02')`

// copyOut writes the lines in an order that is the same each time.
func (t dataTable) copyOut(id tenant.ID) string {
	query := t.lines(id, id)
	if len(t.key) == 0 {
		query = fmt.Sprintf(`select line from (%s) l order by line collate "C"`, query)
	}
	return "copy (" + query + ") to stdout" + rawCSV
}

// values is the inverse of lines: a query of the stored columns, from what has
// the lines in a column of that name. Every row becomes this tenant's.
func (t dataTable) values(lines string, id tenant.ID) string {
	var names, values []string
	for _, c := range t.stored() {
		name := pgx.Identifier{c.name}.Sanitize()
		names = append(names, name+" text")
		if t.tenants && c.name == "tenant_id" {
			values = append(values, "'"+id.String()+"'::uuid")
		} else {
			values = append(values, "x."+name+"::"+c.kind)
		}
	}
	return fmt.Sprintf(`select %s from %s s cross join lateral json_to_record(s.line::json) x (%s)`,
		strings.Join(values, ", "), lines, strings.Join(names, ", "))
}

// insertFrom is a statement that inserts them.
func (t dataTable) insertFrom(lines string, id tenant.ID) string {
	var names []string
	for _, c := range t.stored() {
		names = append(names, pgx.Identifier{c.name}.Sanitize())
	}
	return fmt.Sprintf(`insert into %s (%s) overriding system value %s`,
		t.id.Sanitize(), strings.Join(names, ", "), t.values(lines, id))
}

// fileName makes a plain file name of a table's: letters that a file system
// may not have are written as their code.
func fileName(id pgx.Identifier) string {
	var b strings.Builder
	for _, c := range []byte(strings.Join(id, ".")) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "-%02x", c)
		}
	}
	return b.String() + ".jsonl"
}
