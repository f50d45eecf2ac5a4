package health_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/health"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	own := func(context.Context, string) error { return nil }
	tests := []struct {
		name string
		opts health.Options
		want string
	}{
		{"no name", one(health.Check{Run: ok}), `Checks[0].Name: ""`},
		{"bad name", one(health.Check{Name: "a b", Run: ok}), `Checks[0].Name: "a b"`},
		{"long name", one(health.Check{Name: strings.Repeat("a", 65), Run: ok}), `Checks[0].Name`},
		{"taken", health.Options{Checks: []health.Check{{Name: "a", Run: ok}}, TenantChecks: []health.TenantCheck{{Name: "a", Run: own}}}, `TenantChecks[0].Name: "a" is taken`},
		{"reserved", health.Options{TenantChecks: []health.TenantCheck{{Name: "platform", Run: own}}}, `TenantChecks[0].Name: "platform" is taken`},
		{"no run", one(health.Check{Name: "a"}), "Checks[0].Run: missing"},
		{"no tenant run", health.Options{TenantChecks: []health.TenantCheck{{Name: "a"}}}, "TenantChecks[0].Run: missing"},
		{"criticality", one(health.Check{Name: "a", Run: ok, Criticality: 7}), "Checks[0].Criticality: 7"},
		{"minor and ready", one(health.Check{Name: "a", Run: ok, Criticality: health.Minor, Ready: true}), "Checks[0].Criticality: minor"},
		{"timeout", one(health.Check{Name: "a", Run: ok, Timeout: -1}), "Checks[0].Timeout: -1ns"},
		{"long timeout", one(health.Check{Name: "a", Run: ok, Timeout: time.Minute}), "Checks[0].Timeout: 1m0s exceeds ProbeTimeout 2s"},
		{"short ttl", one(health.Check{Name: "a", Run: ok, TTL: 999 * time.Millisecond}), "Checks[0].TTL: 999ms"},
		{"short tenant ttl", health.Options{TenantChecks: []health.TenantCheck{{Name: "a", Run: own, TTL: 1}}}, "TenantChecks[0].TTL: 1ns"},
		{"interval", one(health.Check{Name: "a", Run: ok, Interval: -1}), "Checks[0].Interval: -1ns"},
		{"interval and ttl", one(health.Check{Name: "a", Run: ok, Interval: time.Minute, TTL: time.Second}), "Checks[0].TTL"},
		{"stale before due", one(health.Check{Name: "a", Run: ok, Interval: time.Minute, StaleAfter: time.Second}), "Checks[0].StaleAfter: 1s"},
		{"failures", one(health.Check{Name: "a", Run: ok, Failures: -1}), "Checks[0].Failures: -1"},
		{"probe timeout", health.Options{ProbeTimeout: -1}, "ProbeTimeout: -1ns"},
		{"concurrency", health.Options{TenantConcurrency: -1}, "TenantConcurrency: -1"},
		{"tenants", health.Options{MaxTenants: -1}, "MaxTenants: -1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, err := health.New(&tt.opts)
			if err == nil || !strings.Contains(err.Error(), tt.want) || a != nil {
				t.Errorf("got %v, %v; want an error with %q", a, err, tt.want)
			}
		})
	}
	_, err := health.New(&health.Options{ProbeTimeout: -1, MaxTenants: -1})
	if err == nil || !strings.Contains(err.Error(), "ProbeTimeout") || !strings.Contains(err.Error(), "MaxTenants") {
		t.Errorf("not every mistake is named: %v", err)
	}
}

func TestNewWithoutOptions(t *testing.T) {
	t.Parallel()
	a, err := health.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []health.Profile{health.Live, health.Ready, health.Startup, health.Monitor} {
		wantCode(t, get(a.Handler(p), "/"), 200)
	}
	if r, err := a.ProbeTenant(t.Context(), tenantA); err != nil || r.Status != health.StatusOK {
		t.Errorf("got %+v, %v", r, err)
	}
}

// The caller's slices stay the caller's.
func TestNewCopiesOptions(t *testing.T) {
	t.Parallel()
	opts := one(health.Check{Name: "a", Run: ok})
	a := newAggregator(t, opts)
	if opts.Checks[0].Timeout != 0 {
		t.Error("New filled in the caller's check")
	}
	opts.Checks[0] = health.Check{Name: "b", Run: failing, Ready: true}
	wantStatus(t, first(t, a), health.StatusOK, "")
}
