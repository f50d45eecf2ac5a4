package pgledger

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// mostAhead is how far an event's time may lie in the future before it is taken
// for the mistake of a clock.
const mostAhead = 5 * time.Minute

// appendSQL inserts in the order of the ids and of the rollup's key, so that
// two appends of the same events wait for each other instead of deadlocking.
// The billing periods of each tenant are put together once, not for each event.
const appendSQL = `
with covered as (
	select tenant_id, range_agg(tstzrange(since, case when not live then until end)) as spans
	from mcpsaas.billing_periods
	where tenant_id = any ($12)
	group by tenant_id
), added as (
	insert into mcpsaas.usage_events (event_id, tenant_id, tool, plan, units, outcome,
		occurred_at, recorded_at, duration_us, unmetered, request_id, bill_at, mark, due)
	select e.event_id, e.tenant_id, e.tool, e.plan, e.units, e.outcome,
		e.occurred_at, $10, e.duration_us, e.unmetered, e.request_id, e.bill_at,
		case when e.bill_at < e.occurred_at then 'ahead' end,
		e.units > 0 and coalesce(c.spans @> e.bill_at, false)
	from (
		select *, case when occurred_at > $13 then $10 else occurred_at end as bill_at
		from unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $11)
			as u (event_id, tenant_id, tool, plan, units, outcome, occurred_at, duration_us, unmetered, request_id)
	) as e left join covered c on c.tenant_id = e.tenant_id
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
// all behind it. One that is not valid (Event.Validate) is an error, and no sink
// has taken it.
func (l *Ledger) Append(ctx context.Context, events []usage.Event) (added int, err error) {
	if len(events) == 0 {
		return 0, nil
	}
	c, tenants, err := columnsOf(events)
	if err != nil {
		return 0, fmt.Errorf("pgledger: append events: %w", pgredact.Error(err))
	}
	now := l.now()
	args := []argument{
		c.ids.arg(), c.tenants.arg(), c.tools.arg(), c.plans.arg(), c.units.arg(), c.outcomes.arg(), c.times.arg(),
		c.durations.arg(), c.unmetered.arg(), timeArgument(now), c.requests.arg(), tenants.arg(), timeArgument(now.Add(mostAhead)),
	}

	// One round trip; the batch is one implicit transaction, which holds the
	// locks to its end.
	var batch pgconn.Batch
	queue(&batch, lockAppendSQL, tenants.arg())
	queue(&batch, appendSQL, args...)
	err = l.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		results := conn.Conn().PgConn().ExecBatch(ctx, &batch)
		for results.NextResult() {
			for r := results.ResultReader(); r.NextRow(); {
				if v := r.Values(); len(v) == 1 && len(v[0]) == 8 { // the lock returns void
					added = int(binary.BigEndian.Uint64(v[0]))
				}
			}
		}
		return results.Close()
	})
	if err != nil {
		return 0, fmt.Errorf("pgledger: append %d events: %w", len(events), pgredact.Error(err))
	}
	return added, nil
}

// columns are the events of an Append.
type columns struct {
	ids, tenants, tools, plans, units, outcomes, times, durations, unmetered, requests array
}

// columnsOf returns the events by columns, and each of their tenants once.
func columnsOf(events []usage.Event) (c columns, tenants array, err error) {
	n := len(events)
	uuids := func(n int) array { return newArray(pgtype.UUIDArrayOID, pgtype.UUIDOID, n, 16) }
	texts := func(size int) array { return newArray(pgtype.TextArrayOID, pgtype.TextOID, n, size) }
	numbers := func() array { return newArray(pgtype.Int8ArrayOID, pgtype.Int8OID, n, 8) }
	c = columns{
		ids: uuids(n), tenants: uuids(n), tools: texts(16), plans: texts(8), units: numbers(), outcomes: texts(8),
		times: newArray(pgtype.TimestamptzArrayOID, pgtype.TimestamptzOID, n, 8), durations: numbers(),
		unmetered: newArray(pgtype.BoolArrayOID, pgtype.BoolOID, n, 1), requests: texts(16),
	}
	known := make(map[tenant.ID]pgtype.UUID)
	for i := range events {
		e := &events[i]
		var id pgtype.UUID
		if err := cmp.Or(e.Validate(), id.Scan(e.ID)); err != nil {
			return c, tenants, err
		}
		owner, ok := known[e.Tenant]
		if !ok {
			if err := owner.Scan(e.Tenant.String()); err != nil {
				return c, tenants, fmt.Errorf("tenant of event %s: %w", e.ID, err)
			}
			known[e.Tenant] = owner
		}
		c.ids.uuid(id)
		c.tenants.uuid(owner)
		c.tools.text(clean(e.Tool))
		c.plans.text(clean(string(e.Plan)))
		c.units.int64(e.Units)
		c.outcomes.text(clean(string(e.Outcome)))
		c.times.time(e.Time)
		c.durations.int64(e.Duration.Microseconds())
		c.unmetered.bool(e.Unmetered)
		c.requests.text(clean(e.RequestID))
	}
	tenants = uuids(len(known))
	for _, id := range known {
		tenants.uuid(id)
	}
	return c, tenants, nil
}

// queue adds a statement with binary arguments and result.
func queue(batch *pgconn.Batch, sql string, args ...argument) {
	values, oids := make([][]byte, len(args)), make([]uint32, len(args))
	for i, a := range args {
		values[i], oids[i] = a.value, a.oid
	}
	formats := []int16{pgx.BinaryFormatCode} // of all
	batch.ExecParams(sql, values, oids, formats, formats)
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
