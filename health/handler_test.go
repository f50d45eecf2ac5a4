package health_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpsaas/mcpsaas/health"
)

// shop is an aggregator as a server has it, with an operator, the credentials
// of tenant A and one capability token of A.
type shop struct {
	*health.Aggregator
	mux   *http.ServeMux
	redis switchable
	own   map[string]error // by tenant
	ran   []string         // tenants that a check ran for
}

func newShop(t testing.TB) *shop {
	s := &shop{mux: http.NewServeMux(), own: map[string]error{}}
	s.Aggregator = newAggregator(t, health.Options{
		Checks: []health.Check{
			{Name: "redis", Run: func(ctx context.Context) error { return s.redis.run(ctx) }},
			{Name: "billing_webhook", Run: ok, Criticality: health.Minor},
		},
		TenantChecks: []health.TenantCheck{{Name: "rls_canary", Run: func(_ context.Context, id string) error {
			s.ran = append(s.ran, id)
			return s.own[id]
		}}},
		Authorize: func(r *http.Request) (health.Access, bool) {
			switch r.Header.Get("Authorization") {
			case "Bearer operator":
				return health.Access{Operator: true}, true
			case "Bearer a":
				return health.Access{TenantID: strings.ToUpper(tenantA)}, true
			case "Bearer broken":
				return health.Access{TenantID: "not-an-id"}, true
			case "Bearer nobody":
				return health.Access{}, true
			}
			return health.Access{Operator: true, TenantID: tenantA}, false
		},
		ResolveToken: func(token string) (string, bool) {
			switch token {
			case "token-of-a":
				return tenantA, true
			case "token-of-nothing":
				return "", true
			}
			return tenantA, false
		},
	})
	s.mux.Handle("GET /livez", s.Handler(health.Live))
	s.mux.Handle("GET /readyz", s.Handler(health.Ready))
	s.mux.Handle("/health", s.Handler(health.Monitor))
	s.mux.Handle("GET /health/t/{token}", s.TokenHandler())
	return s
}

func as(credential string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+credential) }
}

func from(addr string) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr = addr }
}

// wire is all of an answer that a stranger can compare.
func wire(w *httptest.ResponseRecorder) string {
	var b bytes.Buffer
	w.Result().Header.Write(&b)
	return fmt.Sprintf("%d\n%s\n%s", w.Code, &b, w.Body)
}

type answer struct {
	Status  string            `json:"status"`
	Checks  map[string]string `json:"checks"`
	Details map[string]struct {
		Status, Class, Criticality string
		Since, Time                time.Time
		DurationMS                 *float64 `json:"duration_ms"`
		Failures                   int
	} `json:"details"`
	TS string `json:"ts"`
}

func decode(t testing.TB, w *httptest.ResponseRecorder) answer {
	t.Helper()
	var a answer
	d := json.NewDecoder(w.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		t.Fatalf("%v in %s", err, w.Body)
	}
	return a
}

func wantChecks(t testing.TB, got answer, status string, checks map[string]string) {
	t.Helper()
	if got.Status != status || !maps.Equal(got.Checks, checks) {
		t.Errorf("got %s with %v, want %s with %v", got.Status, got.Checks, status, checks)
	}
}

func TestStrangerSeesOnlyTheStatus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		if got, want := get(s.mux, "/health").Body.String(), `{"status":"ok","ts":"2000-01-01T00:00:00Z"}`+"\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		s.redis.err = errBoom
		sleep(time.Second)
		w := get(s.mux, "/health")
		wantCode(t, w, 503)
		if got, want := w.Body.String(), `{"status":"degraded","ts":"2000-01-01T00:00:01Z"}`+"\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		for name, want := range map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store", "Retry-After": "5", "X-Content-Type-Options": "nosniff"} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	})
}

// Whatever a stranger asks for, and whatever it sends as a credential, it gets
// the same bytes, and no tenant's check runs.
//
// Mutation: 400 for a malformed id before access is known fails here, as does
// answering for a tenant without comparing it with the credential's.
func TestStrangersCannotTellTenantsApart(t *testing.T) {
	t.Parallel()
	for _, broken := range []error{nil, errBoom} {
		t.Run(fmt.Sprintf("platform=%v", broken == nil), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newShop(t)
				s.redis.err = broken
				s.own[tenantA] = errBoom // were it to show, it would show
				var asked []string
				for _, q := range []string{tenantA, tenantB, strings.ToUpper(tenantA), "", "x", "%00", "'%3B+drop+table+tenants%3B--", strings.Repeat("a", 5000), tenantA + "&tenant=" + tenantB, tenantA + "&verbose=1"} {
					asked = append(asked, "/health?tenant="+q)
				}
				asked = append(asked, "/health?full=1", "/health/t/unknown", "/health/t/token-of-nothing", "/health/t/"+strings.Repeat("a", 5000), "/health/t/unknown?tenant="+tenantA)
				credentials := []func(*http.Request){func(*http.Request) {}, as("wrong"), as("broken"), as("nobody")}
				i := 0
				for _, accept := range []string{"", "application/health+json"} {
					edit := func(r *http.Request) { r.Header.Set("Accept", accept) }
					want := wire(get(s.mux, "/health", edit))
					for _, target := range asked {
						for _, credential := range credentials {
							i++ // an address of its own: the limit isn't what is tested here
							got := wire(get(s.mux, target, edit, credential, from(fmt.Sprintf("10.0.%d.%d:1234", i/250, i%250))))
							if got != want {
								t.Errorf("%.80s is answered %s; without asking: %s", target, got, want)
							}
						}
					}
					i++
					if got := wire(get(s.mux, "/health?tenant="+tenantB, edit, as("a"), from(fmt.Sprintf("10.1.0.%d:1", i%250)))); got != want {
						t.Errorf("A asking for B is answered %s; a stranger: %s", got, want)
					}
				}
				if len(s.ran) != 0 {
					t.Errorf("checks ran for tenants %q", s.ran)
				}
			})
		})
	}
}

func TestOperatorSeesEverything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.redis.err = health.WithClass(errBoom, health.ClassRefused)
		w := get(s.mux, "/health", as("operator"))
		wantCode(t, w, 503)
		text := w.Body.String()
		got := decode(t, w)
		wantChecks(t, got, "degraded", map[string]string{"redis": "down", "billing_webhook": "ok"})
		redis := got.Details["redis"]
		if redis.Status != "down" || redis.Class != "refused" || redis.Criticality != "major" || redis.Failures != 1 || redis.DurationMS == nil || redis.Since.IsZero() || redis.Time.IsZero() {
			t.Errorf("details of redis: %+v", redis)
		}
		if got.Details["billing_webhook"].Criticality != "minor" {
			t.Errorf("details of billing_webhook: %+v", got.Details["billing_webhook"])
		}
		for _, secret := range []string{"boom", "db.internal", "5432", "app_user"} {
			if strings.Contains(text, secret) {
				t.Errorf("the text of an error is in the answer: %s", text)
			}
		}

		s.redis.err = nil
		s.own[tenantB] = errBoom
		sleep(time.Second)
		w = get(s.mux, "/health?tenant="+tenantA, as("operator"))
		wantCode(t, w, 200)
		wantChecks(t, decode(t, w), "ok", map[string]string{"redis": "ok", "billing_webhook": "ok", "rls_canary": "ok"})
		w = get(s.mux, "/health?tenant="+strings.ToUpper(tenantB), as("operator"))
		wantCode(t, w, 503)
		wantChecks(t, decode(t, w), "degraded", map[string]string{"redis": "ok", "billing_webhook": "ok", "rls_canary": "down"})
		wantCode(t, get(s.mux, "/health", as("operator")), 200) // one tenant's trouble isn't the platform's
	})
}

func TestTenantSeesItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.own[tenantB] = errBoom
		for _, ask := range []func() *httptest.ResponseRecorder{
			func() *httptest.ResponseRecorder { return get(s.mux, "/health", as("a")) },
			func() *httptest.ResponseRecorder { return get(s.mux, "/health?tenant="+tenantA, as("a")) },
			func() *httptest.ResponseRecorder {
				return get(s.mux, "/health?tenant="+strings.ToUpper(tenantA), as("a"))
			},
			func() *httptest.ResponseRecorder { return get(s.mux, "/health/t/token-of-a") },
			func() *httptest.ResponseRecorder { return get(s.mux, "/health/t/token-of-a?tenant="+tenantB) },
		} {
			s.redis.err, s.own[tenantA] = nil, nil
			sleep(10 * time.Second)
			w := ask()
			wantCode(t, w, 200)
			wantChecks(t, decode(t, w), "ok", map[string]string{"platform": "ok", "rls_canary": "ok"})

			s.own[tenantA] = errBoom
			sleep(10 * time.Second)
			w = ask()
			wantCode(t, w, 503)
			wantChecks(t, decode(t, w), "degraded", map[string]string{"platform": "ok", "rls_canary": "down"})

			s.redis.err, s.own[tenantA] = errBoom, nil
			sleep(10 * time.Second)
			w = ask()
			wantCode(t, w, 503)
			if strings.Contains(w.Body.String(), "redis") {
				t.Errorf("a tenant sees the platform's parts: %s", w.Body)
			}
			wantChecks(t, decode(t, w), "degraded", map[string]string{"platform": "degraded", "rls_canary": "ok"})
		}
		if slices.Contains(s.ran, tenantB) {
			t.Error("A's credential ran B's check")
		}
	})
}

func TestMalformedTenantIsNamedToWhoMayAsk(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for _, credential := range []string{"operator", "a"} {
		for query, want := range map[string]string{
			"tenant=x":       `{"error":"tenant: \"x\" is no UUID like 0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5b"}`,
			"tenant=":        `{"error":"tenant: \"\" is no UUID like 0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5b"}`,
			"tenant=a%00%3C": `{"error":"tenant: \"a\\x00\u003c\" is no UUID like 0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5b"}`,
			"tenant=" + tenantA + "&tenant=" + tenantB: `{"error":"tenant: given 2 times, want once"}`,
		} {
			w := get(s.mux, "/health?"+query, as(credential))
			wantCode(t, w, 400)
			if got := strings.TrimSpace(w.Body.String()); got != want {
				t.Errorf("%s: %s, want %s", query, got, want)
			}
		}
	}
	if w := get(s.mux, "/health?tenant="+strings.Repeat("y", 5000), as("operator")); w.Body.Len() > 200 {
		t.Errorf("a long id is echoed: %d bytes", w.Body.Len())
	}
	if len(s.ran) != 0 {
		t.Errorf("checks ran for %q", s.ran)
	}
}

func TestStrangersWhoSearchAreLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		ask := func(target, addr string, want int) *httptest.ResponseRecorder {
			t.Helper()
			w := get(s.mux, target, from(addr))
			wantCode(t, w, want)
			return w
		}
		for range 5 {
			ask("/health?tenant="+tenantA, "192.0.2.1:1000", 200)
		}
		w := ask("/health/t/unknown", "192.0.2.1:1001", 429)
		if got := w.Header().Get("Retry-After"); got != "1" {
			t.Errorf("Retry-After: %q, want 1", got)
		}
		if got := w.Header().Get("Cache-Control"); got != "no-store" {
			t.Errorf("Cache-Control: %q", got)
		}
		// Who asks for nothing, who may ask, and everybody else go on.
		for range 100 {
			ask("/health", "192.0.2.1:1000", 200)
			ask("/health/t/token-of-a", "192.0.2.1:1000", 200)
			wantCode(t, get(s.mux, "/health?tenant="+tenantA, from("192.0.2.1:1000"), as("operator")), 200)
		}
		ask("/health?tenant="+tenantA, "192.0.2.2:1000", 200)
		sleep(time.Second)
		ask("/health?tenant="+tenantA, "192.0.2.1:1000", 200)
		ask("/health?tenant="+tenantA, "192.0.2.1:1000", 429)
		sleep(time.Hour)
		for range 5 {
			ask("/health?tenant="+tenantA, "[::ffff:192.0.2.1]:1000", 200) // the same address
		}
		ask("/health?tenant="+tenantA, "192.0.2.1:1000", 429)

		for i := range 5 {
			ask("/health?tenant="+tenantA, fmt.Sprintf("[2001:db8::%x]:1", i), 200)
		}
		ask("/health?tenant="+tenantA, "[2001:db8::ffff]:1", 429) // a customer has all of a /64
		ask("/health?tenant="+tenantA, "[2001:db8:0:1::1]:1", 200)

		for range 5 {
			ask("/health?tenant="+tenantA, "@", 200) // a unix socket's peer
		}
		ask("/health?tenant="+tenantA, "somewhere", 429) // all that is no address counts as one
	})
}

func TestClientIPHook(t *testing.T) {
	t.Parallel()
	a := newAggregator(t, health.Options{ClientIP: func(r *http.Request) string { return r.Header.Get("X-Client") }})
	for i := range 20 {
		w := get(a.Handler(health.Monitor), "/health?tenant=x", func(r *http.Request) { r.Header.Set("X-Client", fmt.Sprintf("192.0.2.%d", i)) })
		wantCode(t, w, 200)
	}
}

func TestOnlyGetAndHead(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for _, h := range []http.Handler{s.Handler(health.Live), s.Handler(health.Ready), s.Handler(health.Startup), s.Handler(health.Monitor), s.TokenHandler()} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, "BREW"} {
			w := get(h, "/", func(r *http.Request) { r.Method = method })
			wantCode(t, w, 405)
			if got := w.Header().Get("Allow"); got != "GET, HEAD" {
				t.Errorf("Allow: %q", got)
			}
		}
		full := get(h, "/")
		head := get(h, "/", func(r *http.Request) { r.Method = http.MethodHead })
		if head.Code != full.Code || head.Body.Len() != 0 || head.Header().Get("Content-Length") != fmt.Sprint(full.Body.Len()) {
			t.Errorf("HEAD: %d, %q, Content-Length %s; GET: %d, %d bytes", head.Code, head.Body, head.Header().Get("Content-Length"), full.Code, full.Body.Len())
		}
	}
}

func TestHealthJSON(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		accept := func(value string) func(*http.Request) {
			return func(r *http.Request) { r.Header.Set("Accept", value) }
		}
		for value, want := range map[string]string{
			"":                                   "application/json",
			"*/*":                                "application/json",
			"application/json":                   "application/json",
			"application/health+json; q=0":       "application/json",
			"Application/Health+JSON":            "application/health+json",
			"text/html, application/health+json": "application/health+json",
			"application/health+json;q=0.5, */*": "application/health+json",
		} {
			if got := get(s.mux, "/health", accept(value)).Header().Get("Content-Type"); got != want {
				t.Errorf("Accept %q is answered with %q, want %q", value, got, want)
			}
		}
		if got, want := get(s.mux, "/health", accept("application/health+json")).Body.String(), `{"status":"pass","ts":"2000-01-01T00:00:00Z"}`+"\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		s.redis.err = health.Degraded(health.WithClass(errBoom, health.ClassQuery))
		sleep(time.Second)
		w := get(s.mux, "/health", accept("application/health+json"), as("operator"))
		wantCode(t, w, 503)
		want := `{"status":"fail","checks":{` +
			`"billing_webhook":[{"status":"pass","time":"2000-01-01T00:00:01Z","observedValue":0,"observedUnit":"ms"}],` +
			`"redis":[{"status":"warn","time":"2000-01-01T00:00:01Z","observedValue":0,"observedUnit":"ms","output":"query"}]},` +
			`"ts":"2000-01-01T00:00:01Z"}` + "\n"
		if got := w.Body.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// Degraded is ready, so the draft's word for it is one that goes with 200.
func TestHealthJSONOfReady(t *testing.T) {
	t.Parallel()
	s := switchable{health.Degraded(errBoom)}
	a := newAggregator(t, one(health.Check{Name: "pool", Run: s.run, Ready: true}))
	w := get(a.Handler(health.Ready), "/readyz", func(r *http.Request) { r.Header.Set("Accept", "application/health+json") })
	wantCode(t, w, 200)
	if !strings.HasPrefix(w.Body.String(), `{"status":"warn",`) {
		t.Errorf("got %s", w.Body)
	}
}

func TestUnknownProfilePanics(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("a handler of no profile was made")
		}
	}()
	newAggregator(t, health.Options{}).Handler(health.Profile(9))
}
