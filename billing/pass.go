package billing

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// ErrUnauthorized means that the provider refuses the credential, so that
// nothing at all is reported.
var ErrUnauthorized = errors.New("billing: the provider refuses the credential")

// pass is one round over everything that is due.
type pass struct {
	send      *sending  // takes what is due
	seal      bool      // seal first; else only send what is due
	nextRetry time.Time // when the first batch left behind is due; zero: none
	nextClose time.Time // when the next billing period ends; zero: unknown
}

// pass seals, and puts what is due in the hands of p.send.
func (w *Worker) pass(ctx context.Context, p *pass) error {
	now := w.opts.Now()
	soon := now.Add(2 * w.opts.Interval)
	if p.seal {
		backlog, err := w.ledger.Backlog(ctx, now, soon)
		if err != nil {
			return fmt.Errorf("billing: list usage to seal: %w", err)
		}
		p.nextClose = backlog.NextClose
		if err := each(ctx, w.opts.Concurrency, backlog.Tenants, w.sealTenant); err != nil {
			return err
		}
	}
	targets, err := w.ledger.Open(ctx, tenant.ID{}, soon)
	if err != nil {
		return fmt.Errorf("billing: list batches to send: %w", err)
	}
	if until := w.pausedUntil(); len(targets) > 0 && now.Before(until) {
		p.retryAt(until)
		return ErrUnauthorized
	}
	due := targets[:0]
	for _, t := range targets {
		if t.NextAt.After(now) {
			p.retryAt(t.NextAt)
			continue
		}
		due = append(due, t)
	}
	p.send.put(ctx, due)
	return nil
}

func (p *pass) retryAt(t time.Time) { p.nextRetry = earliest(p.nextRetry, t) }

// sealTimeout bounds the sealing of one tenant's usage, which others wait for.
// What was sealed until then stays sealed.
const sealTimeout = 30 * time.Second

func (w *Worker) sealTenant(ctx context.Context, id tenant.ID) error {
	ctx, cancel := context.WithTimeout(ctx, sealTimeout)
	defer cancel()
	if _, err := w.ledger.Seal(ctx, id, w.opts.Now(), w.reporter.Caps); err != nil {
		return fmt.Errorf("billing: seal usage of tenant %s: %w", id, err)
	}
	return nil
}

// drain sends the target's batches one after the other, until one has to wait:
// next is when that one is due. After most of them it leaves the rest for
// later: more is set; so it does after one that took long, of which slow, unless
// nil, is told while it lasts.
func (w *Worker) drain(ctx context.Context, t OpenTarget, most int, slow func()) (next time.Time, more bool, err error) {
	caps := w.reporter.Caps(t.Target)
	var took atomic.Bool
	for range most {
		if took.Load() {
			break
		}
		if until := w.pausedUntil(); w.opts.Now().Before(until) {
			return until, false, ErrUnauthorized
		}
		// The token comes before the claim, so that the wait for it is not
		// taken from the lease.
		rate := w.bucket(t.Target)
		if err := rate.wait(ctx, caps.MaxPerSecond); err != nil {
			return time.Time{}, false, err
		}
		now := w.opts.Now().Round(0)
		claim, err := w.claim(ctx, t.ID, caps)
		if err != nil {
			return time.Time{}, false, fmt.Errorf("billing: claim batch of tenant %s: %w", t.Target.Tenant, err)
		}
		if claim == nil || claim.Step != StepSend && claim.Step != StepVerify {
			rate.unused(caps.MaxPerSecond)
		}
		if claim == nil {
			return time.Time{}, false, nil
		}
		caps = w.reporter.Caps(claim.Target) // which may have changed
		log := w.opts.Logger.With("tenant", t.Target.Tenant, "batch", claim.ID)
		switch claim.Step {
		case StepHold:
			return claim.Until, false, nil
		case StepLate:
			if claim.State == StateParked {
				log.Error("usage parked", "quantity", claim.Quantity, "reason", claim.Reason)
			} else {
				log.Warn("usage is late", "state", claim.State, "quantity", claim.Quantity, "reason", claim.Reason)
			}
			continue
		}
		// The process may have been stopped in between, for hours, and another
		// has taken over: a provider's memory is not to be relied on then. By
		// the wall clock: the other one stands still in a machine that sleeps.
		if age := w.opts.Now().Round(0).Sub(now); age >= w.opts.Lease-w.opts.CallTimeout {
			log.Warn("claim not used: its lease is over", "age", age)
			return time.Time{}, false, nil
		}
		watch := time.AfterFunc(patience, func() {
			if slow != nil {
				took.Store(true)
				slow()
			}
		})
		v := w.carry(ctx, claim, caps)
		watch.Stop()
		if err := w.settle(ctx, claim, v); err != nil {
			return time.Time{}, false, err
		}
		if v.Unauthorized {
			return w.pausedUntil(), false, ErrUnauthorized
		}
		switch v.State {
		case StateConfirmed:
		case StateParked, StateRejected:
			log.Error("usage not billed", "state", v.State, "quantity", claim.Quantity, "reason", v.Reason, "request", v.RequestID)
		default:
			if v.NextAt.After(w.opts.Now()) {
				log.Warn("usage to be sent again", "state", v.State, "attempt", claim.Attempt, "reason", v.Reason, "request", v.RequestID)
				return v.NextAt, false, nil
			}
		}
	}
	return time.Time{}, true, nil
}

// claim takes the target's next batch. It is not cut short when the process is
// told to stop: a claim that nobody knows of would last until its lease ends.
func (w *Worker) claim(ctx context.Context, target int64, caps Caps) (*Claim, error) {
	ctx, cancel := outlive(ctx, w.opts.CallTimeout, writeGrace)
	defer cancel()
	now := w.opts.Now()
	return w.ledger.Claim(ctx, target, now, w.opts.Lease, caps, func(b Batch) Decision { return decide(b, w.reporter.Caps(b.Target), now) })
}

// carry makes the call that the claim is for. A call under way is given a
// moment when the process is told to stop: an answer that arrives saves an
// unknown.
func (w *Worker) carry(ctx context.Context, c *Claim, caps Caps) (v Verdict) {
	ctx, cancel := outlive(ctx, w.opts.CallTimeout, callGrace)
	defer cancel()
	// The reporter is the application's code. Whatever its panic interrupted
	// may have reached the provider.
	defer func() {
		if p := recover(); p != nil {
			v = judgeReceipt(c.Batch, Receipt{Reason: fmt.Sprintf("reporter panicked: %v", p)}, caps, w.opts.Now())
		}
	}()
	if c.Step == StepVerify {
		presence, err := w.reporter.Verify(ctx, c.Delivery)
		if err != nil {
			return judgeReceipt(c.Batch, Receipt{Reason: err.Error()}, caps, w.opts.Now())
		}
		return judgePresence(c.Batch, presence, caps, w.opts.Now())
	}
	d := c.Delivery
	d.IdempotencyKey = fmt.Sprintf("%s:%s:%d", w.opts.Namespace, d.ID, c.Epoch)
	receipt, err := w.reporter.Report(ctx, d)
	if err != nil {
		receipt = Receipt{Reason: err.Error()}
	}
	return judgeReceipt(c.Batch, receipt, caps, w.opts.Now())
}

func (w *Worker) settle(ctx context.Context, c *Claim, v Verdict) error {
	if v.Unauthorized {
		w.pause()
	}
	ctx, cancel := outlive(ctx, w.opts.CallTimeout, writeGrace)
	defer cancel()
	switch err := w.ledger.Settle(ctx, *c, w.opts.Now(), v); {
	case errors.Is(err, ErrFenced):
		w.opts.Logger.Warn("late answer ignored", "tenant", c.Target.Tenant, "batch", c.ID, "attempt", c.Attempt)
		return nil
	case err != nil:
		// The batch stays claimed; when its lease ends it counts as unknown.
		return fmt.Errorf("billing: settle batch %s: %w", c.ID, err)
	}
	return nil
}

func (w *Worker) pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused = w.opts.Now().Add(pauseAfterRefusal)
}

func (w *Worker) pausedUntil() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.paused
}

func (w *Worker) bucket(t Target) *bucket {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := keyOf(t)
	if w.buckets[key] == nil {
		w.buckets[key] = new(bucket)
	}
	return w.buckets[key]
}

// each calls f for every item, n at a time, in order of the items, and waits
// for all. One item's failure doesn't keep the others from their turn.
func each[T any](ctx context.Context, n int, items []T, f func(context.Context, T) error) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		next  int
		errs  []error
		fails int
	)
	take := func() (item T, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if next == len(items) || ctx.Err() != nil {
			return item, false
		}
		next++
		return items[next-1], true
	}
	for range min(n, len(items)) {
		wg.Go(func() {
			for item, ok := take(); ok; item, ok = take() {
				if err := f(ctx, item); err != nil {
					mu.Lock()
					// Ten thousand targets may fail for one reason.
					if fails++; len(errs) < 3 {
						errs = append(errs, err)
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if more := fails - len(errs); more > 0 {
		errs = append(errs, fmt.Errorf("and %d more", more))
	}
	return errors.Join(append(errs, ctx.Err())...)
}
