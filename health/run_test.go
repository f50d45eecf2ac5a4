package health_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpsaas/mcpsaas/health"
)

// Mutation: with the staleness taken out of entry.result, the check stays ok
// for ever after its runner has stopped.
func TestRunAndStaleness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		runs := 0
		a := newAggregator(t, one(health.Check{Name: "audit", Interval: time.Minute, Run: func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			runs++
			return nil
		}}))
		wantStatus(t, first(t, a), health.StatusUnknown, "")
		wantCode(t, get(a.Handler(health.Monitor), "/health"), 503)

		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		synctest.Wait()
		wantStatus(t, first(t, a), health.StatusOK, "")
		sleep(10*time.Minute + time.Second)
		wantStatus(t, first(t, a), health.StatusOK, "")
		if runs != 11 {
			t.Errorf("ran %d times in ten minutes and a second, want 11", runs)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		sleep(2 * time.Minute)
		wantStatus(t, first(t, a), health.StatusOK, "")
		sleep(time.Minute)
		wantStatus(t, first(t, a), health.StatusUnknown, "")
		wantCode(t, get(a.Handler(health.Monitor), "/health"), 503)
		if runs != 11 {
			t.Errorf("a probe ran a check that has an interval")
		}
	})
}

func TestRunOfStuckCheck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		stuck := make(chan struct{}, 1)
		a := newAggregator(t, one(health.Check{Name: "audit", Interval: time.Minute, Failures: 2, Run: func(context.Context) error {
			select {
			case <-stuck:
				<-release
			default:
			}
			return nil
		}}))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		sleep(time.Second)
		wantStatus(t, first(t, a), health.StatusOK, "")
		stuck <- struct{}{}
		sleep(time.Hour)
		wantStatus(t, first(t, a), health.StatusDown, health.ClassTimeout)
		cancel()
		if err := <-ended; err != nil { // though the check still hangs
			t.Error(err)
		}
		close(release)
	})
}

func TestRunWaitsForWhatItStarted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		done := false
		a := newAggregator(t, one(health.Check{Name: "audit", Interval: time.Minute, Run: func(context.Context) error {
			sleep(700 * time.Millisecond)
			done = true
			return nil
		}}))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := a.Run(ctx); err != nil || !done {
			t.Errorf("Run returned %v; its run had ended: %v", err, done)
		}
	})
}

// A scrape costs nothing, and doesn't take an old result for a new one.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		a := newAggregator(t, one(health.Check{Name: "redis", Run: func(context.Context) error { runs++; return nil }}))
		wantStatus(t, a.Snapshot()[0], health.StatusUnknown, "")
		first(t, a)
		for range 30 {
			sleep(5 * time.Second)
			wantStatus(t, a.Snapshot()[0], health.StatusOK, "")
		}
		sleep(31 * time.Second)
		wantStatus(t, a.Snapshot()[0], health.StatusUnknown, "")
		if runs != 1 {
			t.Errorf("ran %d times, want only for the probe", runs)
		}
	})
}
