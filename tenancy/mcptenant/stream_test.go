package mcptenant_test

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const listenMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"x","version":"1"}}`

// listen opens a subscriptions/listen stream and returns its lines. The channel
// closes with the stream.
func (w *world) listen(t *testing.T, token, notifications string) (lines chan string, status int) {
	t.Helper()
	body := `{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":` + notifications + `,` + listenMeta + `}}`
	r, err := http.NewRequestWithContext(t.Context(), "POST", w.url, strings.NewReader(body))
	require.NoError(t, err)
	for k, v := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen",
	} {
		r.Header.Set(k, v)
	}
	return w.stream(t, token, r)
}

func (w *world) stream(t *testing.T, token string, r *http.Request) (lines chan string, status int) {
	t.Helper()
	r.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	t.Cleanup(func() { res.Body.Close() })
	lines = make(chan string, 100)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(res.Body); s.Scan(); {
			if s.Text() != "" {
				lines <- s.Text()
			}
		}
	}()
	return lines, res.StatusCode
}

func waitFor(t *testing.T, lines chan string, part string) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("the stream ended without %q", part)
			}
			if strings.Contains(line, part) {
				return
			}
		case <-limit:
			t.Fatalf("the stream is open, without %q", part)
		}
	}
}

func ended(t *testing.T, lines chan string) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		select {
		case _, ok := <-lines:
			if !ok {
				return
			}
		case <-limit:
			t.Fatal("the stream is still open")
		}
	}
}

// subscribing is a server whose SubscribeHandler is as careless as the SDK
// invites it to be: on subscriptions/listen its request has no Extra.
func subscribing(careless bool, handled chan<- tenant.Tenant) *mcp.ServerOptions {
	return &mcp.ServerOptions{
		SubscribeHandler: func(ctx context.Context, r *mcp.SubscribeRequest) error {
			if careless {
				_ = r.Extra.TokenInfo.UserID
			}
			t, _ := tenant.FromContext(ctx)
			handled <- t
			return nil
		},
		UnsubscribeHandler: func(context.Context, *mcp.UnsubscribeRequest) error { return nil },
	}
}

func ownURI(_ context.Context, t tenant.Tenant, uri string) bool {
	return uri == "data://"+t.ID.String()
}

func TestListenIsGated(t *testing.T) {
	t.Parallel()
	handled := make(chan tenant.Tenant, 10)
	w := open(t, config{
		server:     subscribing(false, handled),
		middleware: mcptenant.MiddlewareOptions{Subscribe: ownURI, MaxStreams: 2},
	})
	a, b := w.keys.add("a"), w.keys.add("b")
	w.keys.add("canary", tenant.ScopeCanary)
	w.keys.add("one tool", "tool:whoami")

	own := `{"resourceSubscriptions":["data://` + a.ID.String() + `"]}`
	first, status := w.listen(t, "a", own)
	require.Equal(t, 200, status)
	waitFor(t, first, "subscriptions/acknowledged")
	require.Equal(t, a.ID, (<-handled).ID)

	lines, _ := w.listen(t, "a", `{"resourceSubscriptions":["data://`+b.ID.String()+`"]}`)
	waitFor(t, lines, "not found")
	lines, _ = w.listen(t, "canary", `{"toolsListChanged":true}`)
	waitFor(t, lines, "insufficient scope")

	second, _ := w.listen(t, "a", `{"toolsListChanged":true}`)
	waitFor(t, second, "subscriptions/acknowledged")
	third, _ := w.listen(t, "a", `{"toolsListChanged":true}`)
	waitFor(t, third, "too many open streams")
	foreign, _ := w.listen(t, "b", `{"toolsListChanged":true}`)
	waitFor(t, foreign, "subscriptions/acknowledged")

	// A's update reaches A alone.
	require.NoError(t, w.server.ResourceUpdated(t.Context(), &mcp.ResourceUpdatedNotificationParams{URI: "data://" + a.ID.String()}))
	waitFor(t, first, "notifications/resources/updated")

	// Revocation ends A's streams and leaves B's.
	w.keys.remove("a")
	ended(t, first)
	ended(t, second)
	select {
	case line, ok := <-foreign:
		require.True(t, ok, "B's stream ended with A's")
		require.NotContains(t, line, "resources/updated")
	default:
	}
	require.Empty(t, handled)
}

// Mutation seen by this test: receive without recover (the process dies).
func TestCarelessSubscribeHandlerKillsNothing(t *testing.T) {
	t.Parallel()
	handled := make(chan tenant.Tenant, 10)
	w := open(t, config{server: subscribing(true, handled), middleware: mcptenant.MiddlewareOptions{Subscribe: ownURI}})
	a := w.keys.add("a")
	lines, _ := w.listen(t, "a", `{"resourceSubscriptions":["data://`+a.ID.String()+`"]}`)
	waitFor(t, lines, "internal error (reference ")
	require.Equal(t, "panic", w.seen()[0].Class)
	require.Contains(t, w.post(t, "a", toolCall("whoami", "{}")).body, a.ID.String())
}

func TestSubscribeIsGatedInAStatefulSession(t *testing.T) {
	t.Parallel()
	for _, allowed := range []bool{false, true} {
		handled := make(chan tenant.Tenant, 10)
		c := config{stateful: true, server: subscribing(false, handled)}
		if allowed {
			c.middleware.Subscribe = ownURI
		}
		w := open(t, c)
		a, b := w.keys.add("a"), w.keys.add("b")
		s := w.connect(t, as("a"), "2025-11-25")
		err := s.Subscribe(t.Context(), &mcp.SubscribeParams{URI: "data://" + a.ID.String()})
		require.Equal(t, allowed, err == nil, err)
		err = s.Subscribe(t.Context(), &mcp.SubscribeParams{URI: "data://" + b.ID.String()})
		require.ErrorContains(t, err, "not found")
		if allowed {
			require.Equal(t, a.ID, (<-handled).ID)
		}
		require.Empty(t, handled)
	}
}

func TestGETStreamsAreBoundedAndEndWithTheKey(t *testing.T) {
	t.Parallel()
	w := open(t, config{stateful: true, http: mcptenant.Options{MaxStreams: 1}})
	w.keys.add("a")
	initialize := `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`
	get := func(session string) (chan string, int) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", w.url, nil)
		require.NoError(t, err)
		r.Header.Set("Accept", "text/event-stream")
		r.Header.Set("Mcp-Session-Id", session)
		return w.stream(t, "a", r)
	}
	first := w.post(t, "a", initialize).header.Get("Mcp-Session-Id")
	second := w.post(t, "a", initialize).header.Get("Mcp-Session-Id")
	require.NotEmpty(t, first)
	lines, status := get(first)
	require.Equal(t, 200, status)
	_, status = get(second)
	require.Equal(t, 429, status)
	w.keys.fail(errors.New("the database is away"))
	before := w.keys.asked.Load()
	require.Eventually(t, func() bool { return w.keys.asked.Load() > before }, 10*time.Second, time.Millisecond)
	select {
	case _, ok := <-lines:
		require.True(t, ok, "trouble in judging a key ended its stream")
	default:
	}
	w.keys.fail(nil)
	w.keys.remove("a")
	ended(t, lines)
}

// Without HTTP there is no token: the tenant is who the program says, or none.
func TestLocalTransport(t *testing.T) {
	t.Parallel()
	a := tenant.Tenant{ID: tenant.NewID(), Status: tenant.Active, Scopes: []string{tenant.ScopeTools}}
	for _, tc := range []struct {
		name  string
		local func(context.Context) (tenant.Tenant, error)
		ok    bool
	}{
		{"not set", nil, false},
		{"static", mcptenant.Static(a), true},
		{"static without a tenant", mcptenant.Static(tenant.Tenant{}), false},
		{"failing", func(context.Context) (tenant.Tenant, error) { return a, errors.New("no key in the environment") }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			server := mcp.NewServer(&mcp.Implementation{Name: "test", Version: "v1"}, mcptenant.ServerOptions(nil))
			server.AddReceivingMiddleware(mcptenant.Middleware(&mcptenant.MiddlewareOptions{Local: tc.local}))
			mcp.AddTool(server, &mcp.Tool{Name: "whoami"}, func(ctx context.Context, _ *mcp.CallToolRequest, _ any) (*mcp.CallToolResult, out, error) {
				t, _ := tenant.FromContext(ctx)
				return nil, out{Tenant: t.ID.String()}, nil
			})
			here, there := mcp.NewInMemoryTransports()
			ss, err := server.Connect(t.Context(), there, nil)
			require.NoError(t, err)
			t.Cleanup(func() { ss.Close() })
			cs, err := mcp.NewClient(&mcp.Implementation{Name: "client", Version: "v1"}, nil).Connect(t.Context(), here, nil)
			if !tc.ok {
				require.ErrorContains(t, err, "unauthenticated: ")
				return
			}
			require.NoError(t, err)
			t.Cleanup(func() { cs.Close() })
			text, _, err := call(t.Context(), cs, "whoami", nil)
			require.NoError(t, err)
			require.Contains(t, text, a.ID.String())
		})
	}
}

// Over HTTP a static tenant stands in for nobody: a forgotten Authenticate is
// noticed.
// Mutation seen by this test: caller without the look at Header.
func TestLocalNeverAnswersForHTTP(t *testing.T) {
	t.Parallel()
	a := tenant.Tenant{ID: tenant.NewID(), Status: tenant.Active, Scopes: []string{tenant.ScopeTools}}
	w := open(t, config{
		middleware: mcptenant.MiddlewareOptions{Local: mcptenant.Static(a)},
		between: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(rw, r.WithContext(context.Background())) // loses the token
			})
		},
	})
	w.keys.add("a")
	got := w.post(t, "a", toolCall("whoami", "{}"))
	require.Contains(t, got.body, "unauthenticated: ")
	require.Zero(t, w.runs.Load())
}
