package tenancy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// deletionOrder groups the tables so that a group is referred to by none of
// the later ones. A group has one table, but for tables that refer to each
// other in a circle, or to what does.
func deletionOrder(tables []dataTable) [][]dataTable {
	var groups [][]dataTable
	rest := slices.Clone(tables)
	for len(rest) > 0 {
		free := slices.IndexFunc(rest, func(t dataTable) bool {
			return !slices.ContainsFunc(rest, func(other dataTable) bool {
				return other.oid != t.oid && slices.Contains(other.references, t.oid)
			})
		})
		if free < 0 {
			return append(groups, rest)
		}
		groups = append(groups, []dataTable{rest[free]})
		rest = slices.Delete(rest, free, free+1)
	}
	return groups
}

// lockTimeoutSQL keeps an erasure from queueing before everybody else's
// statements while it waits for a lock itself.
const lockTimeoutSQL = `set local lock_timeout = '2s'`

func (d *Data) eraseGroup(ctx context.Context, p place, group []dataTable, counts Counts) error {
	if len(group) > 1 || slices.Contains(group[0].references, group[0].oid) {
		// Foreign keys are checked at the end of a statement: one statement
		// can delete a circle.
		return d.eraseOnce(ctx, p, group, counts)
	}
	t := group[0]
	for {
		var n int64
		err := p.within(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, lockTimeoutSQL); err != nil {
				return err
			}
			tag, err := tx.Exec(ctx, batchSQL(t), p.tenant, d.batch)
			n = tag.RowsAffected()
			return err
		})
		if err != nil {
			return fmt.Errorf("table %s: %w", t.name(), err)
		}
		counts[t.name()] += n
		if n < int64(d.batch) {
			return nil
		}
	}
}

// batchSQL deletes some rows by their place in the table, which needs no key.
// In a partitioned table a place counts within its partition.
func batchSQL(t dataTable) string {
	if t.partitioned {
		return fmt.Sprintf(`delete from %[1]s where %[2]s and (tableoid, ctid) in (select tableoid, ctid from %[1]s where %[2]s limit $2)`, t.from(), t.where())
	}
	return fmt.Sprintf(`delete from %[1]s where %[2]s and ctid = any (array(select ctid from %[1]s where %[2]s limit $2))`, t.from(), t.where())
}

// where is the condition that selects the rows of the tenant $1. In a table of
// its own schema without tenant_id they are all there are.
func (t dataTable) where() string {
	if t.tenants {
		return `tenant_id = $1`
	}
	return `$1::uuid is not null`
}

func (d *Data) eraseOnce(ctx context.Context, p place, group []dataTable, counts Counts) error {
	var steps, sums, names []string
	for i, t := range group {
		steps = append(steps, fmt.Sprintf(`d%d as (delete from %s where %s returning 1)`, i, t.from(), t.where()))
		sums = append(sums, fmt.Sprintf(`(select count(*) from d%d)`, i))
		names = append(names, t.name())
	}
	sql := "with " + strings.Join(steps, ", ") + " select array[" + strings.Join(sums, ", ") + "]"
	var n []int64
	err := p.within(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockTimeoutSQL); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sql, p.tenant).Scan(&n)
	})
	if err != nil {
		return fmt.Errorf("tables %s: %w", strings.Join(names, ", "), err)
	}
	for i, t := range group {
		counts[t.name()] += n[i]
	}
	return nil
}
