package pgledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const (
	// accountSQL gives the customer to the tenant unless it has one, and
	// returns whose it is.
	accountSQL = `
insert into mcpsaas.billing_accounts as a (customer, tenant_id, email, created_at, updated_at)
values ($1, $2, $3, $4, $4)
on conflict (customer) do update set
	email = case when excluded.email <> '' and a.tenant_id = excluded.tenant_id then excluded.email else a.email end,
	updated_at = excluded.updated_at
returning tenant_id`

	accountOfSQL = `select tenant_id from mcpsaas.billing_accounts where customer = $1`

	subscriptionSQL = `
select status, period_start, period_end, seq from mcpsaas.billing_subscriptions where id = $1`

	putSubscriptionSQL = `
insert into mcpsaas.billing_subscriptions (id, tenant_id, customer, status, plan, period_start, period_end,
	cancel_at_period_end, past_due_since, collection_paused, ended_at, seq, updated_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
on conflict (id) do update set
	tenant_id = excluded.tenant_id, customer = excluded.customer, status = excluded.status, plan = excluded.plan,
	period_start = excluded.period_start, period_end = excluded.period_end,
	cancel_at_period_end = excluded.cancel_at_period_end, past_due_since = excluded.past_due_since,
	collection_paused = excluded.collection_paused, ended_at = excluded.ended_at,
	seq = excluded.seq, updated_at = excluded.updated_at`

	targetSQL = `
insert into mcpsaas.billing_targets (tenant_id, provider, mode, customer, meter, meter_id, item, additive, key)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict (provider, mode, key) do update set meter_id = excluded.meter_id, item = excluded.item, additive = excluded.additive
returning id, tenant_id`

	spansSQL = `
select id, target_id, period_start, period_end, since, until, live
from mcpsaas.billing_periods where subscription_id = $1 order by since, id`

	insertSpanSQL = `
insert into mcpsaas.billing_periods (tenant_id, target_id, subscription_id, period_start, period_end, since, until, live)
values ($1, $2, $3, $4, $5, $6, $7, $8)`

	updateSpanSQL = `update mcpsaas.billing_periods set period_end = $2, until = $3, live = $4 where id = $1`

	// shortenSQL tells the batches of a period that was cut short.
	shortenSQL = `
update mcpsaas.usage_batches set period_end = $3
where target_id = $1 and period_start = $2 and period_end > $3 and state in ('sealed', 'sending', 'verifying', 'unknown')`

	// dueSQL decides anew, for usage in no batch, whether it is to be billed.
	dueSQL = `
update mcpsaas.usage_events e set due = not due
where tenant_id = $1 and bill_at >= $2 and units > 0 and batch_id is null and due <> exists (
	select from mcpsaas.billing_periods p
	where p.tenant_id = $1 and e.bill_at >= p.since and (p.live or e.bill_at < p.until))`
)

// Save implements [billing.NoticeStore].
func (l *Ledger) Save(ctx context.Context, now time.Time, n billing.Notice, c billing.Change) (billing.Change, error) {
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		if err := saveAccount(ctx, tx, now, &c); err != nil {
			return err
		}
		if c.Tenant.IsZero() {
			return nil
		}
		if c.Purchase != nil {
			if err := savePurchase(ctx, tx, now, c.Tenant, *c.Purchase); err != nil {
				return err
			}
		}
		if c.Subscription == nil {
			return nil
		}
		if err := lockTenant(ctx, tx, c.Tenant); err != nil {
			return err
		}
		return saveSubscription(ctx, tx, now, n, c)
	})
	if err != nil {
		return c, fmt.Errorf("pgledger: save change: %w", pgredact.Error(err))
	}
	for i := range targetsOf(c) {
		c.Subscription.Targets[i].Tenant = c.Tenant
	}
	return c, nil
}

func targetsOf(c billing.Change) []billing.Target {
	if c.Subscription == nil {
		return nil
	}
	return c.Subscription.Targets
}

// saveAccount corrects the change's tenant.
func saveAccount(ctx context.Context, tx pgx.Tx, now time.Time, c *billing.Change) error {
	if c.Customer == "" && c.Subscription != nil {
		c.Customer = c.Subscription.Customer
	}
	if c.Customer == "" {
		return nil
	}
	if !c.Tenant.IsZero() {
		return tx.QueryRow(ctx, accountSQL, c.Customer, c.Tenant, clean(c.Email), now).Scan(&c.Tenant)
	}
	err := tx.QueryRow(ctx, accountOfSQL, c.Customer).Scan(&c.Tenant)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

// saveSubscription keeps the subscription and what follows from it for usage,
// under the tenant's lock.
func saveSubscription(ctx context.Context, tx pgx.Tx, now time.Time, n billing.Notice, c billing.Change) error {
	s := *c.Subscription
	if s.ID == "" {
		return errors.New("subscription has no id")
	}
	var (
		before *bounds
		prev   billing.Subscription
		seq    int64
	)
	err := tx.QueryRow(ctx, subscriptionSQL, s.ID).Scan(&prev.Status, &prev.PeriodStart, &prev.PeriodEnd, &seq)
	switch {
	case err == nil && seq >= c.Seq:
		return nil // something at least as recent is kept
	case err == nil:
		b := boundsOf(prev)
		before = &b
	case !errors.Is(err, pgx.ErrNoRows):
		return err
	}
	_, err = tx.Exec(ctx, putSubscriptionSQL, s.ID, c.Tenant, c.Customer, s.Status, s.Plan, s.PeriodStart, s.PeriodEnd,
		s.CancelAtPeriodEnd, timeOrNull(s.PastDueSince), s.CollectionPaused, timeOrNull(s.EndedAt), c.Seq, now)
	if err != nil {
		return err
	}
	targets, err := saveTargets(ctx, tx, c)
	if err != nil {
		return err
	}
	rows, err := tx.Query(ctx, spansSQL, s.ID)
	if err != nil {
		return err
	}
	spans, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p span, err error) {
		err = row.Scan(&p.id, &p.target, &p.start, &p.end, &p.since, &p.until, &p.live)
		return p, err
	})
	if err != nil {
		return err
	}
	return saveSpans(ctx, tx, c, plan(spans, before, boundsOf(s), targets, effective(now, n, s)))
}

// effective is when a change took effect: a notice of the subscription itself
// is as old as the change; another only happened to find it.
func effective(now time.Time, n billing.Notice, s billing.Subscription) time.Time {
	if n.ObjectID == s.ID && !n.Created.IsZero() && n.Created.Before(now) {
		return n.Created
	}
	return now
}

func saveTargets(ctx context.Context, tx pgx.Tx, c billing.Change) (ids []int64, err error) {
	for _, t := range c.Subscription.Targets {
		id, err := saveTarget(ctx, tx, c.Tenant, t)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// saveTarget keeps what is known of a target, and locks it.
func saveTarget(ctx context.Context, tx pgx.Tx, of tenant.ID, t billing.Target) (id int64, err error) {
	key := t.Customer + "/" + t.Meter
	if t.Mode == billing.ModeUsageRecord || t.Mode == billing.ModeInvoiceItem && t.Meter == "" {
		key = t.Item
	}
	var owner tenant.ID
	err = tx.QueryRow(ctx, targetSQL, of, t.Provider, t.Mode, t.Customer, t.Meter, t.MeterID, t.Item, t.Additive, key).Scan(&id, &owner)
	if err == nil && owner != of {
		err = errors.New("a target of the subscription belongs to another tenant")
	}
	return id, err
}

func saveSpans(ctx context.Context, tx pgx.Tx, c billing.Change, spans []span) error {
	var from time.Time // the first time for which something changed
	locked := false
	for _, s := range spans {
		if !s.dirty {
			continue
		}
		if !locked {
			if _, err := tx.Exec(ctx, lockBucketSQL, c.Tenant); err != nil {
				return err
			}
			locked = true
		}
		changed := s.since
		var err error
		if s.id == 0 {
			_, err = tx.Exec(ctx, insertSpanSQL, c.Tenant, s.target, c.Subscription.ID, s.start, s.end, s.since, s.until, s.live)
		} else {
			changed = s.until
			_, err = tx.Exec(ctx, updateSpanSQL, s.id, s.end, s.until, s.live)
			if err == nil {
				_, err = tx.Exec(ctx, shortenSQL, s.target, s.start, s.end)
			}
		}
		if err != nil {
			return err
		}
		if from.IsZero() || changed.Before(from) {
			from = changed
		}
	}
	if !locked {
		return nil
	}
	_, err := tx.Exec(ctx, dueSQL, c.Tenant, from)
	return err
}
