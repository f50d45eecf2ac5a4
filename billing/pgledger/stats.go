package pgledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Usage that waits for longer than overdue while its billing period ends within
// closeSoon, or has ended, is at risk. A worker needs 5 minutes unless it was
// told otherwise.
const (
	overdue   = 6 * time.Minute
	closeSoon = 10 * time.Minute
)

// statsSQL reads at most [billing.StatsLimit] entries of an index for each
// number. $1 is that limit.
const statsSQL = `
select
	(select recorded_at from mcpsaas.usage_events where due order by recorded_at limit 1),
	(select sealed_at from mcpsaas.usage_batches
		where state in ('sealed', 'sending', 'verifying', 'unknown') order by sealed_at limit 1),
	(select count(*) from (select from mcpsaas.usage_events where due limit $1) as n),
	(select count(*) from (select from mcpsaas.usage_batches
		where state in ('sealed', 'sending', 'verifying', 'unknown') limit $1) as n),
	(select count(*) from (select from mcpsaas.usage_batches
		where state = 'unknown' limit $1) as n),
	(select count(*) from (select from mcpsaas.usage_batches where state = 'parked' or state = 'voiding' limit $1) as n),
	(select count(*) from (select from mcpsaas.usage_batches where state = 'rejected' limit $1) as n),
	(select count(*) from (select from mcpsaas.billing_drift where settled_at is null limit $1) as n),
	(select coalesce(sum(abs(drift)), 0)::bigint from (select drift from mcpsaas.billing_drift where settled_at is null limit $1) as n),
	(select count(*) from (
		(select target_id from mcpsaas.usage_batches b where ` + riskyBatch + ` limit $1)
		union
		(select p.target_id from mcpsaas.billing_periods p where ` + riskyPeriod + ` limit $1)) as n)`

// What riskyBatch and riskyPeriod say is at risk: usage whose billing period has
// ended or does so before $3, and that waits since before $2 or was tried and
// not taken. An invoice item has no period to miss.
const (
	riskyBatch = `
			b.state in ('sealed', 'sending', 'verifying', 'unknown') and b.period_end < $3
				and (b.sealed_at < $2 or b.attempt > 0 and b.state in ('sealed', 'unknown'))
				and (select t.mode from mcpsaas.billing_targets t where t.id = b.target_id) <> 'invoice_item'`
	riskyPeriod = `
			p.period_end < $3 and p.period_end > $3::timestamptz - interval '3 hours' and exists (
				select from mcpsaas.usage_events e
				where e.due and e.tenant_id = p.tenant_id and e.bill_at >= p.since and e.bill_at < p.until and e.recorded_at < $2)`
)

// tenantStatsSQL is the same for tenant $4. Its oldest event is the one that
// occurred first, which is usually the one recorded first.
const tenantStatsSQL = `
select
	(select recorded_at from mcpsaas.usage_events where due and tenant_id = $4 order by bill_at limit 1),
	(select min(sealed_at) from mcpsaas.usage_batches
		where state in ('sealed', 'sending', 'verifying', 'unknown') and tenant_id = $4),
	(select count(*) from (select from mcpsaas.usage_events where due and tenant_id = $4 limit $1) as n),
	(select count(*) from (select from mcpsaas.usage_batches
		where state in ('sealed', 'sending', 'verifying', 'unknown') and tenant_id = $4 limit $1) as n),
	(select count(*) from (select from mcpsaas.usage_batches
		where state = 'unknown' and tenant_id = $4 limit $1) as n),
	(select count(*) from (select from mcpsaas.usage_batches
		where (state = 'parked' or state = 'voiding') and tenant_id = $4 limit $1) as n),
	(select count(*) from (select from mcpsaas.usage_batches
		where state = 'rejected' and tenant_id = $4 limit $1) as n),
	(select count(*) from (select from mcpsaas.billing_drift where settled_at is null and tenant_id = $4 limit $1) as n),
	(select coalesce(sum(abs(drift)), 0)::bigint from (
		select drift from mcpsaas.billing_drift where settled_at is null and tenant_id = $4 limit $1) as n),
	(select count(*) from (
		(select target_id from mcpsaas.usage_batches b where b.tenant_id = $4 and ` + riskyBatch + ` limit $1)
		union
		(select p.target_id from mcpsaas.billing_periods p where p.tenant_id = $4 and ` + riskyPeriod + ` limit $1)) as n)`

const signalsSQL = `
select
	(select at from mcpsaas.billing_signals where name = 'answer'),
	(select at from mcpsaas.billing_signals where name = 'unauthorized'),
	(select at from mcpsaas.billing_signals where name = 'reconciled'),
	(select at from mcpsaas.billing_signals where name = 'pulled'),
	heard.at,
	(select min(received_at) from (
		select received_at from mcpsaas.billing_notices
		where via = 'pull' and created > coalesce(heard.at, '-infinity') + interval '1 minute' limit $1) as n),
	(select received_at from mcpsaas.billing_notices
		where state in ('new', 'working') and received_at <= $2 order by received_at limit 1),
	(select count(*) from (select from mcpsaas.billing_notices
		where state in ('new', 'working') and received_at <= $2 limit $1) as n),
	(select count(*) from (select from mcpsaas.billing_notices where state = 'dead' limit $1) as n)
from (select max(received_at) as at from mcpsaas.billing_notices where via = 'webhook') as heard`

// Stats implements [billing.Ledger] and [billing.NoticeStore]. Its cost does
// not depend on how much usage is stored. The numbers of the inbox and of the
// provider are those of all tenants.
func (l *Ledger) Stats(ctx context.Context, id tenant.ID) (s billing.Stats, err error) {
	var batch pgx.Batch
	now := l.now()
	sql, args := statsSQL, []any{billing.StatsLimit, now.Add(-overdue), now.Add(closeSoon)}
	if !id.IsZero() {
		sql, args = tenantStatsSQL, append(args, id)
	}
	batch.Queue(sql, args...).QueryRow(func(row pgx.Row) error {
		return row.Scan(timeOrZero{&s.OldestUnsealed}, timeOrZero{&s.OldestUnconfirmed},
			&s.Unsealed, &s.Open, &s.Unknown, &s.Parked, &s.Rejected, &s.Drifting, &s.Drift, &s.AtRisk)
	})
	batch.Queue(signalsSQL, billing.StatsLimit, now).QueryRow(func(row pgx.Row) error {
		return row.Scan(timeOrZero{&s.LastAnswer}, timeOrZero{&s.Unauthorized}, timeOrZero{&s.LastReconcile},
			timeOrZero{&s.LastPull}, timeOrZero{&s.LastNotice}, timeOrZero{&s.Unheard}, timeOrZero{&s.OldestNotice}, &s.PendingNotices, &s.DeadNotices)
	})
	if err := l.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return billing.Stats{}, fmt.Errorf("pgledger: read the health of billing: %w", pgredact.Error(err))
	}
	return s, nil
}
