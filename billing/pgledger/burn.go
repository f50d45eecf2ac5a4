package pgledger

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// leftSQL locks what is left of the tenant's grants until the end of the
// transaction: a void or a person may change it as well.
const leftSQL = notEmptySQL + ` for no key update`

const notEmptySQL = grantColumns + `where tenant_id = $1 and remaining > 0` + grantOrder

const burnSQL = `update mcpsaas.billing_grants set remaining = remaining - $2 where id = $1`

// burn is a part of a grant that usage takes.
type burn struct {
	grant tenant.ID
	units int64
}

// left returns the tenant's grants that have something left, in the order in which
// they are used, and the times at which one of them begins or ends.
func (s sealer) left(ctx context.Context) (grants []Grant, bounds []time.Time, err error) {
	rows, err := s.tx.Query(ctx, leftSQL, s.tenant)
	if err != nil {
		return nil, nil, err
	}
	if grants, err = pgx.CollectRows(rows, scanGrant); err != nil {
		return nil, nil, err
	}
	return grants, edges(grants), nil
}

// edges are the times at which one of the grants begins or ends.
func edges(grants []Grant) []time.Time {
	bounds := []time.Time{} // nil would be NULL
	for _, g := range grants {
		bounds = append(bounds, g.StartsAt)
		if !g.ExpiresAt.IsZero() {
			bounds = append(bounds, g.ExpiresAt)
		}
	}
	slices.SortFunc(bounds, time.Time.Compare)
	return slices.CompactFunc(bounds, time.Time.Equal)
}

// unsealedUsageSQL is how much of the usage in no batch yet occurred between which of
// the bounds $2.
const unsealedUsageSQL = `
select array[width_bucket(occurred_at, $2)::bigint, sum(units)::bigint]
from mcpsaas.usage_events where tenant_id = $1 and due
group by width_bucket(occurred_at, $2) order by 1`

// GrantsLeft returns the grants that a tenant can still use, now or later, in the
// order in which they are used. What remains of them is without what the usage
// that is stored but not yet sealed will take.
func (l *Ledger) GrantsLeft(ctx context.Context, id tenant.ID) (grants []Grant, err error) {
	var usage [][]int64
	// Of one moment: what is sealed in between would count twice, or not at all.
	err = pgx.BeginTxFunc(ctx, l.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, notEmptySQL, id)
		if err != nil {
			return err
		}
		if grants, err = pgx.CollectRows(rows, scanGrant); err != nil || len(grants) == 0 {
			return err
		}
		if rows, err = tx.Query(ctx, unsealedUsageSQL, id, edges(grants)); err != nil {
			return err
		}
		usage, err = pgx.CollectRows(rows, pgx.RowTo[[]int64])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("pgledger: list what is left of grants: %w", pgredact.Error(err))
	}
	burns, _ := cover(grants, edges(grants), usage)
	for _, b := range burns {
		i := slices.IndexFunc(grants, func(g Grant) bool { return g.ID == b.grant })
		grants[i].Remaining -= b.units
	}
	now := l.now()
	return slices.DeleteFunc(grants, func(g Grant) bool {
		return g.Remaining == 0 || !g.ExpiresAt.IsZero() && !g.ExpiresAt.After(now)
	}), nil
}

// cover says which of the grants, in their order, pay for usage. Of that each
// element has a place among the bounds, 0 being before the first, and its units;
// between two bounds the same grants are valid. Older usage is covered first.
func cover(grants []Grant, bounds []time.Time, usage [][]int64) (burns []burn, covered int64) {
	left := make([]int64, len(grants))
	used := make([]int64, len(grants))
	for i, g := range grants {
		left[i] = g.Remaining
	}
	for _, u := range usage {
		place, units := u[0], u[1]
		if place == 0 {
			continue
		}
		at := bounds[place-1]
		for i, g := range grants {
			if at.Before(g.StartsAt) || !g.ExpiresAt.IsZero() && !at.Before(g.ExpiresAt) {
				continue
			}
			n := min(units, left[i])
			left[i] -= n
			used[i] += n
			units -= n
		}
	}
	for i, n := range used {
		if n > 0 {
			burns = append(burns, burn{grants[i].ID, n})
			covered += n
		}
	}
	return burns, covered
}

// burn writes down what grants pay of the events of a batch.
func (s sealer) burn(ctx context.Context, burns []burn, eventsIn tenant.ID) error {
	if len(burns) == 0 {
		return nil
	}
	var batch pgx.Batch
	for _, b := range burns {
		batch.Queue(burnSQL, b.grant, b.units)
		batch.Queue(entrySQL, s.now, b.grant, accountAvailable, accountBurned, b.units, eventsIn, worker, "")
	}
	return s.tx.SendBatch(ctx, &batch).Close()
}
