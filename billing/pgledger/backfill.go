package pgledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Backfill is what [Ledger.Backfill] did, or would do.
type Backfill struct {
	DryRun bool `json:"dry_run"`

	Read  int   `json:"read"`  // events
	Known int   `json:"known"` // of these, in the ledger already
	Added int   `json:"added"` // new: added, or to be
	Units int64 `json:"units"` // theirs

	// Billable are the units of those that will be billed: of a tenant that had
	// a billing period at the time.
	Billable int64 `json:"billable"`

	// TooOld are left out: providers take usage for 35 days, and older events
	// that the ledger doesn't have may be some that it had, billed and dropped.
	TooOld int `json:"too_old"`

	// Conflicting are in the ledger, with another tenant or other units: what is
	// there stays. The first few are named.
	Conflicting int      `json:"conflicting"`
	Conflicts   []string `json:"conflicts,omitempty"`

	First time.Time `json:"first,omitzero"` // of those added: when they occurred
	Last  time.Time `json:"last,omitzero"`
}

const (
	// backfillPage is how many events are looked up, and added, at once.
	backfillPage = 5000
	mostNamed    = 10

	knownSQL = `
select event_id::text, tenant_id, units from mcpsaas.usage_events where event_id = any ($1::uuid[])`

	billableSQL = `
select coalesce(sum(u.units), 0)::bigint
from unnest($1::uuid[], $2::timestamptz[], $3::bigint[]) as u (tenant_id, at, units)
where exists (
	select from mcpsaas.billing_periods p
	where p.tenant_id = u.tenant_id and u.at >= p.since and (p.live or u.at < p.until))`
)

// Backfill adds events that the ledger doesn't have: out of a spool that was left
// behind, an archive, or whatever has recorded them. An event is added once,
// however often it is offered, so a backfill that was interrupted is simply done
// again. With dryRun it only says what it would do; else actor and reason go on
// record with what it did. The first error of events ends it; what came before is
// added.
func (l *Ledger) Backfill(ctx context.Context, events iter.Seq2[usage.Event, error], actor, reason string, dryRun bool) (b Backfill, err error) {
	b.DryRun = dryRun
	if !dryRun && (clean(actor) == "" || clean(reason) == "") {
		return b, errors.New("pgledger: backfill: actor and reason must be given")
	}
	if !dryRun {
		// Twice: whoever is killed in between has added something.
		if err := l.Record(ctx, tenant.ID{}, "backfill", actor, reason, map[string]bool{"begun": true}); err != nil {
			return b, err
		}
		defer func() {
			err = errors.Join(err, l.Record(context.WithoutCancel(ctx), tenant.ID{}, "backfill", actor, reason, b))
		}()
	}
	seen := make(map[string]bool) // in this page
	page := make([]usage.Event, 0, backfillPage)
	flush := func() error {
		if err := l.backfillPage(ctx, page, &b); err != nil {
			return fmt.Errorf("pgledger: backfill: %w", pgredact.Error(err))
		}
		page = page[:0]
		clear(seen)
		return nil
	}
	for e, err := range events {
		if err != nil {
			return b, errors.Join(fmt.Errorf("pgledger: backfill: read event %d: %w", b.Read+1, err), flush())
		}
		b.Read++
		id := strings.ToLower(e.ID)
		if seen[id] {
			b.Known++
			continue
		}
		seen[id] = true
		if page = append(page, e); len(page) == backfillPage {
			if err := flush(); err != nil {
				return b, err
			}
		}
	}
	return b, flush()
}

func (l *Ledger) backfillPage(ctx context.Context, page []usage.Event, b *Backfill) error {
	if len(page) == 0 {
		return nil
	}
	if _, _, err := columnsOf(page); err != nil {
		return err
	}
	ids := make([]string, len(page))
	for i, e := range page {
		ids[i] = e.ID
	}
	rows, err := l.pool.Query(ctx, knownSQL, ids)
	if err != nil {
		return err
	}
	type fact struct {
		id     string
		tenant tenant.ID
		units  int64
	}
	facts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f fact, err error) {
		err = row.Scan(&f.id, &f.tenant, &f.units)
		return f, err
	})
	if err != nil {
		return err
	}
	known := make(map[string]fact, len(facts))
	for _, f := range facts {
		known[f.id] = f
	}
	var fresh []usage.Event
	oldest := l.now().Add(-staleAfter)
	for _, e := range page {
		f, ok := known[strings.ToLower(e.ID)]
		switch {
		case ok && (f.tenant != e.Tenant || f.units != e.Units):
			if b.Conflicting++; len(b.Conflicts) < mostNamed {
				b.Conflicts = append(b.Conflicts, f.id)
			}
		case ok:
			b.Known++
		case e.Time.Before(oldest):
			b.TooOld++
		default:
			fresh = append(fresh, e)
		}
	}
	return l.backfillFresh(ctx, fresh, b)
}

func (l *Ledger) backfillFresh(ctx context.Context, fresh []usage.Event, b *Backfill) error {
	if len(fresh) == 0 {
		return nil
	}
	tenants, times, units := make([]tenant.ID, len(fresh)), make([]time.Time, len(fresh)), make([]int64, len(fresh))
	for i, e := range fresh {
		tenants[i], times[i], units[i] = e.Tenant, e.Time, e.Units
	}
	var billable int64
	if err := l.pool.QueryRow(ctx, billableSQL, tenants, times, units).Scan(&billable); err != nil {
		return err
	}
	added := len(fresh)
	if !b.DryRun {
		var err error
		if added, err = l.Append(ctx, fresh); err != nil {
			return err
		}
	}
	b.Added += added
	b.Known += len(fresh) - added // somebody else has added them meanwhile
	b.Billable += billable
	for _, e := range fresh {
		b.Units += e.Units
		if b.First.IsZero() || e.Time.Before(b.First) {
			b.First = e.Time
		}
		if e.Time.After(b.Last) {
			b.Last = e.Time
		}
	}
	return nil
}
