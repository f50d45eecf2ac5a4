package pgmove

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// margin is by how much a sequence of the target is ahead before the switch, so
// that nothing is left to do in it.
const margin = 1000

// note notes the highest values in columns that a sequence fills.
func (m *Move) note(s *script, t *table, query func(column string) string) {
	for _, c := range t.target.Columns {
		if c.Sequence == "" || t.source.column(c.Name) == nil {
			continue
		}
		s.add(t.name, "%s", query(c.Name))
		s.then(func(r *pgconn.Result) error {
			highest, err := number(r, 0)
			if m.top == nil {
				m.top = make(map[string]int64)
			}
			m.top[c.Sequence] = max(m.top[c.Sequence], highest)
			return err
		})
	}
}

// RaiseSequences sets the target's sequences above the source's, by a margin,
// before the switch.
func (m *Move) RaiseSequences(ctx context.Context) error {
	return m.both(ctx, pgx.ReadCommitted, func(from, to *tx) error {
		return m.raise(ctx, from, to, margin)
	})
}

func (m *Move) raise(ctx context.Context, from, to *tx, above int64) error {
	for _, t := range m.tables {
		for _, c := range t.target.Columns {
			if c.Sequence == "" {
				continue
			}
			least := m.top[c.Sequence]
			if a := t.source.column(c.Name); a != nil && a.Sequence != "" {
				last, err := lastValue(ctx, from, a.Sequence)
				if err != nil {
					return err
				}
				least = max(least, last)
			}
			if err := raiseSequence(ctx, to, c.Sequence, least, above); err != nil {
				return fmt.Errorf("sequence %s: %w", c.Sequence, err)
			}
		}
	}
	return nil
}

func lastValue(ctx context.Context, t *tx, sequence string) (last int64, err error) {
	err = t.QueryRow(ctx, "select case when is_called then last_value else last_value - 1 end from "+sequence).Scan(&last)
	return last, err
}

// raiseSequence never lowers it: others may be drawing from it. To alter it, if
// only to what it is, keeps them out until the transaction ends, which setval
// alone doesn't.
func raiseSequence(ctx context.Context, t *tx, sequence string, least, above int64) error {
	last, err := lastValue(ctx, t, sequence)
	if err != nil || last >= least {
		return err
	}
	var cache int64
	if err := t.QueryRow(ctx, `select seqcache from pg_sequence where seqrelid = $1::regclass`, sequence).Scan(&cache); err != nil {
		return err
	}
	if _, err := t.Exec(ctx, fmt.Sprintf("alter sequence %s cache %d", sequence, cache)); err != nil {
		return err
	}
	if last, err = lastValue(ctx, t, sequence); err != nil || last >= least {
		return err
	}
	_, err = t.Exec(ctx, `select setval($1::regclass, least($2::bigint + $3::bigint, (select seqmax from pg_sequence where seqrelid = $1::regclass)))`, sequence, least, above)
	return err
}
