package billing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// MissedLister is what a [Source] may be as well: it lists what the provider has
// told, or would have told had anybody listened. An [InboxWorker] asks it, so
// that a webhook which never came, for whatever reason, is late by minutes and
// not lost.
type MissedLister interface {
	// Missed calls take with each notice from since on that Fetch knows what to
	// do with, in any order: those that could not be delivered, or all. It ends
	// at take's first error. A zero since is as far back as the provider goes.
	Missed(ctx context.Context, since time.Time, all bool, take func(Notice) error) error
}

// Pulls are the times of the last pulls; zero: there was none.
type Pulls struct {
	Undelivered time.Time // of what could not be delivered, or of all
	All         time.Time
}

const (
	// pullAllEvery is how often all is asked for: the provider doesn't know that
	// something was missed while no endpoint was registered.
	pullAllEvery = time.Hour

	// pullOverlap is how far a pull reaches into the one before: what happens
	// shows up in the provider's list a little later.
	pullOverlap = 10 * time.Minute

	// unheardAfter is how long notices may come by pulls alone before Check says
	// that webhooks don't arrive.
	unheardAfter = 15 * time.Minute
)

// Pull asks the source once for what webhooks have not brought, and returns how
// many notices were new. It is nothing where the source is no [MissedLister].
// Run does this every PullEvery, in one process at a time more or less; Pull is
// for commands and tests.
func (w *InboxWorker) Pull(ctx context.Context) (fresh int, err error) {
	lister, ok := w.source.(MissedLister)
	if !ok {
		return 0, nil
	}
	now := w.opts.Now()
	last, err := w.store.LastPulls(ctx)
	if err != nil {
		return 0, fmt.Errorf("billing: pull notices: %w", err)
	}
	since, all := last.Undelivered, now.Sub(last.All) >= pullAllEvery
	if all {
		since = last.All
	}
	if !since.IsZero() {
		since = since.Add(-pullOverlap)
	}
	err = lister.Missed(ctx, since, all, func(n Notice) error {
		n.Pulled = true
		added, err := w.Accept(ctx, n)
		if added {
			fresh++
		}
		return err
	})
	if err == nil {
		err = w.store.SavePull(ctx, now, all)
	}
	if err != nil {
		return fresh, fmt.Errorf("billing: pull notices: %w", err)
	}
	return fresh, nil
}

func (w *InboxWorker) pullLoop(ctx context.Context) {
	if _, ok := w.source.(MissedLister); !ok {
		return
	}
	for ctx.Err() == nil {
		last, err := w.store.LastPulls(ctx)
		// Another process may have done it just now.
		if err != nil || w.opts.Now().Sub(last.Undelivered) >= w.opts.PullEvery/2 {
			var fresh int
			if fresh, err = w.Pull(ctx); fresh > 0 {
				w.opts.Logger.Info("billing notices pulled", "fresh", fresh)
			}
		}
		if err != nil && ctx.Err() == nil {
			w.opts.Logger.Warn("billing notices not pulled", "err", err)
		}
		_ = sleep(ctx, w.opts.PullEvery)
	}
}

// Check returns nil while notices come and are applied: none is dead, none waits
// longer than StallAfter, they come by webhooks, and what those miss is asked
// for.
func (w *InboxWorker) Check(ctx context.Context) error {
	s, err := w.store.Stats(ctx, tenant.ID{})
	if err != nil {
		return fmt.Errorf("billing: read the inbox: %w", err)
	}
	now := w.opts.Now()
	var errs []error
	if age := now.Sub(s.OldestNotice); !s.OldestNotice.IsZero() && age > w.opts.StallAfter {
		errs = append(errs, fmt.Errorf("billing: inbox stalled: oldest notice is %s old", age.Round(time.Second)))
	}
	if s.DeadNotices > 0 {
		errs = append(errs, fmt.Errorf("billing: inbox: %d notices given up", s.DeadNotices))
	}
	if age := now.Sub(s.Unheard); !s.Unheard.IsZero() && age > unheardAfter {
		errs = append(errs, fmt.Errorf("billing: webhooks don't arrive: for %s notices have come by being asked for alone", age.Round(time.Second)))
	}
	if _, ok := w.source.(MissedLister); ok {
		pulled := w.born
		if s.LastPull.After(pulled) {
			pulled = s.LastPull
		}
		if age := now.Sub(pulled); age > 3*w.opts.PullEvery+w.opts.StallAfter {
			errs = append(errs, fmt.Errorf("billing: the provider was not asked for missed notices for %s", age.Round(time.Second)))
		}
	}
	return errors.Join(errs...)
}
