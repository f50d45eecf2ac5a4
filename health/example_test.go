package health_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"

	"github.com/mcpsaas/mcpsaas/health"
)

// An operator learns which check failed and how, a stranger that one did.
func Example() {
	checks, err := health.New(&health.Options{
		Checks: []health.Check{
			{Name: "redis", Run: func(ctx context.Context) error {
				return health.WithClass(errors.New("dial tcp 10.0.3.17:6379: connection refused"), health.ClassRefused)
			}},
			{Name: "billing_reporter", Run: func(ctx context.Context) error { return nil }},
		},
		Authorize: func(r *http.Request) (health.Access, bool) {
			return health.Access{Operator: true}, r.Header.Get("Authorization") == "Bearer operator"
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	mux := http.NewServeMux()
	mux.Handle("GET /livez", checks.Handler(health.Live))
	mux.Handle("GET /health", checks.Handler(health.Monitor))

	ts := regexp.MustCompile(`"ts":"[^"]*"`)
	for _, path := range []string{"/livez", "/health"} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		fmt.Print(w.Code, " ", ts.ReplaceAllString(w.Body.String(), `"ts":"..."`))
	}
	for _, r := range checks.Snapshot() {
		fmt.Println(r.Name, r.Status, r.Class)
	}
	// Output:
	// 200 {"status":"ok","ts":"..."}
	// 503 {"status":"degraded","ts":"..."}
	// redis down refused
	// billing_reporter ok
}

func ExampleDegraded() {
	backlog := 12_000
	checks, err := health.New(&health.Options{Checks: []health.Check{{
		Name: "usage_backlog",
		Run: func(ctx context.Context) error {
			if backlog > 10_000 { // nothing is lost yet
				return health.Degraded(fmt.Errorf("%d events wait to be reported", backlog))
			}
			return nil
		},
	}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(checks.Probe(context.Background()).Status)
	// Output: degraded
}
