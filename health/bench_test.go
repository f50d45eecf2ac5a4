package health_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/health"
)

// benchShop has six checks of the platform and two of tenants, all cached for
// longer than the benchmark runs.
func benchShop(b *testing.B) *health.Aggregator {
	opts := health.Options{Authorize: func(r *http.Request) (health.Access, bool) {
		return health.Access{Operator: true}, r.Header.Get("Authorization") != ""
	}}
	for i := range 6 {
		opts.Checks = append(opts.Checks, health.Check{Name: fmt.Sprintf("check%d", i), Run: ok, TTL: time.Hour, StaleAfter: time.Hour})
	}
	for i := range 2 {
		opts.TenantChecks = append(opts.TenantChecks, health.TenantCheck{Name: fmt.Sprintf("own%d", i), Run: func(context.Context, string) error { return nil }, TTL: time.Hour})
	}
	return newAggregator(b, opts)
}

func BenchmarkProbeCached(b *testing.B) {
	a := benchShop(b)
	b.ReportAllocs()
	for b.Loop() {
		a.Probe(b.Context())
	}
}

func BenchmarkProbeTenantCached(b *testing.B) {
	a := benchShop(b)
	b.ReportAllocs()
	for b.Loop() {
		a.ProbeTenant(b.Context(), tenantA)
	}
}

func BenchmarkHandlerCached(b *testing.B) {
	a := benchShop(b)
	for name, credential := range map[string]string{"stranger": "", "operator": "Bearer x"} {
		b.Run(name, func(b *testing.B) {
			h := a.Handler(health.Monitor)
			r := httptest.NewRequest("GET", "/health", nil)
			if credential != "" {
				r.Header.Set("Authorization", credential)
			}
			w := discard{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
	}
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
