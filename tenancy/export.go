package tenancy

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Export writes all the rows of one tenant, as of one moment: for each table
// put is called with a file name, and with a function that writes a line of
// JSON for each row and returns their number. Nothing is held in memory. put
// must call the function once; that tables stay locked against changes of
// their form meanwhile is the price of one moment.
func (d *Data) Export(ctx context.Context, id tenant.ID, put func(name string, write func(io.Writer) (rows int64, err error)) error) error {
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := d.within(ctx, id, holdShared, opts, func(p place, tx pgx.Tx) error {
		tables, err := p.tables(ctx, tx)
		if err != nil {
			return err
		}
		for _, t := range tables {
			err := put(fileName(t.logical()), func(w io.Writer) (int64, error) {
				tag, err := tx.Conn().PgConn().CopyTo(ctx, w, exportSQL(t, id))
				return tag.RowsAffected(), err
			})
			if err != nil {
				return fmt.Errorf("table %s: %w", t.name(), err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("tenancy: export tenant: %w", err)
	}
	return nil
}

// exportSQL writes JSON as it is, a row a line: jsonb's text has no line ends
// and none of the two control characters, so that CSV has nothing to quote.
// COPY takes no parameters; an ID is safe within quotes by its making. The name
// t alone would be a column of that name, if the table has one.
func exportSQL(t dataTable, id tenant.ID) string {
	where := ""
	if t.tenants {
		where = fmt.Sprintf(" where t.tenant_id = '%s'", id)
	}
	return fmt.Sprintf(`copy (select to_jsonb(t.*) from %s t%s)
to stdout with (format csv, quote e'\x01', delimiter e'\x02')`, t.from(), where)
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
