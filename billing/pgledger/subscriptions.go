package pgledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const subscriptionsSQL = `
select id from mcpsaas.billing_subscriptions
where tenant_id = $1 and ended_at is null and status not in ('canceled', 'incomplete_expired')
order by id`

// Subscriptions returns the ids of the tenant's subscriptions that have not
// ended, at the provider: what deprovisioning has to cancel.
func (l *Ledger) Subscriptions(ctx context.Context, id tenant.ID) ([]string, error) {
	rows, err := l.pool.Query(ctx, subscriptionsSQL, id)
	if err != nil {
		return nil, fmt.Errorf("pgledger: read subscriptions of tenant %s: %w", id, pgredact.Error(err))
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("pgledger: read subscriptions of tenant %s: %w", id, pgredact.Error(err))
	}
	return ids, nil
}
