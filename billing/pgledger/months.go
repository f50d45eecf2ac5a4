package pgledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
)

const (
	monthsAhead    = 3         // partitions that are made before they are needed
	monthsEvery    = time.Hour // how often Run looks
	monthsRetry    = time.Minute
	leastRetention = 62 * 24 * time.Hour

	// trimEvents is how many events of the default partition are deleted at
	// once.
	trimEvents = 10_000
)

const (
	makeMonthSQL = `select mcpsaas.usage_make_month($1)`
	dropMonthSQL = `select mcpsaas.usage_drop_month($1, $2)`

	oldMonthsSQL = `
select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'mcpsaas.usage_events'::regclass
	and mcpsaas.usage_bound(c.oid, 'TO') <= mcpsaas.usage_event_id($1)
order by mcpsaas.usage_bound(c.oid, 'TO')`

	// trimRestSQL goes by when an event was recorded, since ids in the default
	// partition say nothing about time.
	trimRestSQL = `
delete from mcpsaas.usage_events_rest where event_id in (
	select event_id from mcpsaas.usage_events_rest e
	where e.recorded_at < $1 and not e.due and (e.batch_id is null or not exists (
		select from mcpsaas.usage_batches b where b.events_in = e.batch_id
			and b.state in ('sealed', 'sending', 'verifying', 'unknown', 'parked', 'rejected')))
	limit $2)`

	eventsCheckSQL = `
select
	exists (select from pg_inherits i
		where i.inhparent = 'mcpsaas.usage_events'::regclass
			and mcpsaas.usage_bound(i.inhrelid, 'FROM') <= mcpsaas.usage_event_id($1)
			and mcpsaas.usage_bound(i.inhrelid, 'TO') > mcpsaas.usage_event_id($1)),
	(select count(*) from (select from mcpsaas.usage_events_rest limit 1000) as r),
	(select count(*) from (select from mcpsaas.usage_events where mark = 'ahead' and recorded_at > $2 limit 1000) as a)`
)

// Run makes the partitions of usage_events a few months ahead, and drops those
// whose events are all older than Retention, by their ids; until ctx ends, when
// it returns nil. A month with an event that is yet to be billed, or in a batch
// that isn't settled, stays. Appends go on meanwhile: none waits for longer
// than a quarter of a second. Any number of replicas may run it.
func (l *Ledger) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		wait := monthsEvery
		if err := l.keepMonths(ctx); err != nil && ctx.Err() == nil {
			l.log.Error("partitions of usage_events not kept", slog.Any("err", err))
			wait = monthsRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return nil
}

func (l *Ledger) keepMonths(ctx context.Context) error {
	var errs []error
	now := l.now().UTC()
	for i := range monthsAhead + 1 {
		month := time.Date(now.Year(), now.Month()+time.Month(i), 1, 0, 0, 0, 0, time.UTC)
		var did string
		if err := l.pool.QueryRow(ctx, makeMonthSQL, month).Scan(&did); err != nil {
			errs = append(errs, fmt.Errorf("make partition of %s: %w", month.Format("2006-01"), pgredact.Error(err)))
		} else if did == "crowded" {
			errs = append(errs, fmt.Errorf("make partition of %s: usage_events_rest holds too many events", month.Format("2006-01")))
		}
	}
	if l.retention > 0 {
		errs = append(errs, l.retire(ctx, now.Add(-l.retention)))
	}
	return errors.Join(errs...)
}

// retire deletes the events from before cutoff, but for those that are needed.
func (l *Ledger) retire(ctx context.Context, cutoff time.Time) error {
	rows, err := l.pool.Query(ctx, oldMonthsSQL, cutoff)
	if err != nil {
		return fmt.Errorf("list old partitions: %w", pgredact.Error(err))
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list old partitions: %w", pgredact.Error(err))
	}
	var errs []error
	for _, name := range names {
		var did string
		if err := l.pool.QueryRow(ctx, dropMonthSQL, name, cutoff).Scan(&did); err != nil {
			errs = append(errs, fmt.Errorf("drop partition %s: %w", name, pgredact.Error(err)))
			continue
		}
		switch did {
		case "dropped":
			l.log.Info("old usage events dropped", slog.String("partition", name))
		case "due", "open":
			l.log.Warn("old usage events kept: not all are billed", slog.String("partition", name), slog.String("state", did))
		}
	}
	for {
		tag, err := l.pool.Exec(ctx, trimRestSQL, cutoff, trimEvents)
		if err != nil {
			errs = append(errs, fmt.Errorf("delete old events of usage_events_rest: %w", pgredact.Error(err)))
		}
		if tag.RowsAffected() < trimEvents {
			return errors.Join(errs...)
		}
	}
}

// Check reports, for a health check, what a person should look at: that the
// partition of the next month is missing a week before, that many events have
// ids from no month, or that events of the last day came from a clock that runs
// ahead. Nothing is lost by any of them.
func (l *Ledger) Check(ctx context.Context) error {
	now := l.now()
	var covered bool
	var rest, ahead int
	err := l.pool.QueryRow(ctx, eventsCheckSQL, now.Add(7*24*time.Hour), now.Add(-24*time.Hour)).Scan(&covered, &rest, &ahead)
	if err != nil {
		return fmt.Errorf("pgledger: check events: %w", pgredact.Error(err))
	}
	var errs []error
	if !covered {
		errs = append(errs, errors.New("the partition of the next month is missing"))
	}
	if rest >= 1000 {
		errs = append(errs, errors.New("a thousand events or more are in usage_events_rest: their ids are not of the time"))
	}
	if ahead > 0 {
		errs = append(errs, fmt.Errorf("%d events of the last day came from a clock that runs more than %v ahead", ahead, mostAhead))
	}
	if len(errs) == 0 {
		return nil
	}
	return degradedError{fmt.Errorf("pgledger: check events: %w", errors.Join(errs...))}
}

// degradedError is how package health, which this one does not import, knows
// that something works, but not as it should.
type degradedError struct{ error }

func (e degradedError) Unwrap() error        { return e.error }
func (e degradedError) HealthDegraded() bool { return true }
