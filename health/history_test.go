package health_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpsaas/mcpsaas/health"
)

func TestTransitions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s switchable
		var told []health.Transition
		a := newAggregator(t, health.Options{
			Checks:       []health.Check{{Name: "redis", Run: s.run}},
			TenantChecks: []health.TenantCheck{{Name: "own", Run: func(context.Context, string) error { return health.Degraded(errBoom) }}},
			OnChange: func(change health.Transition) {
				told = append(told, change)
				if len(told) == 1 {
					panic("listener")
				}
			},
		})
		began := time.Now()
		for _, err := range []error{nil, errBoom, errBoom, health.Degraded(errBoom), nil} {
			s.err = err
			first(t, a)
			sleep(time.Second)
		}
		a.ProbeTenant(t.Context(), tenantA)
		synctest.Wait()
		at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
		want := []health.Transition{
			{Check: "redis", From: "ok", To: "down", Class: "internal", Time: at(1)},
			{Check: "redis", From: "down", To: "degraded", Class: "internal", Time: at(3)},
			{Check: "redis", From: "degraded", To: "ok", Time: at(4)},
			{Check: "own", Tenant: tenantA, From: "unknown", To: "degraded", Class: "internal", Time: at(5)},
		}
		same := func(x, y health.Transition) bool { xt := x.Time; x.Time = y.Time; return x == y && xt.Equal(y.Time) }
		if got := a.History(); !slices.EqualFunc(got, want, same) {
			t.Errorf("history:\n%+v\nwant\n%+v", got, want)
		}
		if !slices.EqualFunc(told, want, same) {
			t.Errorf("the listener was told:\n%+v\nwant\n%+v", told, want)
		}
	})
}

func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s switchable
		a := newAggregator(t, health.Options{
			Checks:       []health.Check{{Name: "redis", Run: s.run}},
			TenantChecks: []health.TenantCheck{{Name: "own", Run: func(context.Context, string) error { return errBoom }}},
		})
		for i := range 121 {
			s.err = nil
			if i%2 == 1 {
				s.err = errBoom
			}
			first(t, a)
			sleep(time.Second)
		}
		last := time.Now().Add(-time.Second)
		for i := range 200 {
			a.ProbeTenant(t.Context(), fmt.Sprintf("0190a2b4-5c6d-7e8f-8a9b-%012x", i))
		}
		got := a.History()
		if len(got) != 100 {
			t.Fatalf("%d transitions, want the last 50 of the platform and of tenants", len(got))
		}
		if got[49].Check != "redis" || !got[49].Time.Equal(last) || got[99].Tenant != "0190a2b4-5c6d-7e8f-8a9b-0000000000c7" {
			t.Errorf("not the last: %+v, %+v", got[49], got[99])
		}
	})
}

// A listener that hangs holds one goroutine, and no probe.
func TestStuckListener(t *testing.T) { // counts goroutines: not parallel
	synctest.Test(t, func(t *testing.T) {
		var s switchable
		release := make(chan struct{})
		var told []health.Transition
		var log bytes.Buffer
		a := newAggregator(t, health.Options{
			Checks:   []health.Check{{Name: "redis", Run: s.run}},
			OnChange: func(change health.Transition) { <-release; told = append(told, change) },
			Logger:   slog.New(slog.NewTextHandler(&log, nil)),
		})
		first(t, a)
		for i := range 202 {
			s.err = nil
			if i%2 == 0 {
				s.err = errBoom
			}
			sleep(time.Second)
			start := time.Now()
			r := first(t, a)
			if want := map[bool]health.Status{true: "down", false: "ok"}[i%2 == 0]; r.Status != want || time.Since(start) != 0 {
				t.Fatalf("probe %d: %q after %v, want %q at once", i, r.Status, time.Since(start), want)
			}
		}
		if n := goroutines(); n != 1 {
			t.Errorf("%d goroutines, want 1", n)
		}
		close(release)
		synctest.Wait()
		if len(told) != 51 || told[50].To != health.StatusOK {
			t.Errorf("told %d changes, the last %+v; want the first, and the last 50", len(told), told[len(told)-1])
		}
		if !strings.Contains(log.String(), "dropped=151") {
			t.Errorf("the log doesn't say that 151 changes were dropped: %.300s", log.String())
		}
	})
}

// The log has what no answer has.
func TestLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var s switchable
		a := newAggregator(t, health.Options{
			Checks:       []health.Check{{Name: "redis", Run: s.run}},
			TenantChecks: []health.TenantCheck{{Name: "own", Run: func(context.Context, string) error { panic("lost") }}},
			Logger:       slog.New(slog.NewTextHandler(&log, nil)),
		})
		for _, err := range []error{nil, errBoom, errBoom, nil} {
			s.err = err
			first(t, a)
			sleep(time.Second)
			synctest.Wait()
		}
		a.ProbeTenant(t.Context(), tenantA)
		synctest.Wait()
		for _, want := range []string{
			`level=WARN msg="health check changed" check=redis from=ok to=down class=internal err="` + errBoom.Error() + `"`,
			`level=INFO msg="health check changed" check=redis from=down to=ok`,
			`level=ERROR msg="health check panicked" check=own tenant=` + tenantA + ` panic=lost stack=`,
			`level=WARN msg="health check changed" check=own from=unknown to=down tenant=` + tenantA + ` class=internal err="check panicked: lost"`,
		} {
			if strings.Count(log.String(), want) != 1 {
				t.Errorf("want once in the log: %s\ngot: %s", want, log.String())
			}
		}
	})
}
