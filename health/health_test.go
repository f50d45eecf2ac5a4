package health_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpsaas/mcpsaas/health"
)

const (
	tenantA = "0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5b"
	tenantB = "0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5c"
)

var errBoom = errors.New("dial db.internal:5432 as app_user: boom")

func newAggregator(t testing.TB, opts health.Options) *health.Aggregator {
	t.Helper()
	a, err := health.New(&opts)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func one(c health.Check) health.Options { return health.Options{Checks: []health.Check{c}} }

func ok(context.Context) error { return nil }

func failing(context.Context) error { return errBoom }

// switchable is a check that fails when told to.
type switchable struct{ err error }

func (s *switchable) run(context.Context) error { return s.err }

// first is the only result of a probe.
func first(t testing.TB, a *health.Aggregator) health.Result {
	t.Helper()
	report := a.Probe(context.Background())
	if len(report.Checks) != 1 {
		t.Fatalf("got %d results, want 1", len(report.Checks))
	}
	return report.Checks[0]
}

func wantStatus(t testing.TB, got health.Result, status health.Status, class health.Class) {
	t.Helper()
	if got.Status != status || got.Class != class {
		t.Errorf("%s is %q, class %q; want %q, class %q", got.Name, got.Status, got.Class, status, class)
	}
}

func get(h http.Handler, target string, edit ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for _, f := range edit {
		f(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func wantCode(t testing.TB, w *httptest.ResponseRecorder, code int) {
	t.Helper()
	if w.Code != code {
		t.Errorf("answered %d %s, want %d", w.Code, w.Body, code)
	}
}

// goroutines waits until every goroutine of the bubble is idle, and counts
// those that are in code of the package.
func goroutines() int {
	synctest.Wait()
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	n := 0
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "/mcpsaas/health.") {
			n++
		}
	}
	return n
}

func sleep(d time.Duration) { time.Sleep(d) } // in synctest bubbles only: the clock is fake
