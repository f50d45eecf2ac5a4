package pgmove

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// DifferError says that a table at the target isn't what the source is. The
// tenant stays where it was.
type DifferError struct {
	Table        string
	Rows, Target int64 // at the source and at the target; of the last delta, if it was that which differs
}

// Error names the table and the numbers of rows.
func (e *DifferError) Error() string {
	return fmt.Sprintf("table %s: the target differs from the source: %d rows against %d, or others", e.Table, e.Target, e.Rows)
}

// sum is the number of rows and the sum of their hashes.
type sum struct {
	rows int64
	hash string
}

// Verify catches up, and compares all rows in the same snapshot.
func (m *Move) Verify(ctx context.Context) (rows int64, err error) {
	err = m.both(ctx, pgx.RepeatableRead, func(from, to *tx) error {
		if rows, err = m.carry(ctx, from, to); err != nil {
			return err
		}
		for _, t := range m.tables {
			if err := m.compareAll(ctx, from, to, t); err != nil {
				return err
			}
			if err := m.noteAll(ctx, from, t); err != nil {
				return err
			}
		}
		return nil
	})
	return rows, err
}

func (m *Move) compareAll(ctx context.Context, from, to *tx, t *table) error {
	source := m.sumSQL(t) + m.From.rows(m, t.source)
	target := m.sumSQL(t) + m.To.rows(m, t.target)
	if m.Same {
		return compareSums(ctx, from, to, t, source, target)
	}
	type result struct {
		sum
		err error
	}
	answer := make(chan result, 1)
	go func() {
		s, err := readSum(ctx, from, source)
		answer <- result{s, err}
	}()
	b, err := readSum(ctx, to, target)
	a := <-answer
	switch {
	case a.err != nil:
		return a.err
	case err != nil:
		return err
	case a.sum != b:
		return &DifferError{t.name, a.rows, b.rows}
	}
	return nil
}

// verify compares the rows of the delta. What the others are was compared
// before, and sums add up.
func (d *delta) verify(ctx context.Context, p *part) error {
	among := fmt.Sprintf(" t join pg_temp.%s k on %s where ", quote(p.keys), p.same("t", "k"))
	return compareSums(ctx, d.from, d.to, p.table,
		d.sumSQL(p.table)+d.From.table(p.name)+among+d.mine(p.source, "t"),
		d.sumSQL(p.table)+d.To.table(p.name)+among+d.mine(p.target, "t"))
}

func compareSums(ctx context.Context, from, to *tx, t *table, source, target string) error {
	a, err := readSum(ctx, from, source)
	if err != nil {
		return err
	}
	b, err := readSum(ctx, to, target)
	if err != nil {
		return err
	}
	if a != b {
		return &DifferError{t.name, a.rows, b.rows}
	}
	return nil
}

func readSum(ctx context.Context, t *tx, sql string) (s sum, err error) {
	err = t.QueryRow(ctx, sql).Scan(&s.rows, &s.hash)
	return s, err
}

// bytea is a type whose text may be too long for a row's.
const bytea = 17

// sumSQL adds up the hashes of rows, of the columns that both places have by
// their names. The text of a value is the same in any database, and so is its
// hash, on machines that order the bytes of a number alike.
func (m *Move) sumSQL(t *table) string {
	columns := list(without(t.columns), func(name string) string {
		if t.target.column(name).Base == bytea {
			return "encode(sha256(t." + quote(name) + "), 'hex')"
		}
		return "t." + quote(name)
	})
	return "select count(*), coalesce(sum(hashtextextended(row(" + columns + `)::text collate "C", 0)::numeric), 0)::text from `
}
