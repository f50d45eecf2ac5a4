package billing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// InboxOptions adjusts an [InboxWorker]. The zero value is ready for
// production.
type InboxOptions struct {
	// Flush reports a tenant's usage at once, when the provider says that its
	// invoice is being drawn up: usually [Worker.Flush]. Defaults to none; the
	// usage then goes with the next interval.
	Flush func(ctx context.Context, id tenant.ID) error

	// Access is the policy that the subscriber goes by: when a grace ends, the
	// subscription is fetched and applied again, since the provider says nothing
	// at that time. Defaults to the zero [AccessPolicy].
	Access AccessPolicy

	// PullEvery is how often a [Source] that is a [MissedLister] is asked for
	// what webhooks have not brought. Defaults to 5 minutes.
	PullEvery time.Duration

	// Poll is how often the inbox is looked at for what another process
	// accepted or a dead one left. What comes by [InboxWorker.Accept] is worked
	// on at once. Defaults to 500 milliseconds.
	Poll time.Duration

	// Timeout bounds the work on one notice; Lease must exceed it. They
	// default to 30 seconds and 1 minute.
	Timeout, Lease time.Duration

	// Concurrency is how many customers are worked on at once. Defaults to 4.
	Concurrency int

	// MaxAttempts is after how many failures a notice is dead; fewer for a
	// [PermanentError]. The waits between them double from 1 second up to 30
	// minutes. Defaults to 16, about 3 hours.
	MaxAttempts int

	// StallAfter is how long a notice may wait before Check fails. Defaults to
	// 2 minutes.
	StallAfter time.Duration

	// Logger gets what an operator should see. Defaults to none.
	Logger *slog.Logger

	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// InboxWorker applies notices: it fetches the truth behind each, saves it, and
// hands it to a [Subscriber]. It is the [Inbox] to give to a webhook handler,
// since it wakes up for what it accepts. Any number may share a store. Its
// methods are safe for concurrent use.
type InboxWorker struct {
	store      NoticeStore
	source     Source
	subscriber Subscriber
	opts       InboxOptions
	wake       chan struct{}
	born       time.Time
}

var _ Inbox = (*InboxWorker)(nil)

// NewInboxWorker returns a worker over store. It does nothing until Run or
// Drain is called.
func NewInboxWorker(store NoticeStore, source Source, subscriber Subscriber, opts *InboxOptions) (*InboxWorker, error) {
	w := &InboxWorker{store: store, source: source, subscriber: subscriber, wake: make(chan struct{}, 1)}
	if opts != nil {
		w.opts = *opts
	}
	o := &w.opts
	var errs []error
	if store == nil {
		errs = append(errs, errors.New("store is nil"))
	}
	if source == nil {
		errs = append(errs, errors.New("source is nil"))
	}
	if subscriber == nil {
		errs = append(errs, errors.New("subscriber is nil"))
	}
	for _, d := range []struct {
		name   string
		value  *time.Duration
		preset time.Duration
	}{
		{"PullEvery", &o.PullEvery, 5 * time.Minute},
		{"Poll", &o.Poll, 500 * time.Millisecond},
		{"Timeout", &o.Timeout, 30 * time.Second},
		{"Lease", &o.Lease, time.Minute},
		{"StallAfter", &o.StallAfter, 2 * time.Minute},
	} {
		if *d.value < 0 {
			errs = append(errs, fmt.Errorf("InboxOptions.%s is negative", d.name))
		}
		if *d.value == 0 {
			*d.value = d.preset
		}
	}
	for _, n := range []struct {
		name   string
		value  *int
		preset int
	}{
		{"Concurrency", &o.Concurrency, 4},
		{"MaxAttempts", &o.MaxAttempts, 16},
	} {
		if *n.value < 0 {
			errs = append(errs, fmt.Errorf("InboxOptions.%s is negative", n.name))
		}
		if *n.value == 0 {
			*n.value = n.preset
		}
	}
	if o.Lease <= o.Timeout {
		errs = append(errs, fmt.Errorf("InboxOptions.Lease is %v, must exceed Timeout, %v", o.Lease, o.Timeout))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("billing: new inbox worker: %w", err)
	}
	w.born = o.Now()
	return w, nil
}

// Accept keeps the notice and wakes the worker. It is [Inbox.Accept] of the
// store.
func (w *InboxWorker) Accept(ctx context.Context, n Notice) (fresh bool, err error) {
	fresh, err = w.store.Accept(ctx, n)
	if fresh {
		w.signal()
	}
	return fresh, err
}

func (w *InboxWorker) signal() {
	select {
	case w.wake <- struct{}{}:
	default: // a wake-up is pending already
	}
}
