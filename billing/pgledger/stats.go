package pgledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
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
	(select count(*) from (select from mcpsaas.usage_batches where state = 'parked' limit $1) as n),
	(select count(*) from (select from mcpsaas.usage_batches where state = 'rejected' limit $1) as n)`

// tenantStatsSQL is the same for tenant $2. Its oldest event is the one that
// occurred first, which is usually the one recorded first.
const tenantStatsSQL = `
select
	(select recorded_at from mcpsaas.usage_events where due and tenant_id = $2 order by bill_at limit 1),
	(select min(sealed_at) from mcpsaas.usage_batches
		where state in ('sealed', 'sending', 'verifying', 'unknown') and tenant_id = $2),
	(select count(*) from (select from mcpsaas.usage_events where due and tenant_id = $2 limit $1) as n),
	(select count(*) from (select from mcpsaas.usage_batches
		where state in ('sealed', 'sending', 'verifying', 'unknown') and tenant_id = $2 limit $1) as n),
	(select count(*) from (select from mcpsaas.usage_batches
		where state = 'unknown' and tenant_id = $2 limit $1) as n),
	(select count(*) from (select from mcpsaas.usage_batches
		where state = 'parked' and tenant_id = $2 limit $1) as n),
	(select count(*) from (select from mcpsaas.usage_batches
		where state = 'rejected' and tenant_id = $2 limit $1) as n)`

const signalsSQL = `
select
	(select at from mcpsaas.billing_signals where name = 'answer'),
	(select at from mcpsaas.billing_signals where name = 'unauthorized'),
	(select received_at from mcpsaas.billing_notices order by received_at desc limit 1),
	(select received_at from mcpsaas.billing_notices where state in ('new', 'working') order by received_at limit 1),
	(select count(*) from (select from mcpsaas.billing_notices where state in ('new', 'working') limit $1) as n),
	(select count(*) from (select from mcpsaas.billing_notices where state = 'dead' limit $1) as n)`

// Stats implements [billing.Ledger] and [billing.NoticeStore]. Its cost does
// not depend on how much usage is stored. The numbers of the inbox and of the
// provider are those of all tenants.
func (l *Ledger) Stats(ctx context.Context, id tenant.ID) (s billing.Stats, err error) {
	var batch pgx.Batch
	sql, args := statsSQL, []any{billing.StatsLimit}
	if !id.IsZero() {
		sql, args = tenantStatsSQL, append(args, id)
	}
	batch.Queue(sql, args...).QueryRow(func(row pgx.Row) error {
		return row.Scan(timeOrZero{&s.OldestUnsealed}, timeOrZero{&s.OldestUnconfirmed},
			&s.Unsealed, &s.Open, &s.Unknown, &s.Parked, &s.Rejected)
	})
	batch.Queue(signalsSQL, billing.StatsLimit).QueryRow(func(row pgx.Row) error {
		return row.Scan(timeOrZero{&s.LastAnswer}, timeOrZero{&s.Unauthorized},
			timeOrZero{&s.LastNotice}, timeOrZero{&s.OldestNotice}, &s.PendingNotices, &s.DeadNotices)
	})
	if err := l.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return billing.Stats{}, fmt.Errorf("pgledger: read the health of billing: %w", err)
	}
	return s, nil
}
