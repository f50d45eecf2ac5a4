package pgledger

import (
	"context"
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const unitsSQL = `
select (
	select coalesce(sum(units), 0) from mcpsaas.usage_hourly
	where tenant_id = $1 and hour >= $4 and hour < $5 and ($6 = '' or tool = $6)
)::bigint + (
	select coalesce(sum(units), 0) from mcpsaas.usage_events
	where tenant_id = $1 and occurred_at >= $2 and occurred_at < $3
		and (occurred_at < $4 or occurred_at >= $5) and ($6 = '' or tool = $6)
)::bigint`

// Units returns how many units the tenant's events in [from, to) were charged:
// those of one tool, or of all if tool is empty. Events that are still in a sink
// are not in it. With it a Ledger is a metering.Ledger.
func (l *Ledger) Units(ctx context.Context, id tenant.ID, tool string, from, to time.Time) (units int64, err error) {
	first, last := wholeHours(from, to)
	if err := l.pool.QueryRow(ctx, unitsSQL, id, from, to, first, last, tool).Scan(&units); err != nil {
		return 0, fmt.Errorf("pgledger: read units of tenant %s: %w", id, err)
	}
	return units, nil
}

// wholeHours returns from where to where [from, to) consists of whole hours, for
// which the rollup is enough.
func wholeHours(from, to time.Time) (first, last time.Time) {
	first = from.UTC().Truncate(time.Hour)
	if first.Before(from) {
		first = first.Add(time.Hour)
	}
	last = to.UTC().Truncate(time.Hour)
	if last.Before(first) { // within one hour: events only
		return to, to
	}
	return first, last
}
