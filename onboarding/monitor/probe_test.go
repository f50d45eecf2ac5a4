package monitor_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/onboarding/monitor"
	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const key = "secret-key-of-a-tenant"

// serve starts a server as a product would have it; wrap may spoil it.
func serve(t *testing.T, stateless bool, wrap func(http.Handler) http.Handler) (url string) {
	t.Helper()
	server := mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "v1"}, mcptenant.ServerOptions(nil))
	server.AddReceivingMiddleware(mcptenant.Middleware(nil))
	type none struct{}
	mcp.AddTool(server, &mcp.Tool{Name: "health_check"}, func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, any, error) {
		return nil, map[string]string{"status": "ok"}, nil
	})
	keys := mcptenant.AuthenticatorFunc(func(_ context.Context, token string) (tenant.Tenant, error) {
		if token != key {
			return tenant.Tenant{}, tenant.ErrUnauthenticated
		}
		return tenant.Tenant{ID: tenant.MustParseID("0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5b"), Plan: tenant.Free,
			Status: tenant.Active, Subject: "probe", Scopes: []string{tenant.ScopeHealthRead}}, nil
	})
	mux := http.NewServeMux()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wrap != nil {
			wrap(mux).ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	url = web.URL + "/mcp"
	mux.Handle("/mcp", mcptenant.Authenticate(keys, mcp.NewStreamableHTTPHandler(
		func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{Stateless: stateless}), nil))
	mux.Handle(mcptenant.ResourceMetadataPath+"/", mcptenant.ProtectedResource(&oauthex.ProtectedResourceMetadata{Resource: url}))
	return url
}

func TestProbePasses(t *testing.T) {
	t.Parallel()
	for _, stateless := range []bool{true, false} {
		report, err := monitor.Probe(t.Context(), monitor.ProbeOptions{URL: serve(t, stateless, nil), Key: key})
		require.NoError(t, err)
		for _, c := range report.Checks {
			require.True(t, c.OK, "%+v", c)
		}
		require.Equal(t, monitor.Live, report.State)
		require.Len(t, report.Checks, 2+1+3+3)
		require.Len(t, report.Tools, 64)
	}
	// What the tools are doesn't depend on where they are served.
	one, err := monitor.Probe(t.Context(), monitor.ProbeOptions{URL: serve(t, true, nil), Key: key})
	require.NoError(t, err)
	two, err := monitor.Probe(t.Context(), monitor.ProbeOptions{URL: serve(t, false, nil), Key: key})
	require.NoError(t, err)
	require.Equal(t, one.Tools, two.Tools)

	report, err := monitor.Probe(t.Context(), monitor.ProbeOptions{URL: serve(t, true, nil)})
	require.NoError(t, err)
	require.Equal(t, monitor.Live, report.State)
	require.Len(t, report.Checks, 3)
}

// TestProbeSees breaks a server in each way that the probe is for.
func TestProbeSees(t *testing.T) {
	t.Parallel()
	anonymous := func(r *http.Request) bool { return r.Header.Get("Authorization") == "" && r.URL.Path == "/mcp" }
	instead := func(when func(*http.Request) bool, h http.HandlerFunc) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if when(r) {
					h(w, r)
					return
				}
				next.ServeHTTP(w, r)
			})
		}
	}
	for name, c := range map[string]struct {
		wrap  func(http.Handler) http.Handler
		key   string
		check string
		want  string
	}{
		"open to everyone": {instead(anonymous, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("{}")) }),
			key, "refused without a key", "answered 200, want 401"},
		"bare 401": {instead(anonymous, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }),
			key, "refused without a key", "bare"},
		"challenge without metadata": {instead(anonymous, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="x"`)
			w.WriteHeader(401)
		}), key, "refused without a key", "doesn't say where"},
		"metadata of another": {instead(func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, mcptenant.ResourceMetadataPath) },
			func(w http.ResponseWriter, _ *http.Request) {
				w.Write([]byte(`{"resource":"https://evil.example/mcp"}`))
			}),
			key, "resource metadata", "evil.example"},
		"metadata gone": {instead(func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, mcptenant.ResourceMetadataPath) },
			http.NotFound), key, "resource metadata", "answered 404"},
		"wrong key": {nil, "another-secret", "connect", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report, err := monitor.Probe(t.Context(), monitor.ProbeOptions{URL: serve(t, true, c.wrap), Key: c.key})
			require.NoError(t, err)
			require.Equal(t, monitor.Degraded, report.State)
			found := false
			for _, check := range report.Checks {
				if check.Name == c.check {
					require.False(t, check.OK, "%+v", check)
					require.Contains(t, check.Detail, c.want)
					found = true
				}
			}
			require.True(t, found)
			raw, err := json.Marshal(report)
			require.NoError(t, err)
			require.NotContains(t, string(raw), c.key)
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		web := httptest.NewServer(http.NotFoundHandler())
		web.Close()
		report, err := monitor.Probe(t.Context(), monitor.ProbeOptions{URL: web.URL, Key: key})
		require.NoError(t, err)
		require.Equal(t, monitor.Down, report.State)
	})
	t.Run("hangs", func(t *testing.T) {
		t.Parallel()
		url := serve(t, true, func(http.Handler) http.Handler {
			return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body) // the server watches the connection once the body is read
				<-r.Context().Done()
			})
		})
		report, err := monitor.Probe(t.Context(), monitor.ProbeOptions{URL: url, Key: key, Limit: 50 * time.Millisecond})
		require.NoError(t, err)
		require.Equal(t, monitor.Down, report.State)
	})
}

func TestProbeWantsAURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "mcp.example.com", "ftp://x/y", "/mcp", "http://"} {
		_, err := monitor.Probe(t.Context(), monitor.ProbeOptions{URL: url})
		require.ErrorContains(t, err, "ProbeOptions.URL", "%q", url)
	}
	_, err := monitor.Probe(t.Context(), monitor.ProbeOptions{URL: "http://localhost/mcp", Limit: -1})
	require.ErrorContains(t, err, "Limit")
}
