package billing_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// slowReporter answers after a while, or when it is told to give up.
type slowReporter struct {
	*billingtest.Provider
	takes  time.Duration
	called chan struct{}
}

func (r slowReporter) Report(ctx context.Context, _ billing.Delivery) (billing.Receipt, error) {
	close(r.called)
	select {
	case <-time.After(r.takes):
		return billing.Receipt{Result: billing.Accepted}, nil
	case <-ctx.Done():
		return billing.Receipt{}, ctx.Err()
	}
}

// TestRunStops: told to stop, Run leaves a call under way three seconds, and
// what it then gives up on is unknown.
//
// Seen failing with a call that outlives ctx by CallTimeout.
func TestRunStops(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		takes, stops time.Duration
		want         billing.State
	}{
		{2 * time.Second, 2 * time.Second, billing.StateConfirmed},
		{8 * time.Second, 3 * time.Second, billing.StateUnknown},
	} {
		synctest.Test(t, func(t *testing.T) {
			ledger := &oneClaim{}
			called := make(chan struct{})
			w, err := billing.NewWorker(ledger, slowReporter{billingtest.NewProvider(billing.ModeMeter, time.Now), tc.takes, called}, nil)
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error)
			go func() { done <- w.Run(ctx) }()
			<-called
			cancel()
			told := time.Now()
			require.NoError(t, <-done)
			require.Equal(t, tc.stops, time.Since(told))
			require.Equal(t, tc.want, ledger.verdict.State)
		})
	}
}

// TestRunStopsWithoutDatabase: nor does a ledger that doesn't answer hold it.
func TestRunStopsWithoutDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ledger := &hungLedger{called: make(chan struct{})}
		w, err := billing.NewWorker(ledger, billingtest.NewProvider(billing.ModeMeter, time.Now), nil)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		<-ledger.called
		cancel()
		told := time.Now()
		require.NoError(t, <-done)
		require.Equal(t, 2*time.Second, time.Since(told))
	})
}

// hungLedger never comes back from a Settle.
type hungLedger struct {
	oneClaim
	called chan struct{}
}

func (l *hungLedger) Settle(ctx context.Context, _ billing.Claim, _ time.Time, _ billing.Verdict) error {
	close(l.called)
	<-ctx.Done()
	return ctx.Err()
}

// oneNotice is a store with a notice that is always due.
type oneNotice struct {
	billing.NoticeStore
	tries   int
	verdict billing.NoticeVerdict
}

func (s *oneNotice) NextNotice(context.Context, time.Time, time.Duration) (*billing.NoticeClaim, error) {
	s.tries++
	if s.verdict.State == billing.NoticeDead {
		return nil, nil
	}
	return &billing.NoticeClaim{Notice: billing.Notice{ID: "evt_1"}, Attempt: s.tries, Tries: s.tries}, nil
}

func (s *oneNotice) Save(_ context.Context, _ time.Time, _ billing.Notice, c billing.Change) (billing.Change, error) {
	return c, nil
}

func (s *oneNotice) FinishNotice(ctx context.Context, _ billing.NoticeClaim, _ time.Time, v billing.NoticeVerdict) error {
	s.verdict = v
	return ctx.Err()
}

type sourceFunc func(ctx context.Context, n billing.Notice) (billing.Change, error)

func (f sourceFunc) Fetch(ctx context.Context, n billing.Notice) (billing.Change, error) {
	return f(ctx, n)
}

// TestInboxStops: told to stop, Run cancels the work under way at once and puts
// the notice back, as if it had never been tried. (That it is claimed again at
// once is tested in package pgledger.)
func TestInboxStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, called := &oneNotice{}, make(chan struct{})
		apply := billing.SubscriberFunc(func(ctx context.Context, _ billing.Change) error {
			close(called)
			<-ctx.Done()
			return fmt.Errorf("provision: %w", ctx.Err())
		})
		w, err := billing.NewInboxWorker(store, sourceFunc(func(context.Context, billing.Notice) (billing.Change, error) {
			return billing.Change{Tenant: tenant.NewID()}, nil
		}), apply, &billing.InboxOptions{Concurrency: 1, MaxAttempts: 1})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		<-called
		cancel()
		told := time.Now()
		require.NoError(t, <-done)
		require.Zero(t, time.Since(told))
		require.Equal(t, billing.NoticeNew, store.verdict.State)
		require.True(t, store.verdict.Interrupted)
		require.False(t, store.verdict.NextAt.After(told))
	})
}

// TestPermanentError: what repeating doesn't mend is given up at once, what may
// only look so after a few tries, and with the reason.
func TestPermanentError(t *testing.T) {
	t.Parallel()
	cause := errors.New("no such object")
	for tries, want := range map[int]int{0: 1, 1: 1, 3: 3, 99: 16} {
		store := &oneNotice{}
		w, err := billing.NewInboxWorker(store, sourceFunc(func(context.Context, billing.Notice) (billing.Change, error) {
			return billing.Change{}, fmt.Errorf("source: %w", &billing.PermanentError{Err: cause, Tries: tries})
		}), billing.SubscriberFunc(func(context.Context, billing.Change) error { return nil }), nil)
		require.NoError(t, err)
		require.NoError(t, w.Drain(t.Context()))
		require.Equal(t, billing.NoticeDead, store.verdict.State)
		require.Equal(t, "fetch: source: no such object", store.verdict.Reason)
		require.Equal(t, want+1, store.tries, "the last found none")
	}
	require.ErrorIs(t, &billing.PermanentError{Err: cause}, cause)
}
