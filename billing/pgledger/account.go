package pgledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// ErrNotFound is returned for what the ledger doesn't have.
var ErrNotFound = errors.New("pgledger: not found")

// TenantOf returns the tenant that a provider's customer belongs to, or
// [ErrNotFound].
func (l *Ledger) TenantOf(ctx context.Context, customer string) (id tenant.ID, err error) {
	err = l.pool.QueryRow(ctx, accountOfSQL, customer).Scan(&id)
	return id, found("tenant of customer", err)
}

const customerSQL = `
select customer from mcpsaas.billing_accounts where tenant_id = $1 order by created_at desc, customer limit 1`

// Customer returns the tenant's customer at the provider, the latest should it
// have had several, or [ErrNotFound].
func (l *Ledger) Customer(ctx context.Context, id tenant.ID) (customer string, err error) {
	err = l.pool.QueryRow(ctx, customerSQL, id).Scan(&customer)
	return customer, found("customer of tenant", err)
}

const latestSubscriptionSQL = `
select id, customer, status, plan, period_start, period_end, cancel_at_period_end, past_due_since,
	collection_paused, ended_at
from mcpsaas.billing_subscriptions
where tenant_id = $1
order by status in ('canceled', 'incomplete_expired'), seq desc
limit 1`

// Subscription returns the tenant's subscription as the provider last told of
// it, without its targets: a running one before one that has ended. It returns
// [ErrNotFound] when the tenant never had any.
func (l *Ledger) Subscription(ctx context.Context, id tenant.ID) (s billing.Subscription, err error) {
	err = l.pool.QueryRow(ctx, latestSubscriptionSQL, id).Scan(&s.ID, &s.Customer, &s.Status, &s.Plan,
		timeOrZero{&s.PeriodStart}, timeOrZero{&s.PeriodEnd}, &s.CancelAtPeriodEnd, timeOrZero{&s.PastDueSince},
		&s.CollectionPaused, timeOrZero{&s.EndedAt})
	return s, found("subscription of tenant", err)
}

// found turns a missing row into [ErrNotFound].
func found(what string, err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("pgledger: read %s: %w", what, pgredact.Error(err))
	}
	return nil
}
