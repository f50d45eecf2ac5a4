package pgledger

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// ToolUsage is what one tool was used, in a time that the caller chose.
type ToolUsage struct {
	Tool  string
	Units int64 // what was charged
	Calls int64 // of which the rest
	OK    int64
	// Denied calls were refused, see usage.Denied; Failed are all other calls that
	// did not end well.
	Denied, Failed int64
}

// usageSQL takes whole hours from the rollup and the two ends from the events.
const usageSQL = `
select tool, sum(units)::bigint, sum(calls)::bigint,
	coalesce(sum(calls) filter (where outcome = 'ok'), 0)::bigint,
	coalesce(sum(calls) filter (where outcome = 'denied'), 0)::bigint
from (
	select tool, outcome, calls, units from mcpsaas.usage_hourly
	where tenant_id = $1 and hour >= $4 and hour < $5
	union all
	select tool, outcome, 1, units from mcpsaas.usage_events
	where tenant_id = $1 and occurred_at >= $2 and occurred_at < $3
		and (occurred_at < $4 or occurred_at >= $5)
) as u
group by tool
order by tool`

// Usage returns what each tool of the tenant was used in [from, to), by name.
// Events that are still in a sink are not in it.
func (l *Ledger) Usage(ctx context.Context, id tenant.ID, from, to time.Time) ([]ToolUsage, error) {
	first, last := wholeHours(from, to)
	rows, err := l.pool.Query(ctx, usageSQL, id, from, to, first, last)
	if err != nil {
		return nil, fmt.Errorf("pgledger: read usage of tenant %s: %w", id, pgredact.Error(err))
	}
	tools, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (u ToolUsage, err error) {
		err = row.Scan(&u.Tool, &u.Units, &u.Calls, &u.OK, &u.Denied)
		u.Failed = u.Calls - u.OK - u.Denied
		return u, err
	})
	if err != nil {
		return nil, fmt.Errorf("pgledger: read usage of tenant %s: %w", id, pgredact.Error(err))
	}
	return tools, nil
}

const eventsSQL = `
select event_id::text, tool, plan, units, outcome, occurred_at, duration_us, unmetered, request_id
from mcpsaas.usage_events
where tenant_id = $1 and (occurred_at, event_id) > ($2, $3)
order by occurred_at, event_id
limit $4`

// eventsPage is how many events one query of Events fetches.
const eventsPage = 2000

// Events yields every usage event of the tenant in order of time, for an
// archive or an export. It holds no connection while the caller works, and
// ends after the first error.
func (l *Ledger) Events(ctx context.Context, id tenant.ID) iter.Seq2[usage.Event, error] {
	return func(yield func(usage.Event, error) bool) {
		after, last := time.Time{}, "00000000-0000-0000-0000-000000000000"
		for {
			page, err := l.eventsAfter(ctx, id, after, last)
			if err != nil {
				yield(usage.Event{}, fmt.Errorf("pgledger: read events of tenant %s: %w", id, pgredact.Error(err)))
				return
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
			}
			if len(page) < eventsPage {
				return
			}
			after, last = page[len(page)-1].Time, page[len(page)-1].ID
		}
	}
}

func (l *Ledger) eventsAfter(ctx context.Context, id tenant.ID, after time.Time, last string) ([]usage.Event, error) {
	rows, err := l.pool.Query(ctx, eventsSQL, id, after, last, eventsPage)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (usage.Event, error) {
		e := usage.Event{Tenant: id}
		var us int64
		err := row.Scan(&e.ID, &e.Tool, &e.Plan, &e.Units, &e.Outcome, &e.Time, &us, &e.Unmetered, &e.RequestID)
		e.Time, e.Duration = e.Time.UTC(), time.Duration(us)*time.Microsecond
		return e, err
	})
}
