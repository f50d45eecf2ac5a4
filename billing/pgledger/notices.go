package pgledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
)

// acceptSQL also notes that a webhook has come after all for what was pulled.
const acceptSQL = `
insert into mcpsaas.billing_notices as n (id, type, created, object_id, customer, api_version, live, payload,
	lane, next_at, received_at, via)
values ($1, $2, $3, $4, $5, $6, $7, $8, coalesce(nullif($5, ''), $4), $9, $9, $10)
on conflict (id) do update set via = excluded.via, received_at = excluded.received_at
	where n.via = 'pull' and excluded.via = 'webhook'
returning xmax = 0`

// Accept implements [billing.Inbox]: one row for each notice id.
func (l *Ledger) Accept(ctx context.Context, n billing.Notice) (fresh bool, err error) {
	if n.ID == "" || len(n.ID) > 255 || clean(n.ID) != n.ID {
		return false, fmt.Errorf("pgledger: accept notice: id %.40q is empty, too long or not text", n.ID)
	}
	payload := n.Payload
	if payload == nil {
		payload = []byte{}
	}
	at, via := l.now(), "webhook"
	switch {
	case !n.NotBefore.IsZero():
		at, via = n.NotBefore, "schedule"
	case n.Pulled:
		via = "pull"
	}
	err = l.pool.QueryRow(ctx, acceptSQL, n.ID, clean(n.Type), n.Created, clean(n.ObjectID), clean(n.Customer),
		clean(n.APIVersion), n.Live, payload, at, via).Scan(&fresh)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) { // there before
		return false, fmt.Errorf("pgledger: accept notice %s: %w", n.ID, pgredact.Error(err))
	}
	return fresh, nil
}

const pullsSQL = `
select (select at from mcpsaas.billing_signals where name = $1), (select at from mcpsaas.billing_signals where name = $2)`

// LastPulls implements [billing.NoticeStore].
func (l *Ledger) LastPulls(ctx context.Context) (p billing.Pulls, err error) {
	err = l.pool.QueryRow(ctx, pullsSQL, signalPulled, signalPulledAll).Scan(timeOrZero{&p.Undelivered}, timeOrZero{&p.All})
	if err != nil {
		return p, fmt.Errorf("pgledger: read the last pulls: %w", pgredact.Error(err))
	}
	return p, nil
}

// SavePull implements [billing.NoticeStore].
func (l *Ledger) SavePull(ctx context.Context, began time.Time, all bool) error {
	var batch pgx.Batch
	batch.Queue(signalSQL, signalPulled, began)
	if all {
		batch.Queue(signalSQL, signalPulledAll, began)
	}
	if err := l.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("pgledger: record a pull: %w", pgredact.Error(err))
	}
	return nil
}

// nextNoticeSQL leaves lanes alone that are being worked on. Two claimers may
// still pick two notices of one lane at the same moment; the unique index on
// the lane lets one of them through.
const nextNoticeSQL = `
update mcpsaas.billing_notices set state = 'working', attempt = attempt + 1, tries = tries + 1,
	lease_until = $2
where id = (
	select c.id from mcpsaas.billing_notices c
	where c.state in ('new', 'working') and c.next_at <= $1 and (c.state = 'new' or c.lease_until <= $1)
		and not exists (
			select from mcpsaas.billing_notices o
			where o.lane = c.lane and o.state = 'working' and o.id <> c.id)
	order by c.next_at, c.id
	limit 1
	for update skip locked)
returning id, type, created, object_id, customer, api_version, live, payload, attempt, tries,
	nextval('mcpsaas.billing_seq')`

// NextNotice implements [billing.NoticeStore].
func (l *Ledger) NextNotice(ctx context.Context, now time.Time, lease time.Duration) (*billing.NoticeClaim, error) {
	// Whoever loses the race for a lane looks for another; each loss is some
	// other worker's gain, so it ends.
	for {
		var c billing.NoticeClaim
		err := l.pool.QueryRow(ctx, nextNoticeSQL, now, now.Add(lease)).Scan(&c.ID, &c.Type, timeOrZero{&c.Created},
			&c.ObjectID, &c.Customer, &c.APIVersion, &c.Live, &c.Payload, &c.Attempt, &c.Tries, &c.Seq)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, nil
		}
		if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == uniqueViolation {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("pgledger: claim notice: %w", pgredact.Error(err))
		}
		return &c, nil
	}
}

// uniqueViolation is SQLSTATE 23505.
const uniqueViolation = "23505"

const finishNoticeSQL = `
update mcpsaas.billing_notices set state = $3, lease_until = null, reason = $4, tenant_id = $5,
	tries = tries - case when $8 then 1 else 0 end,
	next_at = coalesce($6, next_at), finished_at = case when $3 = 'new' then null else $7::timestamptz end
where id = $1 and attempt = $2 and state = 'working'`

// FinishNotice implements [billing.NoticeStore].
func (l *Ledger) FinishNotice(ctx context.Context, c billing.NoticeClaim, now time.Time, v billing.NoticeVerdict) error {
	tag, err := l.pool.Exec(ctx, finishNoticeSQL, c.ID, c.Attempt, v.State, clean(v.Reason), v.Tenant, timeOrNull(v.NextAt), now, v.Interrupted)
	if err == nil && tag.RowsAffected() == 0 {
		err = billing.ErrFenced
	}
	if err != nil {
		return fmt.Errorf("pgledger: finish notice %s: %w", c.ID, pgredact.Error(err))
	}
	return nil
}
