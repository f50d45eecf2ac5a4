package health_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpsaas/mcpsaas/health"
)

// No outage of anything touches Live.
func TestLiveRunsNothing(t *testing.T) {
	t.Parallel()
	a := newAggregator(t, one(health.Check{Name: "x", Ready: true, Startup: true, Criticality: health.Critical, Run: func(context.Context) error {
		t.Error("a check ran for livez")
		return errBoom
	}}))
	a.SetDraining(true)
	wantCode(t, get(a.Handler(health.Live), "/livez?tenant="+tenantA), 200)
}

func TestReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var pool, shared, migrated switchable
		migrated.err = errBoom
		a := newAggregator(t, health.Options{Checks: []health.Check{
			{Name: "pool", Run: pool.run, Ready: true},
			{Name: "redis", Run: shared.run, Criticality: health.Critical},
			{Name: "migrations", Run: migrated.run, Startup: true},
		}})
		want := func(startup, ready, monitor int) {
			t.Helper()
			wantCode(t, get(a.Handler(health.Startup), "/startupz"), startup)
			wantCode(t, get(a.Handler(health.Ready), "/readyz"), ready)
			wantCode(t, get(a.Handler(health.Monitor), "/health"), monitor)
			sleep(time.Second)
		}
		want(503, 503, 503)
		migrated.err = nil
		want(200, 200, 200)
		migrated.err = errBoom // it has come up once
		want(200, 200, 503)
		migrated.err, shared.err = nil, errBoom // what others haven't either
		want(200, 200, 503)
		shared.err, pool.err = nil, health.Degraded(errBoom)
		want(200, 200, 503)
		pool.err = errBoom
		want(200, 503, 503)
		pool.err = nil
		a.SetDraining(true)
		want(200, 503, 200)
		a.SetDraining(false)
		want(200, 200, 200)
	})
}

// An instance whose startup nobody asked for becomes ready all the same, and
// one with a periodic check that never ran doesn't.
func TestReadyWithoutStartupProbe(t *testing.T) {
	t.Parallel()
	a := newAggregator(t, one(health.Check{Name: "migrations", Run: ok, Startup: true}))
	wantCode(t, get(a.Handler(health.Ready), "/readyz"), 200)
	a = newAggregator(t, one(health.Check{Name: "audit", Run: ok, Startup: true, Interval: time.Minute}))
	wantCode(t, get(a.Handler(health.Ready), "/readyz"), 503)
	wantCode(t, get(a.Handler(health.Startup), "/startupz"), 503)
	a = newAggregator(t, one(health.Check{Name: "pool", Run: ok, Ready: true, Interval: time.Minute}))
	wantCode(t, get(a.Handler(health.Ready), "/readyz"), 503)
}

func TestReadyDetailIsTheOperators(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.SetDraining(true)
	for credential, want := range map[string]map[string]string{"": nil, "a": nil, "operator": {"draining": "down"}} {
		w := get(s.mux, "/readyz", as(credential))
		wantCode(t, w, 503)
		wantChecks(t, decode(t, w), "down", want)
	}
}

func TestProfileNames(t *testing.T) {
	t.Parallel()
	for p, want := range map[health.Profile]string{health.Live: "live", health.Ready: "ready", health.Startup: "startup", health.Monitor: "monitor", 9: "Profile(9)"} {
		if got := p.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
