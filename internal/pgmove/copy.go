package pgmove

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Copied is called after each table of the first copy.
type Copied func(table string, rows int64)

// Copy fills the empty target with what the source has in one snapshot, in
// one transaction.
//
// Between databases the rows are loaded into a temporary table first, and
// inserted from there: COPY FROM is refused where row level security binds the
// one who loads, and to lift it from a table for a moment would lift it for
// everybody. Memory is bounded by the largest row.
func (m *Move) Copy(ctx context.Context, copied Copied) (rows int64, err error) {
	err = m.both(ctx, pgx.RepeatableRead, func(from, to *tx) error {
		rows = 0
		for _, t := range m.tables {
			n, err := m.copyTable(ctx, from, to, t)
			if err != nil {
				return fmt.Errorf("table %s: copy: %w", t.name, err)
			}
			rows += n
			if copied != nil {
				copied(t.name, n)
			}
			m.step("copied " + t.name)
		}
		return constraints(ctx, to, "immediate")
	})
	return rows, err
}

// Analyze has the planner know both places: nobody else has looked at what was
// copied, and what comes next are small joins with large tables.
func (m *Move) Analyze(ctx context.Context) error {
	for _, p := range []*Place{m.From, m.To} {
		for _, t := range m.tables {
			err := m.within(ctx, p, pgx.ReadCommitted, func(tx *tx) error {
				_, err := tx.Exec(ctx, "analyze "+p.table(t.name))
				return err
			})
			if err != nil {
				return about(t.name, err)
			}
		}
	}
	return nil
}

func (m *Move) copyTable(ctx context.Context, from, to *tx, t *table) (int64, error) {
	into := fmt.Sprintf("insert into %s (%s) overriding system value ", m.To.table(t.name), list(t.columns, quote))
	if m.Same {
		tag, err := to.Exec(ctx, into+m.present(t))
		return tag.RowsAffected(), err
	}
	const rows = "pg_temp.move_rows"
	var before, after script
	m.stage(&before, rows, t)
	if err := before.run(ctx, to); err != nil {
		return 0, err
	}
	n, err := m.pipe(ctx, from, to, m.present(t), rows, t)
	if err != nil {
		return 0, err
	}
	after.add(t.name, "%sselect %s from %s", into, list(t.columns, quote), rows)
	after.add(t.name, "drop table %s", rows)
	return n, after.run(ctx, to)
}

// both runs fn in a transaction at each place, which is the same one within a
// database. The target's is committed first: what is done twice does no harm,
// what is forgotten does.
func (m *Move) both(ctx context.Context, iso pgx.TxIsoLevel, fn func(from, to *tx) error) error {
	if m.Same {
		return m.within(ctx, m.To, iso, func(tx *tx) error {
			if err := constraints(ctx, tx, "deferred"); err != nil {
				return err
			}
			return fn(tx, tx)
		})
	}
	return m.within(ctx, m.From, iso, func(from *tx) error {
		err := m.within(ctx, m.To, pgx.ReadCommitted, func(to *tx) error {
			if err := constraints(ctx, to, "deferred"); err != nil {
				return err
			}
			return fn(from, to)
		})
		if err == nil {
			m.step("applied")
		}
		return err
	})
}

// constraints sets when those that can wait are checked.
func constraints(ctx context.Context, t *tx, when string) error {
	_, err := t.Exec(ctx, "set constraints all "+when)
	return err
}

// present selects the tenant's rows at the source, with the target's columns.
func (m *Move) present(t *table) string {
	return fmt.Sprintf("select %s from %s", m.columns(t), m.From.rows(m, t.source))
}

// columns are the target's as the source has them: tenant_id is filled in if
// only the target has it. Within a database a type of the one schema is
// another than that of the same name in the other.
func (m *Move) columns(t *table) string {
	return list(t.columns, func(name string) string {
		a, b := t.source.column(name), t.target.column(name)
		switch {
		case a == nil:
			return literal(m.Tenant) + "::uuid"
		case m.Same && a.TypeOID != b.TypeOID:
			return "t." + quote(name) + "::text::" + b.Type
		}
		return "t." + quote(name)
	})
}

// stage makes a temporary table with the target's columns. It is gone with the
// transaction, however that ends, and nobody else sees it.
func (m *Move) stage(s *script, name string, t *table) {
	s.add(t.name, "create temporary table %s on commit drop as select %s from %s with no data",
		strings.TrimPrefix(name, "pg_temp."), list(t.columns, quote), m.To.table(t.name))
}

// pipe streams what query selects at the source into a temporary table at the
// target.
func (m *Move) pipe(ctx context.Context, from, to *tx, query, into string, t *table) (int64, error) {
	format := "binary"
	for _, name := range t.columns {
		if t.target.column(name).Textual {
			format = "text"
		}
	}
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		buffer := bufio.NewWriterSize(w, 64<<10)
		_, err := from.Conn().PgConn().CopyTo(ctx, buffer, fmt.Sprintf("copy (%s) to stdout (format %s)", query, format))
		if err == nil {
			err = buffer.Flush()
		}
		w.CloseWithError(err)
		sent <- err
	}()
	tag, err := to.Conn().PgConn().CopyFrom(ctx, r, fmt.Sprintf("copy %s from stdin (format %s)", into, format))
	r.Close() // a sender whom nobody reads must not wait
	if sendErr := <-sent; sendErr != nil && !errors.Is(sendErr, io.ErrClosedPipe) {
		return 0, sendErr
	}
	return tag.RowsAffected(), err
}
