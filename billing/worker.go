package billing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// WorkerOptions adjusts a [Worker]. The zero value is ready for production.
type WorkerOptions struct {
	// Interval is how often usage is sealed and sent. Each worker makes at most
	// one batch for a target per interval; should slots run out
	// (Caps.SlotGranularity), usage waits and goes with a later batch. Defaults
	// to 5 minutes.
	Interval time.Duration

	// Lease is how long a worker may keep a batch to itself; after that
	// another takes over. It must exceed CallTimeout. Defaults to 2 minutes.
	Lease time.Duration

	// CallTimeout bounds one call of the provider. Defaults to 10 seconds.
	CallTimeout time.Duration

	// Concurrency is how many targets of one provider and mode are worked on
	// at once, besides those, up to 15 times as many, whose calls take longer
	// than 100 milliseconds. Defaults to 16.
	Concurrency int

	// Namespace is the first part of every idempotency key, to keep apart
	// installations that share a provider account. Defaults to "mcpsaas".
	Namespace string

	// StallAfter is how old unreported usage may get before Check fails. It
	// must exceed Interval. Defaults to 10 minutes or twice the interval,
	// whichever is longer.
	StallAfter time.Duration

	// Logger gets what an operator should see. Defaults to none.
	Logger *slog.Logger

	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Worker carries usage from a [Ledger] to a [Reporter]. Any number of workers
// may share a ledger, in one process or many. Its methods are safe for
// concurrent use.
type Worker struct {
	ledger   Ledger
	reporter Reporter
	opts     WorkerOptions

	mu       sync.Mutex
	buckets  map[bucketKey]*bucket
	paused   time.Time // no calls before: the credential was refused
	compares time.Time // since when Run compares totals; zero: it doesn't
	stats    Stats     // that Check read last
}

// bucketKey is what shares a rate of requests.
type bucketKey struct {
	provider string
	mode     Mode
}

func keyOf(t Target) bucketKey { return bucketKey{t.Provider, t.Mode} }

// closeMargin is how long before the end of a billing period Run makes one
// more pass: some providers take nothing once it has ended.
const closeMargin = 20 * time.Second

// pauseAfterRefusal is how long nothing is sent after the provider has refused
// the credential.
const pauseAfterRefusal = time.Minute

// NewWorker returns a worker that reports the usage in ledger to reporter. It
// does nothing until Run, Tick or Flush is called.
func NewWorker(ledger Ledger, reporter Reporter, opts *WorkerOptions) (*Worker, error) {
	w := &Worker{ledger: ledger, reporter: reporter, buckets: make(map[bucketKey]*bucket)}
	if opts != nil {
		w.opts = *opts
	}
	o := &w.opts
	var errs []error
	if ledger == nil {
		errs = append(errs, errors.New("ledger is nil"))
	}
	if reporter == nil {
		errs = append(errs, errors.New("reporter is nil"))
	}
	for _, d := range []struct {
		name   string
		value  *time.Duration
		preset time.Duration
	}{
		{"Interval", &o.Interval, 5 * time.Minute},
		{"Lease", &o.Lease, 2 * time.Minute},
		{"CallTimeout", &o.CallTimeout, 10 * time.Second},
	} {
		if *d.value < 0 {
			errs = append(errs, fmt.Errorf("WorkerOptions.%s is negative", d.name))
		}
		if *d.value == 0 {
			*d.value = d.preset
		}
	}
	if o.StallAfter == 0 {
		o.StallAfter = max(10*time.Minute, 2*o.Interval)
	}
	if o.StallAfter <= o.Interval {
		errs = append(errs, fmt.Errorf("WorkerOptions.StallAfter is %v, must exceed Interval, %v", o.StallAfter, o.Interval))
	}
	if o.Lease <= o.CallTimeout {
		errs = append(errs, fmt.Errorf("WorkerOptions.Lease is %v, must exceed CallTimeout, %v", o.Lease, o.CallTimeout))
	}
	if o.Concurrency < 0 {
		errs = append(errs, errors.New("WorkerOptions.Concurrency is negative"))
	}
	if o.Concurrency == 0 {
		o.Concurrency = 16
	}
	if o.Namespace == "" {
		o.Namespace = "mcpsaas"
	}
	// The key holds a UUID and an epoch besides, and providers stop at 255.
	if len(o.Namespace) > 200 {
		errs = append(errs, errors.New("WorkerOptions.Namespace is longer than 200 bytes"))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("billing: new worker: %w", err)
	}
	return w, nil
}

// Run reports usage every interval, retries in between what is due, makes
// an extra pass before a billing period ends, and once an hour compares what was
// confirmed with the provider's totals. It returns nil when ctx is
// cancelled: calls under way are left 3 seconds to be answered, after which
// their outcome is recorded as unknown, to be settled by whoever runs next.
// What it could not finish stays in the ledger. Failures of the ledger and the
// provider are logged and outlived.
func (w *Worker) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	if _, ok := w.reporter.(Totaler); ok {
		w.mu.Lock()
		w.compares = w.opts.Now()
		w.mu.Unlock()
		wg.Go(func() { w.reconcileLoop(ctx) })
	}
	send := newSending(w)
	seal := w.opts.Now() // when to seal next
	for ctx.Err() == nil {
		now := w.opts.Now()
		p := pass{seal: !now.Before(seal), send: send}
		if p.seal {
			seal = now.Add(w.opts.Interval)
		}
		err := errors.Join(send.failures(), w.pass(ctx, &p))
		if err != nil && ctx.Err() == nil {
			w.opts.Logger.Error("billing pass failed", "err", err)
		}
		if last := p.nextClose.Add(-closeMargin); last.After(w.opts.Now()) && last.Before(seal) {
			seal = last
		}
		w.rest(ctx, now, earliest(seal, p.nextRetry), send)
	}
	_ = send.wait() // they were told to stop; what they left is in the ledger
	return nil
}

// rest waits until it is time for the pass after the one that began at began:
// at until, or when something has to be tried again before.
func (w *Worker) rest(ctx context.Context, began, until time.Time, send *sending) {
	for {
		next := later(earliest(until, send.nextRetry()), began.Add(w.floor()))
		timer := time.NewTimer(max(next.Sub(w.opts.Now()), 0))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			return
		case <-send.changed:
			timer.Stop()
		}
	}
}

// earliest returns the first of the times that aren't zero.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// floor is the least pause between two passes.
func (w *Worker) floor() time.Duration { return min(time.Second, w.opts.Interval) }

// Tick makes one pass: it seals all usage, sends what is due, and waits for it. Run makes the
// same pass at each interval; Tick is for commands and tests. Its error is
// about the pass as a whole: the ledger can't be reached, or the provider
// refuses the credential ([ErrUnauthorized]). What befalls a single target is
// in the ledger.
func (w *Worker) Tick(ctx context.Context) error {
	p := pass{seal: true, send: newSending(w)}
	return errors.Join(w.pass(ctx, &p), p.send.wait(), ctx.Err())
}
