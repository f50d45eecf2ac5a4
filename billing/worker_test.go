package billing_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestNewWorker names every option that can't be right.
func TestNewWorker(t *testing.T) {
	t.Parallel()
	provider := billingtest.NewProvider(billing.ModeMeter, time.Now)
	for want, opts := range map[string]*billing.WorkerOptions{
		"":                             nil,
		"WorkerOptions.Interval":       {Interval: -1},
		"WorkerOptions.Lease is 1s":    {Lease: time.Second},
		"WorkerOptions.CallTimeout":    {CallTimeout: -1},
		"WorkerOptions.Concurrency":    {Concurrency: -1},
		"WorkerOptions.StallAfter":     {StallAfter: time.Minute},
		"WorkerOptions.Namespace":      {Namespace: strings.Repeat("x", 201)},
		"exceed CallTimeout, 10m0s":    {CallTimeout: 10 * time.Minute},
		"StallAfter is 10m0s, must ex": {Interval: time.Hour, StallAfter: 10 * time.Minute},
	} {
		w, err := billing.NewWorker(&idleLedger{}, provider, opts)
		if want == "" {
			require.NoError(t, err)
			require.NotNil(t, w)
			continue
		}
		require.ErrorContains(t, err, want)
	}
	_, err := billing.NewWorker(nil, nil, nil)
	require.ErrorContains(t, err, "ledger is nil")
	require.ErrorContains(t, err, "reporter is nil")
}

// TestNewInboxWorker likewise.
func TestNewInboxWorker(t *testing.T) {
	t.Parallel()
	apply := billing.SubscriberFunc(func(context.Context, billing.Change) error { return nil })
	_, err := billing.NewInboxWorker(nil, nil, apply, &billing.InboxOptions{
		Poll: -1, Timeout: time.Hour, StallAfter: -1, Concurrency: -1, MaxAttempts: -1,
	})
	for _, want := range []string{
		"store is nil", "source is nil", "InboxOptions.Poll", "InboxOptions.Lease", "InboxOptions.StallAfter",
		"InboxOptions.Concurrency", "InboxOptions.MaxAttempts",
	} {
		require.ErrorContains(t, err, want)
	}
}

// idleLedger has nothing to do, and remembers when it was asked.
type idleLedger struct {
	billing.Ledger
	close time.Time
	down  bool

	mu    sync.Mutex
	asked []time.Time
}

func (l *idleLedger) Backlog(context.Context, time.Time, time.Time) (billing.Backlog, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, time.Now())
	if l.down {
		return billing.Backlog{}, errors.New("connection refused")
	}
	return billing.Backlog{NextClose: l.close}, nil
}

func (l *idleLedger) Open(context.Context, tenant.ID, time.Time) ([]billing.OpenTarget, error) {
	return nil, nil
}

func (l *idleLedger) BeginReconcile(context.Context, time.Time, time.Time) (bool, error) {
	return false, nil
}

func (l *idleLedger) Stats(context.Context, tenant.ID) (billing.Stats, error) {
	return billing.Stats{}, errors.New("connection refused")
}

// TestRunBeforeClose: besides its interval, Run makes a pass shortly before a
// billing period ends; and it outlives a ledger that is away.
func TestRunBeforeClose(t *testing.T) {
	t.Parallel()
	for _, down := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			ledger := &idleLedger{close: begin.Add(7 * time.Minute), down: down}
			w, err := billing.NewWorker(ledger, billingtest.NewProvider(billing.ModeMeter, time.Now), nil)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 14*time.Minute)
			defer cancel()
			require.NoError(t, w.Run(ctx))
			want := []time.Duration{0, 5 * time.Minute, 7*time.Minute - 20*time.Second, 12*time.Minute - 20*time.Second}
			if down {
				want = []time.Duration{0, 5 * time.Minute, 10 * time.Minute}
			}
			var got []time.Duration
			for _, at := range ledger.asked {
				got = append(got, at.Sub(begin))
			}
			require.Equal(t, want, got)
			require.ErrorContains(t, w.Check(t.Context()), "connection refused")
		})
	}
}

// TestReporterPanics: a panic of the reporter is an unknown outcome, not the
// end of the worker. (The ledger's side is tested in package pgledger.)
func TestReporterPanics(t *testing.T) {
	t.Parallel()
	ledger := &oneClaim{}
	w, err := billing.NewWorker(ledger, panicking{billingtest.NewProvider(billing.ModeMeter, time.Now)}, nil)
	require.NoError(t, err)
	require.NoError(t, w.Tick(t.Context()))
	require.Equal(t, billing.StateUnknown, ledger.verdict.State)
	require.Contains(t, ledger.verdict.Reason, "panicked")
}

type panicking struct{ *billingtest.Provider }

func (panicking) Report(context.Context, billing.Delivery) (billing.Receipt, error) {
	panic("nil map")
}

// oneClaim hands out one batch.
type oneClaim struct {
	idleLedger
	verdict billing.Verdict
}

func (l *oneClaim) Open(context.Context, tenant.ID, time.Time) ([]billing.OpenTarget, error) {
	return []billing.OpenTarget{{ID: 1}}, nil
}

func (l *oneClaim) Claim(_ context.Context, _ int64, now time.Time, _ time.Duration, _ billing.Caps, decide func(billing.Batch) billing.Decision) (*billing.Claim, error) {
	b := billing.Batch{Attempt: 1, Delivery: billing.Delivery{Slot: now, PeriodEnd: now.Add(time.Hour)}}
	return &billing.Claim{Batch: b, Decision: decide(b)}, nil
}

func (l *oneClaim) Settle(_ context.Context, _ billing.Claim, _ time.Time, v billing.Verdict) error {
	l.verdict = v
	return nil
}
