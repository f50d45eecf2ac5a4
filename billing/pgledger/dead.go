package pgledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// DeadNotice is a notice that was given up.
type DeadNotice struct {
	ID         string    `json:"id"`
	Type       string    `json:"type"`
	ObjectID   string    `json:"object"`
	Customer   string    `json:"customer,omitempty"`
	Tenant     tenant.ID `json:"tenant,omitzero"` // where it is known
	ReceivedAt time.Time `json:"received_at"`
	GivenUpAt  time.Time `json:"given_up_at"`
	Attempts   int       `json:"attempts"`
	Reason     string    `json:"reason"`
}

const deadNoticesSQL = `
select id, type, object_id, customer, tenant_id, received_at,
	coalesce(finished_at, received_at), attempt, reason
from mcpsaas.billing_notices where state = 'dead'
order by received_at, id limit $1`

// DeadNotices returns the notices that were given up, each with the reason, the
// oldest first. [Ledger.RequeueNotice] has one applied again.
func (l *Ledger) DeadNotices(ctx context.Context, limit int) ([]DeadNotice, error) {
	rows, err := l.pool.Query(ctx, deadNoticesSQL, limit)
	if err != nil {
		return nil, fmt.Errorf("pgledger: list dead notices: %w", pgredact.Error(err))
	}
	notices, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (n DeadNotice, err error) {
		err = row.Scan(&n.ID, &n.Type, &n.ObjectID, &n.Customer, &n.Tenant, &n.ReceivedAt, &n.GivenUpAt, &n.Attempts, &n.Reason)
		n.ReceivedAt, n.GivenUpAt = n.ReceivedAt.UTC(), n.GivenUpAt.UTC()
		return n, err
	})
	if err != nil {
		return nil, fmt.Errorf("pgledger: list dead notices: %w", pgredact.Error(err))
	}
	return notices, nil
}
