package billing

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Run applies notices as they come, and asks the source for those that don't
// ([MissedLister]). It returns nil when ctx is cancelled. Work
// under way is cancelled with it, and put back for whoever runs next. Failures
// are logged and outlived.
func (w *InboxWorker) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range w.opts.Concurrency {
		wg.Go(func() { w.loop(ctx) })
	}
	wg.Go(func() { w.pullLoop(ctx) })
	wg.Wait()
	return nil
}

func (w *InboxWorker) loop(ctx context.Context) {
	poll := time.NewTicker(w.opts.Poll)
	defer poll.Stop()
	for {
		worked, err := w.next(ctx)
		if err != nil && ctx.Err() == nil {
			w.opts.Logger.Error("billing inbox failed", "err", err)
		}
		if worked && err == nil && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-poll.C:
		}
	}
}

// Drain applies what is due and returns: for commands and tests.
func (w *InboxWorker) Drain(ctx context.Context) error {
	for {
		if worked, err := w.next(ctx); err != nil || !worked {
			return err
		}
	}
}

// next works on one notice; worked is false when none was due. A notice that
// fails is no error of next: it is in the store, with its reason.
func (w *InboxWorker) next(ctx context.Context) (worked bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	claim, err := w.claim(ctx)
	if err != nil {
		return false, fmt.Errorf("billing: claim notice: %w", err)
	}
	if claim == nil {
		return false, nil
	}
	// One signal may stand for many notices: whoever finds one wakes another.
	w.signal()
	change, err := w.apply(ctx, *claim)
	v := w.judge(ctx, claim, change, err)
	log := w.opts.Logger.With("event", claim.ID, "type", claim.Type, "tenant", v.Tenant)
	switch v.State {
	case NoticeNew:
		if v.Interrupted {
			break
		}
		log.Warn("billing notice to be tried again", "attempt", claim.Attempt, "err", err)
	case NoticeDead:
		log.Error("billing notice given up", "attempt", claim.Attempt, "err", err)
	}
	// What the work used up of its time must not keep its end from being
	// recorded.
	ctx, cancel := outlive(ctx, w.opts.Timeout, writeGrace)
	defer cancel()
	if err := w.store.FinishNotice(ctx, *claim, w.opts.Now(), v); err != nil && !errors.Is(err, ErrFenced) {
		return true, fmt.Errorf("billing: finish notice %s: %w", claim.ID, err)
	}
	return true, nil
}

// claim takes the next notice. It is not cut short when the process is told to
// stop: a claim that nobody knows of would last until its lease ends.
func (w *InboxWorker) claim(ctx context.Context) (*NoticeClaim, error) {
	ctx, cancel := outlive(ctx, w.opts.Timeout, writeGrace)
	defer cancel()
	return w.store.NextNotice(ctx, w.opts.Now(), w.opts.Lease)
}

func (w *InboxWorker) apply(ctx context.Context, claim NoticeClaim) (c Change, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.opts.Timeout)
	defer cancel()
	// Source and Subscriber are the application's code.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	c, err = w.source.Fetch(ctx, claim.Notice)
	if err != nil {
		return c, fmt.Errorf("fetch: %w", err)
	}
	c.Seq = claim.Seq
	if c.Tenant.IsZero() && c.Customer == "" {
		return Change{}, nil
	}
	named := c.Tenant
	if c, err = w.store.Save(ctx, w.opts.Now(), claim.Notice, c); err != nil {
		return c, fmt.Errorf("save: %w", err)
	}
	if c.Tenant.IsZero() {
		return c, nil
	}
	if !named.IsZero() && named != c.Tenant {
		w.opts.Logger.Warn("billing notice names another tenant than its customer's", "event", claim.ID, "tenant", c.Tenant)
	}
	if err := w.schedule(ctx, claim.Notice, c); err != nil {
		return c, fmt.Errorf("schedule: %w", err)
	}
	if err := w.subscriber.Apply(ctx, c); err != nil {
		return c, fmt.Errorf("apply: %w", err)
	}
	if c.FlushUsage && w.opts.Flush != nil {
		if err := w.opts.Flush(ctx, c.Tenant); err != nil && !onlyOperator(err) {
			return c, fmt.Errorf("flush: %w", err)
		}
	}
	return c, nil
}

// schedule puts a notice into the inbox for when a grace ends. It is made of the
// one that told of it, so that it leads to the same truth, and it is the same
// however often that is told.
func (w *InboxWorker) schedule(ctx context.Context, n Notice, c Change) error {
	if c.Subscription == nil {
		return nil
	}
	end := w.opts.Access.Until(*c.Subscription, w.opts.Now())
	if end.IsZero() {
		return nil
	}
	_, err := w.store.Accept(ctx, Notice{
		ID: fmt.Sprintf("grace:%s:%d", c.Subscription.ID, end.Unix()), Type: n.Type, ObjectID: n.ObjectID,
		Customer: c.Customer, APIVersion: n.APIVersion, Live: n.Live, NotBefore: end,
	})
	return err
}

// onlyOperator reports whether what a flush left can't be helped by trying
// again.
func onlyOperator(err error) bool {
	u, ok := errors.AsType[*UnsettledError](err)
	return ok && u.Unsealed+u.Open == 0
}

// judge says what becomes of the notice. ctx is that of the process: what it
// interrupted is idempotent, and not to blame.
func (w *InboxWorker) judge(ctx context.Context, claim *NoticeClaim, c Change, err error) NoticeVerdict {
	v := NoticeVerdict{Tenant: c.Tenant}
	tries := w.opts.MaxAttempts
	permanent, ok := errors.AsType[*PermanentError](err)
	if ok {
		tries = min(tries, max(permanent.Tries, 1))
	}
	switch {
	case err == nil && c.Tenant.IsZero():
		v.State = NoticeIgnored
	case err == nil:
		v.State = NoticeApplied
	case ctx.Err() != nil && !ok:
		v.State, v.Reason, v.NextAt, v.Interrupted = NoticeNew, "interrupted", w.opts.Now(), true
	case claim.Tries >= tries:
		v.State, v.Reason = NoticeDead, err.Error()
	default:
		wait := min(30*time.Minute, time.Second<<min(claim.Tries-1, 20))
		wait -= time.Duration(rand.Int64N(int64(wait)/4 + 1))
		v.State, v.Reason, v.NextAt = NoticeNew, err.Error(), w.opts.Now().Add(wait)
	}
	return v
}
