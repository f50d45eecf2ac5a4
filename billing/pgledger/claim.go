package pgledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const openSQL = `
select ` + targetColumns + `, t.id,
	case when b.state in ('sending', 'verifying') then b.lease_until else b.next_at end
from (select distinct target_id from mcpsaas.usage_batches
	where state in ('sealed', 'sending', 'verifying', 'unknown') and ($1::uuid is null or tenant_id = $1)) as o
join mcpsaas.billing_targets t on t.id = o.target_id
join lateral (
	select state, lease_until, next_at, period_end, sealed_at from mcpsaas.usage_batches b
	where b.id = coalesce(
		(select d.id from mcpsaas.usage_batches d
			where d.target_id = o.target_id and d.state in ('sending', 'verifying', 'unknown')
			order by d.first_sent_at desc limit 1),
		(select s.id from mcpsaas.usage_batches s
			where s.target_id = o.target_id and s.state = 'sealed'
			order by s.slot limit 1))) as b on true
order by case when b.period_end < $2 then b.period_end end nulls last, b.sealed_at, t.id`

// Open implements [billing.Ledger].
func (l *Ledger) Open(ctx context.Context, id tenant.ID, soon time.Time) ([]billing.OpenTarget, error) {
	rows, err := l.pool.Query(ctx, openSQL, id, soon)
	if err != nil {
		return nil, fmt.Errorf("pgledger: list open batches: %w", pgredact.Error(err))
	}
	targets, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o billing.OpenTarget, err error) {
		err = row.Scan(fieldsOf(&o.Target, &o.ID, &o.NextAt)...)
		return o, err
	})
	if err != nil {
		return nil, fmt.Errorf("pgledger: list open batches: %w", pgredact.Error(err))
	}
	return targets, nil
}

// The claim of a target's first open batch. Claimers of one target exclude
// each other by its row; they don't wait, since the other one will do the work.
const (
	claimTargetSQL = `
select ` + targetColumns + ` from mcpsaas.billing_targets t where id = $1 for no key update skip locked`

	// What was sent and is in doubt comes first, else what was sent since
	// might be taken for it in the provider's totals. The state is looked at
	// twice: the second look sees what another claim's settling has made of
	// the row that this one waited for.
	claimHeadSQL = `
select id::text, state, attempt, epoch, epoch_at, refused, quantity, slot, period_start, period_end,
	first_sent_at, last_sent_at,
	state in ('sending', 'verifying') and lease_until > $2 or state in ('sealed', 'unknown') and next_at > $2
from mcpsaas.usage_batches
where id = coalesce(
		(select d.id from mcpsaas.usage_batches d
			where d.target_id = $1 and d.state in ('sending', 'verifying', 'unknown')
			order by d.first_sent_at desc limit 1),
		(select s.id from mcpsaas.usage_batches s
			where s.target_id = $1 and s.state = 'sealed'
			order by s.slot limit 1))
	and state in ('sealed', 'sending', 'verifying', 'unknown')
for update`

	// What else the provider's total of the same window may hold. A batch that
	// has first_sent_at was not proved absent; a voided one was taken back, which
	// the total shows as late as a send.
	windowSQL = `
select coalesce(sum(quantity) filter (where state = 'confirmed'), 0)::bigint,
	coalesce(bool_or(state not in ('confirmed', 'voided')), false), max(last_sent_at)
from mcpsaas.usage_batches
where target_id = $1 and id <> $2 and first_sent_at is not null and `

	// A window goes by slots alone: the first and last of a billing period may
	// reach into its neighbours.
	slotWindowSQL   = windowSQL + `slot >= $3 and slot < $4`
	periodWindowSQL = windowSQL + `period_start = $3`

	claimSQL = `
update mcpsaas.usage_batches set state = $2, attempt = $3, lease_until = $4, epoch = $5, epoch_at = $6,
	first_sent_at = $7, last_sent_at = $8
where id = $1`

	holdSQL = `update mcpsaas.usage_batches set state = $2, next_at = $3, lease_until = null where id = $1`
)

// Claim implements [billing.Ledger].
func (l *Ledger) Claim(ctx context.Context, target int64, now time.Time, lease time.Duration, caps billing.Caps, decide func(billing.Batch) billing.Decision) (*billing.Claim, error) {
	var claim *billing.Claim
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		b := billing.Batch{TargetID: target}
		err := tx.QueryRow(ctx, claimTargetSQL, target).Scan(fieldsOf(&b.Target)...)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		var busy bool
		err = tx.QueryRow(ctx, claimHeadSQL, target, now).Scan(&b.ID, &b.State, &b.Attempt, &b.Epoch,
			timeOrZero{&b.EpochAt}, &b.Refused, &b.Quantity, &b.Slot, &b.PeriodStart, &b.PeriodEnd,
			timeOrZero{&b.FirstSent}, timeOrZero{&b.LastSent}, &busy)
		if errors.Is(err, pgx.ErrNoRows) || busy {
			return nil
		}
		if err != nil {
			return err
		}
		// Only a batch that was sent before is ever compared with a total.
		if !b.FirstSent.IsZero() {
			if err := lookAround(ctx, tx, &b, caps.VerifyWindow); err != nil {
				return err
			}
		}
		c := billing.Claim{Batch: b, Decision: decide(b)}
		if c.Step == billing.StepLate {
			err = l.settleLate(ctx, tx, &c, now, caps)
		} else {
			err = take(ctx, tx, &c, now, lease)
		}
		if err != nil {
			return err
		}
		claim = &c
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("pgledger: claim batch: %w", pgredact.Error(err))
	}
	return claim, nil
}

// lookAround fills in what there is of other batches in b's window.
func lookAround(ctx context.Context, tx pgx.Tx, b *billing.Batch, window time.Duration) error {
	sql, args := periodWindowSQL, []any{b.TargetID, b.ID, b.PeriodStart}
	if window > 0 {
		from := b.Slot.Truncate(window)
		sql, args = slotWindowSQL, []any{b.TargetID, b.ID, from, from.Add(window)}
	}
	return tx.QueryRow(ctx, sql, args...).Scan(&b.WindowConfirmed, &b.WindowUnproved, timeOrZero{&b.WindowSent})
}

// take carries out the decision on a locked batch. What is about to be sent is
// recorded as sent: from the commit on, a crash leaves a batch that may have
// been applied.
func take(ctx context.Context, tx pgx.Tx, c *billing.Claim, now time.Time, lease time.Duration) error {
	first, last := c.FirstSent, c.LastSent
	switch c.Step {
	case billing.StepHold:
		c.State = billing.StateUnknown
		_, err := tx.Exec(ctx, holdSQL, c.ID, c.State, c.Until)
		return err
	case billing.StepVerify:
		c.State = billing.StateVerifying
	case billing.StepSend:
		c.State = billing.StateSending
		if first.IsZero() {
			first = now
		}
		last = now
		if c.NewEpoch {
			c.Epoch++
			c.EpochAt = time.Time{}
		}
		if c.EpochAt.IsZero() {
			c.EpochAt = now
		}
	default:
		return fmt.Errorf("unknown step %d", c.Step)
	}
	c.Attempt++
	_, err := tx.Exec(ctx, claimSQL, c.ID, c.State, c.Attempt, now.Add(lease), c.Epoch,
		timeOrNull(c.EpochAt), timeOrNull(first), timeOrNull(last))
	if err != nil {
		return err
	}
	return logBatch(ctx, tx, c.ID, now, c.Attempt, c.State, worker, "", "")
}
