package pgmove

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
		var highest script
		for _, t := range m.tables {
			if err := m.compareAll(ctx, from, to, t); err != nil {
				return err
			}
			m.note(&highest, t, func(name string) string {
				return fmt.Sprintf("select max(t.%s) from %s", quote(name), m.From.rows(m, t.source))
			})
		}
		return highest.run(ctx, from)
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
// before, and sums add up. It also notes the highest values of sequences.
func (d *delta) verify(ctx context.Context) error {
	var from, to script
	sums := make([]struct{ source, target sum }, len(d.parts))
	for i, p := range d.parts {
		there := &from
		if d.Same {
			there = &to
		}
		there.add(p.name, "%s", d.sumSQL(p.table)+d.byKey(d.From, p.table, p.source, p.keys))
		there.then(sums[i].source.read)
		to.add(p.name, "%s", d.sumSQL(p.table)+d.byKey(d.To, p.table, p.target, p.keys))
		to.then(sums[i].target.read)
		d.note(&to, p.table, func(name string) string {
			return fmt.Sprintf("select max(t.%s) from %s t", quote(name), p.rows)
		})
	}
	if err := from.run(ctx, d.from); err != nil {
		return err
	}
	if err := to.run(ctx, d.to); err != nil {
		return err
	}
	for i, s := range sums {
		if s.source != s.target {
			return &DifferError{d.parts[i].name, s.source.rows, s.target.rows}
		}
	}
	return nil
}

func (s *sum) read(r *pgconn.Result) (err error) {
	s.rows, err = number(r, 0)
	s.hash = string(r.Rows[0][1])
	return err
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
