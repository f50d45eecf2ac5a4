package pgledger_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestPeriodEnds plays random billing periods of random tenants, 10,000 ends of
// them with SOAK: months of all lengths in years with and without a 29th of
// February, anchors on days that a month doesn't have, weeks, years, plans that
// change in the middle with and without a new period, cancellations in the
// middle and at the end; renewals told sooner or later, usage at the very
// moment, right before and right after it, stored sooner or later. No unit is
// in a batch of a wrong period or a wrong plan's meter, or at a time that the
// provider would count to another period, unless it came too late for its own
// and is on record as that.
//
// Seen failing with the planned end of a period that was cut short kept, in
// periods and in batches.
func TestPeriodEnds(t *testing.T) {
	t.Parallel()
	ends := 1_000
	if devtest.Soak() {
		ends = 10_000
	}
	b := setup(t)
	var (
		wg                 sync.WaitGroup
		mu                 sync.Mutex
		done, events, late int
	)
	for player := range uint64(2) {
		random := rand.New(rand.NewPCG(player, 7))
		wg.Go(func() {
			for enough := false; !enough; {
				l := newLife(b, random)
				err := l.play(t.Context())
				if err == nil {
					err = l.judge(t.Context(), b)
				}
				if err != nil {
					t.Errorf("%s: %v", l.story, err)
					return
				}
				mu.Lock()
				done += l.ends
				events += l.judged
				late += l.late
				enough = done >= ends
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d period ends, %d events, %d of them too late", done, events, late)
	require.Greater(t, events, 5*done)
	require.Greater(t, late, done/20, "hardly any came late: the test is too kind")
}

// life is a tenant's subscription through its periods.
type life struct {
	random *rand.Rand
	clock  *billingtest.Clock
	ledger *pgledger.Ledger
	id     tenant.ID
	anchor time.Time
	every  string
	story  string
	meters int

	sub    billing.Subscription
	truth  []truth // what really was
	waits  []usage.Event
	untold []func() error
	seq    int64

	ends, judged, late int
}

// truth is a stretch of time in which usage goes to one meter, of one billing
// period.
type truth struct {
	meter       string
	start, end  time.Time
	since, till time.Time
}

func newLife(b *bench, random *rand.Rand) *life {
	l := &life{random: random, id: tenant.NewID()}
	l.anchor = time.Date(2023+random.IntN(10), time.Month(1+random.IntN(12)), 1+random.IntN(31), random.IntN(24), random.IntN(60), random.IntN(60), 0, time.UTC)
	if random.IntN(2) == 0 { // one of the last days of a month
		l.anchor = time.Date(l.anchor.Year(), l.anchor.Month()+1, -random.IntN(3), l.anchor.Hour(), l.anchor.Minute(), l.anchor.Second(), 0, time.UTC)
	}
	l.every = []string{"month", "month", "month", "week", "year"}[random.IntN(5)]
	l.story = fmt.Sprintf("every %s from %s", l.every, l.anchor.Format(time.RFC3339))
	l.clock = billingtest.NewClock(l.anchor)
	l.ledger, _ = pgledger.New(b.pool, &pgledger.Options{Now: l.clock.Now})
	return l
}

// end is the n-th end of a period after the anchor; in a month that doesn't have
// the anchor's day it is the last one.
func (l *life) end(n int) time.Time {
	months := n
	switch l.every {
	case "week":
		return l.anchor.AddDate(0, 0, 7*n)
	case "year":
		months = 12 * n
	}
	year, month, day := l.anchor.Date()
	first := time.Date(year, month+time.Month(months), 1, l.anchor.Hour(), l.anchor.Minute(), l.anchor.Second(), 0, time.UTC)
	return first.AddDate(0, 0, min(day, first.AddDate(0, 1, -1).Day())-1)
}

// play lives through a dozen ends of periods, unless the subscription ends.
func (l *life) play(ctx context.Context) error {
	l.sub = billing.Subscription{
		ID: "sub_" + l.id.String(), Customer: "cus_" + l.id.String(), Status: billing.Active, Plan: tenant.Pro,
		PeriodStart: l.anchor, PeriodEnd: l.end(1),
	}
	l.anotherMeter()
	l.begin(l.anchor)
	l.hear(l.anchor)
	if err := l.tell(); err != nil {
		return err
	}
	for n := 1; l.ends < 12 && l.sub.EndedAt.IsZero(); {
		l.clock.Advance((l.sub.PeriodEnd.Sub(l.clock.Now()) / 2).Truncate(time.Second))
		at, soon := l.clock.Now(), true
		l.use(at.Add(-time.Microsecond), at, at.Add(time.Microsecond))
		switch what := l.random.IntN(12); what {
		case 0:
			l.story += ", other meter"
			l.stop(at)
			l.anotherMeter()
			l.begin(at)
		case 1:
			l.story += ", new period"
			l.stop(at)
			l.close(at)
			l.anchor, n = at, 1
			l.sub.PeriodStart, l.sub.PeriodEnd = at, l.end(1)
			l.begin(at)
		case 2:
			l.story += ", cancelled"
			l.stop(at)
			l.close(at)
			l.sub.Status, l.sub.EndedAt = billing.Canceled, at
		default:
			at, soon = l.sub.PeriodEnd, false
			l.clock.Advance(at.Sub(l.clock.Now()))
			l.use(at.Add(-time.Second), at.Add(-time.Microsecond), at, at.Add(time.Microsecond), at.Add(time.Minute))
			l.close(at)
			if what == 3 {
				l.story += ", cancelled at the end"
				l.sub.Status, l.sub.EndedAt = billing.Canceled, at
				break
			}
			n++
			l.sub.PeriodStart, l.sub.PeriodEnd = at, l.end(n)
			l.begin(at)
		}
		l.hear(at)
		if soon { // what a notice brings too late is too late; what happens by the calendar is not
			l.clock.Advance(2 * time.Second)
			if err := l.tell(); err != nil {
				return err
			}
		}
		if err := l.proceed(ctx); err != nil {
			return err
		}
	}
	l.clock.Advance(5 * time.Minute)
	for _, last := range []func() error{func() error { return l.store(ctx, len(l.waits)) }, l.tell, func() error { return l.seal(ctx) }} {
		if err := last(); err != nil {
			return err
		}
	}
	return nil
}

func (l *life) anotherMeter() {
	to := target(l.id, billing.ModeMeter)
	to.Meter = fmt.Sprintf("calls_%d", l.meters)
	l.meters++
	l.sub.Targets = []billing.Target{to}
}

// begin and stop bound a stretch of usage of the present meter.
func (l *life) begin(at time.Time) {
	l.truth = append(l.truth, truth{l.sub.Targets[0].Meter, l.sub.PeriodStart, l.sub.PeriodEnd, at, l.sub.PeriodEnd})
}

func (l *life) stop(at time.Time) { l.truth[len(l.truth)-1].till = at }

// close ends the billing period, with all its stretches.
func (l *life) close(at time.Time) {
	l.ends++
	for i := range l.truth {
		if p := &l.truth[i]; p.start.Equal(l.sub.PeriodStart) {
			p.end = at
		}
	}
}

// hear makes a notice of the subscription as it is now.
func (l *life) hear(at time.Time) {
	l.seq++
	s, seq := l.sub, l.seq
	l.untold = append(l.untold, func() error {
		_, err := l.ledger.Save(context.Background(), l.clock.Now(), billing.Notice{ObjectID: s.ID, Created: at},
			billing.Change{Tenant: l.id, Customer: s.Customer, Subscription: &s, Seq: seq})
		return err
	})
}

func (l *life) tell() error {
	for _, save := range l.untold {
		if err := save(); err != nil {
			return err
		}
	}
	l.untold = nil
	return nil
}

// use makes an event at each of the times.
func (l *life) use(times ...time.Time) {
	for _, at := range times {
		l.waits = append(l.waits, usage.Event{
			ID: tenant.NewID().String(), Tenant: l.id, Plan: tenant.Pro, Tool: "search", Units: int64(1 + l.random.IntN(1000)),
			Outcome: usage.OK, Time: at,
		})
	}
}

func (l *life) store(ctx context.Context, n int) error {
	_, err := l.ledger.Append(ctx, l.waits[:n])
	l.waits = l.waits[n:]
	return err
}

func (l *life) seal(ctx context.Context) error {
	caps := billingtest.NewProvider(billing.ModeMeter, l.clock.Now).Caps(billing.Target{})
	_, err := l.ledger.Seal(ctx, l.id, l.clock.Now(), func(billing.Target) billing.Caps { return caps })
	return err
}

// proceed has what happened stored, told and sealed, in any order, and some of
// it not yet.
func (l *life) proceed(ctx context.Context) error {
	for range 4 {
		var err error
		switch l.random.IntN(5) {
		case 0:
			err = l.store(ctx, l.random.IntN(len(l.waits)+1))
		case 1:
			err = l.store(ctx, len(l.waits))
		case 2:
			err = l.tell()
		case 3:
			l.clock.Advance(time.Duration(l.random.IntN(6000)) * time.Second)
		case 4:
			err = l.seal(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const placedSQL = `
select e.occurred_at, e.bill_at, e.due, coalesce(e.mark, ''), e.late_for, t.meter, b.period_start, b.period_end, b.slot
from mcpsaas.usage_events e
left join mcpsaas.usage_batches b on b.id = e.batch_id
left join mcpsaas.billing_targets t on t.id = b.target_id
where e.tenant_id = $1`

// judge compares where each event ended up with where it belongs.
func (l *life) judge(ctx context.Context, b *bench) error {
	rows, err := b.pool.Query(ctx, placedSQL, l.id)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var at, billAt time.Time
		var due bool
		var mark string
		var meter *string
		var lateFor, start, end, slot *time.Time
		if err := rows.Scan(&at, &billAt, &due, &mark, &lateFor, &meter, &start, &end, &slot); err != nil {
			return err
		}
		l.judged++
		p := l.at(at)
		if mark == "late" {
			l.late++
		}
		switch {
		case p == nil && (due || meter != nil):
			return fmt.Errorf("usage of %v is of no period, and is billed", at)
		case p == nil:
		case due || meter == nil:
			return fmt.Errorf("usage of %v is not billed", at)
		case mark == "late" && (!lateFor.Equal(p.start) || billAt.Before(p.end.Add(time.Hour)) || !start.After(p.start)):
			return fmt.Errorf("usage of %v was not too late at %v for the period of %v to %v", at, billAt, p.start, p.end)
		case mark == "late":
			p = l.at(billAt)
			fallthrough
		default:
			if p == nil || *meter != p.meter || !start.Equal(p.start) || !end.Equal(p.end) {
				return fmt.Errorf("usage of %v is in the period of %v to %v of %s, want %+v", at, start, end, *meter, p)
			}
			if !slot.After(p.start) || !slot.Before(p.end) {
				return fmt.Errorf("usage of %v is to be sent as of %v, outside of %v to %v", at, slot, p.start, p.end)
			}
		}
	}
	return rows.Err()
}

// at is where usage of the time belongs; nil: nowhere.
func (l *life) at(when time.Time) *truth {
	for i := len(l.truth) - 1; i >= 0; i-- {
		if p := &l.truth[i]; !when.Before(p.since) && when.Before(p.till) {
			return p
		}
	}
	return nil
}
