package pgledger

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/mcpsaas/mcpsaas/metering/usage"
)

// appendSQL inserts in the order of the ids and of the rollup's key, so that
// two appends of the same events wait for each other instead of deadlocking.
const appendSQL = `
with added as (
	insert into mcpsaas.usage_events (event_id, tenant_id, tool, plan, units, outcome,
		occurred_at, recorded_at, duration_us, unmetered, request_id, due)
	select e.event_id, e.tenant_id, e.tool, e.plan, e.units, e.outcome,
		e.occurred_at, $10, e.duration_us, e.unmetered, e.request_id,
		e.units > 0 and exists (
			select from mcpsaas.billing_periods p
			where p.tenant_id = e.tenant_id and e.occurred_at >= p.since and (p.live or e.occurred_at < p.until))
	from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::text[],
		$7::timestamptz[], $8::bigint[], $9::boolean[], $11::text[])
		as e (event_id, tenant_id, tool, plan, units, outcome, occurred_at, duration_us, unmetered, request_id)
	order by e.event_id
	on conflict (event_id) do nothing
	returning tenant_id, tool, outcome, occurred_at, units
), rolled as (
	insert into mcpsaas.usage_hourly as h (tenant_id, hour, tool, outcome, calls, units)
	select tenant_id, date_trunc('hour', occurred_at, 'UTC'), tool, outcome, count(*), sum(units)
	from added
	group by 1, 2, 3, 4
	order by 1, 2, 3, 4
	on conflict (tenant_id, hour, tool, outcome)
	do update set calls = h.calls + excluded.calls, units = h.units + excluded.units
)
select count(*) from added`

// Append stores the events whose ID it has not got yet, all or none, and
// returns how many were new. It implements [usage.Store].
//
// Text that PostgreSQL can't hold (NUL bytes, invalid UTF-8) is mended and
// overlong text is cut, since an event that can never be stored would hold up
// all behind it. An event without a UUID, tenant or time, or with negative
// units, is an error.
func (l *Ledger) Append(ctx context.Context, events []usage.Event) (added int, err error) {
	if len(events) == 0 {
		return 0, nil
	}
	n := len(events)
	var (
		ids, tenants    = make([]pgtype.UUID, n), make([]string, n)
		tools, plans    = make([]string, n), make([]string, n)
		outcomes        = make([]string, n)
		requests        = make([]string, n)
		units, duration = make([]int64, n), make([]int64, n)
		times           = make([]time.Time, n)
		unmetered       = make([]bool, n)
	)
	for i, e := range events {
		if err := ids[i].Scan(e.ID); err != nil || len(e.ID) != 36 {
			return 0, fmt.Errorf("pgledger: append events: id %.40q is not a UUID", e.ID)
		}
		switch {
		case e.Tenant.IsZero():
			return 0, fmt.Errorf("pgledger: append events: event %s has no tenant", e.ID)
		case e.Time.IsZero():
			return 0, fmt.Errorf("pgledger: append events: event %s has no time", e.ID)
		case e.Units < 0:
			return 0, fmt.Errorf("pgledger: append events: event %s has %d units", e.ID, e.Units)
		}
		tenants[i] = e.Tenant.String()
		tools[i], plans[i] = clean(e.Tool), clean(string(e.Plan))
		outcomes[i], requests[i] = clean(string(e.Outcome)), clean(e.RequestID)
		units[i], duration[i] = e.Units, e.Duration.Microseconds()
		times[i], unmetered[i] = e.Time, e.Unmetered
	}
	// One round trip; the batch is one implicit transaction, which holds the
	// locks to its end.
	var batch pgx.Batch
	batch.Queue(lockAppendSQL, tenants)
	batch.Queue(appendSQL, ids, tenants, tools, plans, units, outcomes, times, duration, unmetered, l.now(), requests).
		QueryRow(func(row pgx.Row) error { return row.Scan(&added) })
	if err := l.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return 0, fmt.Errorf("pgledger: append %d events: %w", n, err)
	}
	return added, nil
}

// clean returns s as PostgreSQL can hold it, and within the length of an index
// entry.
func clean(s string) string {
	const most = 256
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
}
