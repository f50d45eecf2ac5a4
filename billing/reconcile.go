package billing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// ErrNoTotals is returned by [Worker.Reconcile] when the reporter is no
// [Totaler], and by a Totaler for a target of which it can't tell: that one is
// not compared.
var ErrNoTotals = errors.New("billing: the provider doesn't tell its totals")

// Span is a stretch of one target's usage, by slots: whole hours, or one billing
// period where that is all that the provider tells the total of.
type Span struct {
	TargetID int64
	Target   Target
	From, To time.Time
	Period   bool // a whole billing period, which may not have ended
}

// Sum is what a ledger has of a [Span].
type Sum struct {
	Confirmed int64
	Fresh     int64 // of that, what the provider's total may not show yet
	Doubt     int64 // besides, what may or may not have been applied
}

// Drift is a window of which the provider has counted something else than what
// was confirmed. Nothing is corrected by itself: a person looks for the cause,
// and accepts it or has the provider's side mended.
type Drift struct {
	ID     int64     `json:"id"` // the ledger's
	Target Target    `json:"target"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`

	Confirmed int64 `json:"confirmed"`
	Provider  int64 `json:"provider"`
	Units     int64 `json:"units"` // what the provider has more, or, negative, less; beyond what is in doubt

	Found   time.Time `json:"found"`
	Checked time.Time `json:"checked"`
}

const (
	reconcileEvery = time.Hour
	// readsPerSecond keeps the comparison from the share of other requests.
	readsPerSecond = 10
	// mostReads is how many totals of one target are read in one run to find
	// the hours of a drift: enough for three of them in a month.
	mostReads = 64
)

// Reconcile compares what was confirmed with what the provider has counted, for
// every target, by closed hours of meters and by billing periods of usage
// records, and records each difference as a [Drift], to the unit. Run does so
// once an hour, in one process of all; Reconcile is for commands and tests, and
// does so now.
//
// It returns [ErrNoTotals] if the reporter is no [Totaler]. A target that can't
// be compared is in the error, and keeps no other from being compared.
func (w *Worker) Reconcile(ctx context.Context) error {
	now := w.opts.Now()
	if err := w.reconcile(ctx, now, tenant.ID{}); err != nil {
		return err
	}
	if err := w.ledger.EndReconcile(ctx, now); err != nil {
		return fmt.Errorf("billing: record the comparison: %w", err)
	}
	return nil
}

// ReconcileTenant is [Worker.Reconcile] for one tenant's targets.
func (w *Worker) ReconcileTenant(ctx context.Context, id tenant.ID) error {
	return w.reconcile(ctx, w.opts.Now(), id)
}

func (w *Worker) reconcile(ctx context.Context, now time.Time, only tenant.ID) error {
	totals, ok := w.reporter.(Totaler)
	if !ok {
		return ErrNoTotals
	}
	spans, err := w.ledger.Spans(ctx, now, w.reporter.Caps)
	if err != nil {
		return fmt.Errorf("billing: list usage to compare: %w", err)
	}
	if !only.IsZero() {
		spans = slices.DeleteFunc(spans, func(s Span) bool { return s.Target.Tenant != only })
	}
	var reads bucket
	return each(ctx, w.opts.Concurrency, spans, func(ctx context.Context, s Span) error {
		c := comparison{w: w, totals: totals, reads: &reads, whole: s, left: mostReads}
		if err := c.run(ctx, now); err != nil && !errors.Is(err, ErrNoTotals) {
			return fmt.Errorf("billing: compare usage of tenant %s with the provider's: %w", s.Target.Tenant, err)
		}
		return nil
	})
}

// reconcileLoop is Reconcile each hour, in one of all processes.
func (w *Worker) reconcileLoop(ctx context.Context) {
	for {
		now := w.opts.Now()
		mine, err := w.ledger.BeginReconcile(ctx, now, now.Add(-reconcileEvery))
		if err == nil && mine {
			err = w.Reconcile(ctx)
		}
		if err != nil && ctx.Err() == nil {
			w.opts.Logger.Error("billing not compared with the provider's totals", "err", err)
		}
		if sleep(ctx, reconcileEvery/12) != nil {
			return
		}
	}
}

// comparison is that of one target's span.
type comparison struct {
	w      *Worker
	totals Totaler
	reads  *bucket
	whole  Span
	left   int // totals that may be read

	found []Drift
}

func (c *comparison) run(ctx context.Context, now time.Time) error {
	caps := c.w.reporter.Caps(c.whole.Target)
	if !c.whole.Period {
		// An hour is closed once the totals must show all of it.
		if closed := now.Add(-caps.VerifyLag).Truncate(time.Hour); closed.Before(c.whole.To) {
			c.whole.To = closed
		}
		if !c.whole.From.Before(c.whole.To) {
			return nil
		}
	}
	fresh := now.Add(-caps.VerifyLag)
	earlier, last := c.whole, c.whole
	if last.From = last.To.Add(-time.Hour); !c.whole.Period && last.From.After(c.whole.From) {
		// The hour that was closed last by itself: what differs there may be
		// made up for elsewhere.
		earlier.To = last.From
		if err := c.compare(ctx, last, caps, fresh); err != nil {
			return err
		}
	}
	if err := c.compare(ctx, earlier, caps, fresh); err != nil {
		return err
	}
	for _, d := range c.found {
		c.w.opts.Logger.Error("the provider's total is not what was confirmed", "tenant", d.Target.Tenant,
			"from", d.From, "to", d.To, "confirmed", d.Confirmed, "provider", d.Provider, "units", d.Units)
	}
	return c.w.ledger.SaveDrifts(ctx, c.whole, now, c.found)
}

// compare looks at s, and where it differs or can't be told at its halves, down
// to single hours.
func (c *comparison) compare(ctx context.Context, s Span, caps Caps, fresh time.Time) error {
	d, exact, err := c.read(ctx, s, caps, fresh)
	if err != nil {
		return err
	}
	hours := int(s.To.Sub(s.From) / time.Hour)
	if divisible := !s.Period && hours > 1 && c.left >= 2; divisible && (d.Units != 0 || !exact) {
		left, right := s, s
		left.To = s.From.Add(time.Duration(hours/2) * time.Hour)
		right.From = left.To
		return errors.Join(c.compare(ctx, left, caps, fresh), c.compare(ctx, right, caps, fresh))
	}
	if d.Units != 0 {
		c.found = append(c.found, d)
	}
	return nil
}

// read compares one span. Usage goes on being reported meanwhile, so where the
// total is not what the ledger had before, the ledger is read again. exact is
// false where something is in doubt, or too fresh to tell.
func (c *comparison) read(ctx context.Context, s Span, caps Caps, fresh time.Time) (d Drift, exact bool, err error) {
	c.left--
	before, err := c.w.ledger.Sum(ctx, s, fresh)
	if err != nil {
		return d, false, err
	}
	if caps.MaxPerSecond > 0 {
		if err := c.reads.wait(ctx, min(caps.MaxPerSecond, readsPerSecond)); err != nil {
			return d, false, err
		}
	}
	total, err := c.total(ctx, s)
	if err != nil {
		return d, false, err
	}
	if d, exact = s.differ(total, before, before); d.Units == 0 {
		return d, exact, nil
	}
	after, err := c.w.ledger.Sum(ctx, s, fresh)
	if err != nil {
		return d, false, err
	}
	d, exact = s.differ(total, before, after)
	return d, exact, nil
}

// differ compares a total with what the ledger had before and after it was read.
func (s Span) differ(total int64, before, after Sum) (d Drift, exact bool) {
	least := min(before.Confirmed-before.Fresh, after.Confirmed-after.Fresh)
	most := max(before.Confirmed+before.Doubt, after.Confirmed+after.Doubt)
	d = Drift{Target: s.Target, From: s.From, To: s.To, Confirmed: after.Confirmed, Provider: total}
	switch {
	case total < least:
		d.Units = total - least
	case total > most:
		d.Units = total - most
	}
	return d, least == most
}

func (c *comparison) total(ctx context.Context, s Span) (total int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.w.opts.CallTimeout)
	defer cancel()
	// The reporter is the application's code.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("reporter panicked: %v", p)
		}
	}()
	return c.totals.UsageTotal(ctx, s.Target, s.From, s.To)
}
