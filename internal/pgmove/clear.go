package pgmove

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Clear empties a place of the tenant's rows: the target of what an earlier
// attempt has left there, or the old copy. It reports how many rows it deleted,
// in transactions of so many at most.
func (m *Move) Clear(ctx context.Context, p *Place, batch int) (rows int64, err error) {
	var all []*relation
	err = m.within(ctx, p, pgx.ReadCommitted, func(tx *tx) error {
		found, err := relations(ctx, tx, p)
		for _, r := range found {
			// In a schema of the tenant's own there may be tables that all tenants
			// have alike, and that aren't carried over.
			carried := slices.ContainsFunc(m.tables, func(t *table) bool { return t.name == r.Name })
			if (r.Kind == "r" || r.Kind == "p") && (r.scoped() || p.Own && carried) {
				all = append(all, r)
			}
		}
		return err
	})
	if err != nil || len(all) == 0 {
		return 0, err
	}
	if p.Own {
		return 0, m.locking(ctx, p, func(tx *tx) error {
			_, err := tx.Exec(ctx, "truncate "+list(all, func(r *relation) string { return p.table(r.Name) }))
			return err
		})
	}
	after := make(map[*relation][]*relation)
	for _, r := range all {
		for _, k := range r.Constraints {
			i := slices.IndexFunc(all, func(o *relation) bool { return k.Type == "f" && o.OID == k.Target })
			if i >= 0 && all[i] != r {
				after[r] = append(after[r], all[i])
			}
		}
	}
	sorted, circle := sortBy(all, after)
	// Constraints of a circle are checked when all of it is gone.
	err = m.locking(ctx, p, func(tx *tx) error {
		rows = 0
		if err := constraints(ctx, tx, "deferred"); err != nil {
			return err
		}
		for _, r := range slices.Backward(circle) {
			tag, err := tx.Exec(ctx, "delete from "+p.rows(m, r))
			if err != nil {
				return fmt.Errorf("table %s: clear: %w", r.Name, err)
			}
			rows += tag.RowsAffected()
		}
		return nil
	})
	for i := len(sorted) - 1; i >= 0 && err == nil; i-- {
		var n int64
		n, err = m.clear(ctx, p, sorted[i], batch)
		rows += n
		m.step("cleared " + sorted[i].Name)
	}
	return rows, err
}

// clear deletes by the place of a row in the table, which needs no key. In a
// partitioned table a place counts within its partition. Rows that refer to
// others of the same table go in one statement, at whose end that is checked.
func (m *Move) clear(ctx context.Context, p *Place, r *relation, batch int) (rows int64, err error) {
	self := slices.ContainsFunc(r.Constraints, func(k constraint) bool { return k.Type == "f" && k.Target == r.OID })
	place := "t.ctid"
	if r.Kind == "p" {
		place = "t.tableoid, t.ctid"
	}
	sql := fmt.Sprintf("delete from %s and (%s) in (select %s from %s limit %d)", p.rows(m, r), place, place, p.rows(m, r), batch)
	if self {
		sql = "delete from " + p.rows(m, r)
	}
	for {
		var n int64
		err := m.locking(ctx, p, func(tx *tx) error {
			tag, err := tx.Exec(ctx, sql)
			n = tag.RowsAffected()
			return err
		})
		if err != nil {
			return rows, fmt.Errorf("table %s: clear: %w", r.Name, err)
		}
		rows += n
		if self || n < int64(batch) {
			return rows, nil
		}
	}
}
