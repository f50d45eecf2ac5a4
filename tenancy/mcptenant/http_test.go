package mcptenant_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// guarded is Authenticate around a handler that answers with the tenant's id
// and the body's length.
type guarded struct {
	http.Handler
	keys *keys
	log  *bytes.Buffer
}

func guard(opts mcptenant.Options) *guarded {
	g := &guarded{keys: &keys{}, log: &bytes.Buffer{}}
	opts.Logger = slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	g.Handler = mcptenant.Authenticate(g.keys, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		info := auth.TokenInfoFromContext(r.Context())
		t, ok := mcptenant.FromTokenInfo(info)
		if !ok || info.UserID != t.ID.String()+"/"+t.Subject {
			http.Error(w, "no tenant", http.StatusTeapot)
			return
		}
		w.Header().Set("X-Tenant", t.ID.String())
		w.Write(body)
	}), &opts)
	return g
}

func (g *guarded) send(r *http.Request) answer {
	rec := httptest.NewRecorder()
	g.ServeHTTP(rec, r)
	return answer{rec.Code, rec.Header(), rec.Body.String()}
}

func request(method, target, body string, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	g := guard(mcptenant.Options{Scopes: []string{"mcp"}, FailuresPerMinute: 1000})
	a := g.keys.add("good")
	const meta = `resource_metadata="http://example.com/.well-known/oauth-protected-resource/mcp"`
	for _, tc := range []struct {
		name      string
		target    string
		header    []string
		status    int
		presented bool
	}{
		{"good", "/mcp", []string{"Authorization", "Bearer good"}, 200, true},
		{"scheme in another case", "/mcp", []string{"Authorization", "bEARER  good "}, 200, true},
		{"none", "/mcp", nil, 401, false},
		{"empty", "/mcp", []string{"Authorization", ""}, 401, true},
		{"scheme alone", "/mcp", []string{"Authorization", "Bearer"}, 401, true},
		{"scheme and space", "/mcp", []string{"Authorization", "Bearer "}, 401, true},
		{"other scheme", "/mcp", []string{"Authorization", "Basic good"}, 401, true},
		{"two words", "/mcp", []string{"Authorization", "Bearer good good"}, 401, true},
		{"two headers", "/mcp", []string{"Authorization", "Bearer good", "Authorization", "Bearer good"}, 401, true},
		{"two in one", "/mcp", []string{"Authorization", "Bearer good, Bearer good"}, 401, true},
		{"unknown", "/mcp", []string{"Authorization", "Bearer bad"}, 401, true},
		{"odd bytes", "/mcp", []string{"Authorization", "Bearer go\x00od"}, 401, true},
		{"1 MB", "/mcp", []string{"Authorization", "Bearer " + strings.Repeat("a", 1<<20)}, 401, true},
		{"in the query", "/mcp?access_token=good&key=good", nil, 401, false},
		{"in the query too", "/mcp?access_token=good", []string{"Authorization", "Bearer good"}, 401, true},
		{"odd query", "/mcp?a=%zz;b", []string{"Authorization", "Bearer good"}, 200, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := g.send(request("POST", tc.target, "{}", tc.header...))
			require.Equal(t, tc.status, got.status, got.body)
			if tc.status == 200 {
				require.Equal(t, a.ID.String(), got.header.Get("X-Tenant"))
				return
			}
			challenge := got.header.Get("WWW-Authenticate")
			require.Contains(t, challenge, meta)
			require.Contains(t, challenge, `scope="mcp"`)
			require.Equal(t, tc.presented, strings.Contains(challenge, `error="invalid_token"`))
			require.NotContains(t, got.body, "secret detail")
			require.NotContains(t, got.body, "good")
			require.Less(t, len(got.body), 200)
			require.Empty(t, got.header.Get("X-Tenant"))
		})
	}
	require.NotContains(t, g.log.String(), "good")
	require.NotContains(t, g.log.String(), "bad")
}

func TestMetadataURL(t *testing.T) {
	t.Parallel()
	g := guard(mcptenant.Options{ResourceMetadataURL: "https://api.example.com/.well-known/oauth-protected-resource/mcp"})
	got := g.send(request("POST", "/mcp", ""))
	require.Equal(t, `Bearer realm="mcp", resource_metadata="https://api.example.com/.well-known/oauth-protected-resource/mcp"`, got.header.Get("WWW-Authenticate"))

	g = guard(mcptenant.Options{})
	r := request("POST", "https://example.com/mcp", "")
	require.Contains(t, g.send(r).header.Get("WWW-Authenticate"), `"https://example.com/.well-known/oauth-protected-resource/mcp"`)
	r.Host = `evil" injected="`
	require.Equal(t, `Bearer realm="mcp"`, g.send(r).header.Get("WWW-Authenticate"))
}

func TestTroubleInJudgingIsNoRefusal(t *testing.T) {
	t.Parallel()
	g := guard(mcptenant.Options{})
	g.keys.add("good")
	g.keys.fail(errors.New("failed to connect to user=app_user database=prod: 10.0.3.17:5432"))
	for range 20 {
		got := g.send(request("POST", "/mcp", "{}", "Authorization", "Bearer good"))
		require.Equal(t, http.StatusServiceUnavailable, got.status, "never counted as a failure")
		require.NotEmpty(t, got.header.Get("Retry-After"))
		require.NotContains(t, got.body, "app_user")
		require.NotContains(t, got.body, "10.0")
	}
	require.Contains(t, g.log.String(), "10.0.3.17", "the log has it")

	g.keys.fail(nil)
	g.keys.set("nobody", tenant.Tenant{Status: tenant.Active})
	require.Equal(t, http.StatusServiceUnavailable, g.send(request("POST", "/mcp", "{}", "Authorization", "Bearer nobody")).status)
}

// Mutations seen by this test: a good credential counted, the answer given
// before the credential is judged.
func TestFailuresAreLimitedPerAddress(t *testing.T) {
	t.Parallel()
	now := time.Now()
	g := guard(mcptenant.Options{
		Now:            func() time.Time { return now },
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	})
	g.keys.add("good")
	from := func(addr, token string, forwarded ...string) answer {
		r := request("POST", "/mcp", "{}")
		r.RemoteAddr = addr
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		for _, f := range forwarded {
			r.Header.Add("X-Forwarded-For", f)
		}
		return g.send(r)
	}
	const home = "192.0.2.1:1234"
	for range 10 {
		require.Equal(t, 401, from(home, "bad").status)
		require.Equal(t, 200, from(home, "good").status)
	}
	got := from(home, "bad")
	require.Equal(t, 429, got.status)
	after, err := strconv.Atoi(got.header.Get("Retry-After"))
	require.NoError(t, err)
	require.Equal(t, 6, after)
	require.Equal(t, 200, from(home, "good").status, "a good credential is always served")
	require.Equal(t, 401, from(home, "").status, "no credential is no attempt")
	require.Equal(t, 401, from("192.0.2.2:1234", "bad").status, "another address has its own")
	require.Equal(t, 429, from("[::ffff:192.0.2.1]:99", "bad").status, "the same address, written otherwise")
	require.Equal(t, 429, from(home, "bad", "198.51.100.7").status, "a stranger's X-Forwarded-For is not believed")
	require.Equal(t, 401, from("10.1.1.1:1", "bad", "192.0.2.1, 198.51.100.7, 10.2.2.2").status)
	require.Equal(t, 429, from("10.1.1.1:1", "bad", "198.51.100.7", "192.0.2.1, 10.2.2.2").status)
	require.Equal(t, 401, from("10.1.1.1:1", "bad", "192.0.2.1, junk").status)

	for i := range 10 {
		require.Equal(t, 401, from("[2001:db8::"+strconv.Itoa(i)+"]:1", "bad").status)
	}
	require.Equal(t, 429, from("[2001:db8::ffff]:1", "bad").status, "a /64 is one client")
	require.Equal(t, 401, from("[2001:db8:0:1::1]:1", "bad").status)

	now = now.Add(6 * time.Second)
	require.Equal(t, 401, from(home, "bad").status)
	require.Equal(t, 429, from(home, "bad").status)
	now = now.Add(time.Hour)
	for range 10 {
		require.Equal(t, 401, from(home, "bad").status)
	}
	require.Equal(t, 429, from(home, "bad").status)
}

func TestFailureLimitHoldsAgainstManyAddresses(t *testing.T) {
	t.Parallel()
	now := time.Now()
	g := guard(mcptenant.Options{Now: func() time.Time { return now }})
	g.keys.add("good")
	limited := 0
	for i := range 9_000 {
		r := request("POST", "/mcp", "", "Authorization", "Bearer bad")
		r.RemoteAddr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)}), 1).String()
		if g.send(r).status == 429 {
			limited++
		}
	}
	require.Equal(t, 9_000-8192-10, limited, "addresses beyond the bound share one allowance")
	r := request("POST", "/mcp", "", "Authorization", "Bearer good")
	r.RemoteAddr = "100.0.255.255:1"
	require.Equal(t, 200, g.send(r).status)
	now = now.Add(time.Minute)
	r = request("POST", "/mcp", "", "Authorization", "Bearer bad")
	r.RemoteAddr = "100.1.255.255:1"
	require.Equal(t, 401, g.send(r).status, "the old ones are forgiven")
}

func TestBodies(t *testing.T) {
	t.Parallel()
	g := guard(mcptenant.Options{MaxBodyBytes: 1000})
	g.keys.add("good")
	for _, tc := range []struct {
		name, body string
		status     int
		says       string
	}{
		{"plain", `{"a":1}`, 200, `{"a":1}`},
		{"empty", ``, 200, ``},
		{"white space", " \r\n\t {}", 200, `{}`},
		{"as large as may be", `{` + strings.Repeat("a", 999), 200, `{aaa`},
		{"one byte more", `{` + strings.Repeat("a", 1000), 413, "request_too_large"},
		{"batch", `[{"jsonrpc":"2.0"}]`, 400, "batches are not accepted"},
		{"batch after white space", "\n\t [", 400, "batches are not accepted"},
		{"empty batch", "[]", 400, "batches are not accepted"},
		{"white space without end", strings.Repeat(" ", 900) + "[", 400, "white space"},
		{"white space alone", "   ", 200, ""},
	} {
		for _, chunked := range []bool{false, true} {
			t.Run(tc.name+" chunked="+strconv.FormatBool(chunked), func(t *testing.T) {
				r := request("POST", "/mcp", tc.body, "Authorization", "Bearer good")
				if chunked {
					r.ContentLength = -1
					r.Body = io.NopCloser(oneByte{strings.NewReader(tc.body)})
				}
				got := g.send(r)
				require.Equal(t, tc.status, got.status, got.body)
				if chunked && tc.status == 413 {
					return // the inner handler found out, as the SDK does
				}
				require.Contains(t, got.body, tc.says)
			})
		}
	}
	r := request("POST", "/mcp", "", "Authorization", "Bearer good")
	r.Body = io.NopCloser(broken{})
	r.ContentLength = -1
	require.Equal(t, 400, g.send(r).status)
}

type oneByte struct{ io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.Reader.Read(p[:1]) }

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func TestLargeBodyOverHTTP(t *testing.T) {
	t.Parallel()
	for _, stateful := range []bool{false, true} {
		w := open(t, config{stateful: stateful})
		w.keys.add("a")
		body := toolCall("whoami", `{"text":"`+strings.Repeat("x", 5<<20)+`"}`)
		require.Equal(t, 413, w.post(t, "a", body).status)
		require.Equal(t, 400, w.post(t, "a", `[`+toolCall("whoami", "{}")+`]`).status)
		require.Zero(t, w.runs.Load())
	}
}

func TestOrigins(t *testing.T) {
	t.Parallel()
	g := guard(mcptenant.Options{TrustedOrigins: []string{"https://app.example.org"}})
	g.keys.add("good")
	for _, tc := range []struct {
		name   string
		header []string
		status int
	}{
		{"a program", nil, 200},
		{"own page", []string{"Origin", "http://example.com"}, 200},
		{"trusted page", []string{"Origin", "https://app.example.org"}, 200},
		{"foreign page", []string{"Origin", "https://evil.example"}, 403},
		{"sandboxed page", []string{"Origin", "null"}, 403},
		{"cross-site by its own account", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"same-origin by its own account", []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://example.com"}, 200},
	} {
		for _, method := range []string{"POST", "GET", "DELETE"} {
			t.Run(tc.name+" "+method, func(t *testing.T) {
				header := append([]string{"Authorization", "Bearer good"}, tc.header...)
				require.Equal(t, tc.status, g.send(request(method, "/mcp", "", header...)).status)
			})
		}
	}
}

func TestWrongOptionsPanicByName(t *testing.T) {
	t.Parallel()
	next := http.NotFoundHandler()
	for name, f := range map[string]func(){
		"keys":               func() { mcptenant.Authenticate(nil, next, nil) },
		"next":               func() { mcptenant.Authenticate(&keys{}, nil, nil) },
		"MaxBodyBytes":       func() { mcptenant.Authenticate(&keys{}, next, &mcptenant.Options{MaxBodyBytes: -1}) },
		"BodyTimeout":        func() { mcptenant.Authenticate(&keys{}, next, &mcptenant.Options{BodyTimeout: -1}) },
		"TrustedOrigins":     func() { mcptenant.Authenticate(&keys{}, next, &mcptenant.Options{TrustedOrigins: []string{"x"}}) },
		"MaxConcurrent":      func() { mcptenant.Middleware(&mcptenant.MiddlewareOptions{MaxConcurrent: -1}) },
		"ProtectedResource":  func() { mcptenant.ProtectedResource(&oauthex.ProtectedResourceMetadata{Resource: "/mcp"}) },
		"ProtectedResource:": func() { mcptenant.ProtectedResource(&oauthex.ProtectedResourceMetadata{Resource: "https://a/b#c"}) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() { require.Contains(t, recover(), name) }()
			f()
		})
	}
}

func TestProtectedResource(t *testing.T) {
	t.Parallel()
	h := mcptenant.ProtectedResource(&oauthex.ProtectedResourceMetadata{
		Resource: "https://api.example.com/mcp", AuthorizationServers: []string{"https://login.example.com"},
	})
	for path, status := range map[string]int{
		"/.well-known/oauth-protected-resource":       200,
		"/.well-known/oauth-protected-resource/mcp":   200,
		"/.well-known/oauth-protected-resource/other": 404,
		"/mcp": 404,
	} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		require.Equal(t, status, rec.Code, path)
		if status == 200 {
			require.JSONEq(t, `{"resource":"https://api.example.com/mcp","authorization_servers":["https://login.example.com"],"bearer_methods_supported":["header"]}`, rec.Body.String())
		}
	}
}

func TestGuardUnderConcurrency(t *testing.T) {
	t.Parallel()
	g := guard(mcptenant.Options{})
	a := g.keys.add("good")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 200 {
				if i%2 == 0 {
					if got := g.send(request("POST", "/mcp", "{}", "Authorization", "Bearer bad")); got.status != 401 && got.status != 429 {
						t.Errorf("bad: %d", got.status)
					}
				} else if got := g.send(request("POST", "/mcp", "{}", "Authorization", "Bearer good")); got.header.Get("X-Tenant") != a.ID.String() {
					t.Errorf("good: %d", got.status)
				}
			}
		})
	}
	wg.Wait()
}
