package health_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpsaas/mcpsaas/health"
)

// Mutation: if entry.begin doesn't keep the flight that it starts, this counts
// 200 runs.
func TestProbeRunsOnceForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var global, own atomic.Int64
		a := newAggregator(t, health.Options{
			Checks: []health.Check{{Name: "global", Run: func(ctx context.Context) error {
				global.Add(1)
				sleep(50 * time.Millisecond)
				return nil
			}}},
			TenantChecks: []health.TenantCheck{{Name: "own", Run: func(ctx context.Context, id string) error {
				own.Add(1)
				sleep(50 * time.Millisecond)
				return nil
			}}},
		})
		start := time.Now()
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				report, err := a.ProbeTenant(t.Context(), tenantA)
				if err != nil || report.Status != health.StatusOK {
					t.Errorf("got %v, %v; want ok", report, err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took != 50*time.Millisecond {
			t.Errorf("200 probes took %v, want the 50ms of one run", took)
		}
		if global.Load() != 1 || own.Load() != 1 {
			t.Errorf("200 probes ran the checks %d and %d times, want once", global.Load(), own.Load())
		}
		a.ProbeTenant(t.Context(), tenantB)
		if global.Load() != 1 || own.Load() != 2 {
			t.Errorf("another tenant: ran %d and %d times in all, want 1 and 2", global.Load(), own.Load())
		}
	})
}

func TestProbeCaches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		runs := map[string]int{}
		count := func(name string) func(context.Context) error {
			return func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				runs[name]++
				return nil
			}
		}
		a := newAggregator(t, health.Options{
			Checks: []health.Check{
				{Name: "default", Run: count("default")},
				{Name: "slow", Run: count("slow"), TTL: 5 * time.Second},
			},
			TenantChecks: []health.TenantCheck{{Name: "own", Run: func(ctx context.Context, id string) error { return count("own " + id)(ctx) }}},
		})
		for range 205 { // 20.5 s, as impatient a monitor as any
			a.ProbeTenant(t.Context(), tenantA)
			sleep(100 * time.Millisecond)
		}
		for name, want := range map[string]int{"default": 21, "slow": 5, "own " + tenantA: 3} {
			if runs[name] != want {
				t.Errorf("%s ran %d times in 20.5 s, want %d", name, runs[name], want)
			}
		}
	})
}

// A failure is red, and a recovery green, at the next probe of a monitor that
// probes each second.
func TestProbeIsRedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s switchable
		a := newAggregator(t, one(health.Check{Name: "redis", Run: s.run}))
		began := time.Now()
		wantStatus(t, first(t, a), health.StatusOK, "")

		sleep(time.Second)
		s.err = errBoom
		r := first(t, a)
		wantStatus(t, r, health.StatusDown, health.ClassInternal)
		if want := began.Add(time.Second); !r.Since.Equal(want) || !r.Time.Equal(want) || r.Failures != 1 {
			t.Errorf("since %v, time %v, failures %d; want %v twice, 1", r.Since, r.Time, r.Failures, want)
		}
		sleep(time.Second)
		if r := first(t, a); !r.Since.Equal(began.Add(time.Second)) || r.Failures != 2 {
			t.Errorf("still down: since %v, failures %d; want %v, 2", r.Since, r.Failures, began.Add(time.Second))
		}
		sleep(time.Second)
		s.err = nil
		r = first(t, a)
		wantStatus(t, r, health.StatusOK, "")
		if !r.Since.Equal(began.Add(3*time.Second)) || r.Failures != 0 {
			t.Errorf("recovered: since %v, failures %d", r.Since, r.Failures)
		}
	})
}

// Mutation: if begin starts a run although an expired one hangs, each probe
// waits for a time-out, and leaves a goroutine.
func TestStuckCheckHoldsOneGoroutine(t *testing.T) { // counts goroutines: not parallel
	for _, failures := range []int{1, 3} {
		t.Run(fmt.Sprintf("failures=%d", failures), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				runs, release := 0, make(chan struct{})
				stuck := false
				a := newAggregator(t, one(health.Check{Name: "deaf", Failures: failures, Run: func(context.Context) error {
					runs++
					if stuck {
						<-release // whatever the context says
					}
					return nil
				}}))
				wantStatus(t, first(t, a), health.StatusOK, "")
				stuck = true
				sleep(time.Second)
				start := time.Now()
				first(t, a)
				if took := time.Since(start); took != time.Second {
					t.Errorf("the probe that met the stuck check took %v, want the time-out of 1s", took)
				}
				for range failures - 1 { // flap damping counts each probe that still finds it stuck
					sleep(time.Second)
					first(t, a)
				}
				for range 10_000 {
					start := time.Now()
					if r := first(t, a); r.Status != health.StatusDown || r.Class != health.ClassTimeout {
						t.Fatalf("got %+v, want down, timeout", r)
					}
					if took := time.Since(start); took != 0 {
						t.Fatalf("a later probe waited %v for a check known to be stuck", took)
					}
					sleep(time.Second)
				}
				if n := goroutines(); n != 1 {
					t.Errorf("%d goroutines after 10,000 time-outs, want 1", n)
				}
				if runs != 2 {
					t.Errorf("started %d runs, want 2", runs)
				}
				stuck = false
				close(release)
				if n := goroutines(); n != 0 {
					t.Errorf("%d goroutines after the check returned, want none", n)
				}
				// That it returned well at last is no probe's result.
				wantStatus(t, a.Snapshot()[0], health.StatusDown, health.ClassTimeout)
				sleep(time.Second)
				wantStatus(t, first(t, a), health.StatusOK, "")
			})
		})
	}
}

func TestTimeoutsLeaveNothing(t *testing.T) { // counts goroutines: not parallel
	synctest.Test(t, func(t *testing.T) {
		polite := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		a := newAggregator(t, health.Options{
			Checks:       []health.Check{{Name: "polite", Run: polite}},
			TenantChecks: []health.TenantCheck{{Name: "own", Run: func(ctx context.Context, _ string) error { return polite(ctx) }}},
		})
		for i := range 10_000 {
			r, err := a.ProbeTenant(t.Context(), fmt.Sprintf("0190a2b4-5c6d-7e8f-8a9b-%012x", i))
			if err != nil || r.Checks[1].Class != health.ClassTimeout {
				t.Fatalf("got %+v, %v", r, err)
			}
			sleep(time.Second)
		}
		wantStatus(t, first(t, a), health.StatusDown, health.ClassTimeout)
		if n := goroutines(); n != 0 {
			t.Errorf("%d goroutines after 20,000 time-outs, want none", n)
		}
	})
}

// The result is everybody's: the prober that caused the run may go away, and
// nothing of its request may reach the check.
func TestRunIsDetachedFromProber(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		a := newAggregator(t, one(health.Check{Name: "db", Run: func(ctx context.Context) error {
			if ctx.Value(key{}) != nil {
				t.Error("the check sees a value of the prober's context")
			}
			select {
			case <-time.After(500 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}))
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "prober's"))
		var wg sync.WaitGroup
		wg.Go(func() {
			if r := a.Probe(ctx).Checks[0]; r.Status != health.StatusUnknown {
				t.Errorf("the prober that left got %q, want unknown", r.Status)
			}
		})
		sleep(100 * time.Millisecond)
		cancel()
		wg.Wait()
		wantStatus(t, first(t, a), health.StatusOK, "")
	})
}

func TestBadChecksAreContained(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		run  func(context.Context) error
	}{
		{"panic", func(context.Context) error { panic(errBoom) }},
		{"no such index", func(context.Context) error { return []error{}[len(t.Name())] }},
		{"goexit", func(context.Context) error { runtime.Goexit(); return nil }},
		{"error that panics", func(context.Context) error { return (*nilError)(nil) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a := newAggregator(t, one(health.Check{Name: "bad", Run: tt.run}))
				for range 3 {
					start := time.Now()
					wantStatus(t, first(t, a), health.StatusDown, health.ClassInternal)
					if took := time.Since(start); took != 0 {
						t.Errorf("took %v", took)
					}
					sleep(time.Second)
				}
			})
		})
	}
}

type nilError struct{ text string }

func (e *nilError) Error() string        { return e.text }
func (e *nilError) HealthDegraded() bool { return e.text != "" }

func TestFlapDamping(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s switchable
		a := newAggregator(t, one(health.Check{Name: "flaky", Run: s.run, Failures: 2}))
		steps := []struct {
			err  error
			want health.Status
		}{
			{errBoom, health.StatusDown}, // it never was ok: there is nothing to hold on to
			{nil, health.StatusOK},
			{errBoom, health.StatusOK},
			{nil, health.StatusOK},
			{errBoom, health.StatusOK},
			{errBoom, health.StatusDown},
			{health.Degraded(errBoom), health.StatusDegraded},
			{nil, health.StatusOK},
			{health.Degraded(errBoom), health.StatusOK},
			{errBoom, health.StatusDown},
		}
		for i, step := range steps {
			s.err = step.err
			if r := first(t, a); r.Status != step.want {
				t.Errorf("step %d: %q, want %q", i, r.Status, step.want)
			}
			sleep(time.Second)
		}
	})
}

func TestWhole(t *testing.T) {
	t.Parallel()
	degraded := func(context.Context) error { return health.Degraded(errBoom) }
	tests := []struct {
		name   string
		checks []health.Check
		want   health.Status
	}{
		{"none", nil, health.StatusOK},
		{"all ok", []health.Check{{Name: "a", Run: ok}, {Name: "b", Run: ok, Criticality: health.Critical}}, health.StatusOK},
		{"major down", []health.Check{{Name: "a", Run: failing}, {Name: "b", Run: ok}}, health.StatusDegraded},
		{"major degraded", []health.Check{{Name: "a", Run: degraded}}, health.StatusDegraded},
		{"critical down", []health.Check{{Name: "a", Run: ok}, {Name: "b", Run: failing, Criticality: health.Critical}, {Name: "c", Run: degraded}}, health.StatusDown},
		{"critical degraded", []health.Check{{Name: "a", Run: degraded, Criticality: health.Critical}}, health.StatusDegraded},
		{"minor down", []health.Check{{Name: "a", Run: failing, Criticality: health.Minor}}, health.StatusOK},
		{"major never run", []health.Check{{Name: "a", Run: ok, Interval: time.Hour}}, health.StatusDegraded},
		{"critical never run", []health.Check{{Name: "a", Run: ok, Interval: time.Hour, Criticality: health.Critical}}, health.StatusDown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAggregator(t, health.Options{Checks: tt.checks})
			if got := a.Probe(t.Context()).Status; got != tt.want {
				t.Errorf("whole is %q, want %q", got, tt.want)
			}
		})
	}
}

// Checks run side by side, and a probe has an end even if the slots for
// tenants' checks don't come free.
func TestProbeIsBounded(t *testing.T) { // counts goroutines: not parallel
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int64
		release := make(chan struct{})
		a := newAggregator(t, health.Options{
			TenantConcurrency: 3,
			TenantChecks: []health.TenantCheck{{Name: "deaf", Run: func(context.Context, string) error {
				now := running.Add(1)
				defer running.Add(-1)
				for {
					high := most.Load()
					if now <= high || most.CompareAndSwap(high, now) {
						break
					}
				}
				<-release
				return nil
			}}},
		})
		var timeouts, unknown atomic.Int64
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				start := time.Now()
				r, err := a.ProbeTenant(t.Context(), fmt.Sprintf("0190a2b4-5c6d-7e8f-8a9b-%012x", i))
				if err != nil || r.Status != health.StatusDegraded {
					t.Errorf("got %+v, %v", r, err)
				}
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("a probe took %v", took)
				}
				switch r.Checks[1].Status {
				case health.StatusDown:
					timeouts.Add(1)
				case health.StatusUnknown:
					unknown.Add(1)
				}
			})
		}
		wg.Wait()
		if most.Load() != 3 || timeouts.Load() != 3 || unknown.Load() != 97 {
			t.Errorf("%d ran at once, %d timed out, %d unknown; want 3, 3, 97", most.Load(), timeouts.Load(), unknown.Load())
		}
		sleep(time.Second)
		if n := goroutines(); n != 3 {
			t.Errorf("%d goroutines, want the three stuck ones", n)
		}
		close(release)
		sleep(10 * time.Second)
		r, _ := a.ProbeTenant(t.Context(), tenantA)
		if r.Status != health.StatusOK {
			t.Errorf("after the slots are free: %+v", r)
		}
	})
}

// What was ok proves nothing when it could not be asked again: not to the
// probe that waited in vain, nor to the next.
//
// Mutation: with gather's case of a flight that didn't end removed, or damping
// applied to unknown, the tenant stays ok.
func TestNotAskedIsNotOK(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		a := newAggregator(t, health.Options{
			TenantConcurrency: 1,
			TenantChecks: []health.TenantCheck{{Name: "own", Failures: 2, Run: func(_ context.Context, id string) error {
				if id == tenantB {
					<-release
				}
				return nil
			}}},
		})
		own := func(id string) health.Result {
			r, err := a.ProbeTenant(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return r.Checks[1]
		}
		wantStatus(t, own(tenantA), health.StatusOK, "")
		own(tenantB) // takes the only slot for good
		sleep(10 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		impatient, _ := a.ProbeTenant(ctx, tenantA)
		wantStatus(t, impatient.Checks[1], health.StatusUnknown, health.ClassTimeout)
		wantStatus(t, own(tenantA), health.StatusUnknown, health.ClassTimeout)
		sleep(time.Second)
		wantStatus(t, own(tenantA), health.StatusUnknown, health.ClassTimeout)
		close(release)
		sleep(10 * time.Second)
		wantStatus(t, own(tenantA), health.StatusOK, "")
	})
}

func TestTenantCacheIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		runs := map[string]int{}
		a := newAggregator(t, health.Options{
			MaxTenants:   2,
			TenantChecks: []health.TenantCheck{{Name: "own", Run: func(_ context.Context, id string) error { runs[id]++; return nil }}},
		})
		const tenantC = "0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5d"
		for _, id := range []string{tenantA, tenantB, tenantA, tenantC, tenantA, tenantB} {
			a.ProbeTenant(t.Context(), id)
		}
		// C pushed B out, which had been asked for longest ago; then B pushed C out.
		if runs[tenantA] != 1 || runs[tenantB] != 2 || runs[tenantC] != 1 {
			t.Errorf("runs: %v, want A once, B twice, C once", runs)
		}
	})
}

func TestProbeTenantIDs(t *testing.T) {
	t.Parallel()
	var seen []string
	a := newAggregator(t, health.Options{TenantChecks: []health.TenantCheck{{Name: "own", Run: func(_ context.Context, id string) error {
		seen = append(seen, id)
		return nil
	}}}})
	for _, id := range []string{"", "x", `x"; drop table tenants; --`, tenantA + "0", tenantA[:35], "{" + tenantA[1:], "0190a2b45c6d7e8f8a9b0c1d2e3f4a5b", "00000000-0000-0000-0000-000000000000", tenantA[:35] + "g", tenantA[:8] + "0" + tenantA[9:]} {
		if _, err := a.ProbeTenant(t.Context(), id); err == nil {
			t.Errorf("%q is taken for a tenant", id)
		}
	}
	for _, id := range []string{tenantA, "0190A2B4-5C6D-7E8F-8A9B-0C1D2E3F4A5B"} { // the same tenant
		if _, err := a.ProbeTenant(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if len(seen) != 1 || seen[0] != tenantA {
		t.Errorf("the check saw %q, want %q once", seen, tenantA)
	}
}
