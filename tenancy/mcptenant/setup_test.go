package mcptenant_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// keys is an Authenticator that a test writes by hand.
type keys struct {
	mu     sync.Mutex
	tokens map[string]tenant.Tenant
	broken error // answered to everyone
	asked  atomic.Int64
}

func (k *keys) Authenticate(_ context.Context, token string) (tenant.Tenant, error) {
	k.asked.Add(1)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.broken != nil {
		return tenant.Tenant{}, k.broken
	}
	t, ok := k.tokens[token]
	if !ok {
		return tenant.Tenant{}, fmt.Errorf("secret detail of %s: %w", token, tenant.ErrUnauthenticated)
	}
	return t, nil
}

func (k *keys) set(token string, t tenant.Tenant) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tokens = maps.Clone(k.tokens)
	if k.tokens == nil {
		k.tokens = make(map[string]tenant.Tenant)
	}
	k.tokens[token] = t
}

func (k *keys) remove(token string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tokens = maps.Clone(k.tokens)
	delete(k.tokens, token)
}

func (k *keys) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.broken = err
}

// add makes an active tenant with a key to everything.
func (k *keys) add(token string, scopes ...string) tenant.Tenant {
	if len(scopes) == 0 {
		scopes = []string{tenant.ScopeTools}
	}
	t := tenant.Tenant{ID: tenant.NewID(), Plan: tenant.Pro, Status: tenant.Active, Subject: "key-" + token, Scopes: scopes}
	k.set(token, t)
	return t
}

const secretText = `ERROR: relation "invoices" does not exist (SQLSTATE 42P01) host=db-7.internal`

type in struct {
	Text  string    `json:"text,omitempty"`
	Count int64     `json:"count,omitempty"`
	When  time.Time `json:"when,omitzero"`
	List  []string  `json:"list,omitempty"`
}

type out struct {
	Tenant string `json:"tenant"`
	Text   string `json:"text"`
}

// world is one server over HTTP with everything under test around it.
type world struct {
	keys    *keys
	server  *mcp.Server
	url     string
	runs    atomic.Int64 // how often a handler ran
	inner   atomic.Int64 // how many calls and reads an inner middleware saw
	release chan struct{}
	started chan struct{} // one value for each call of the tool "wait"
	mu      sync.Mutex
	faults  []mcptenant.Fault
}

type config struct {
	stateful   bool
	middleware mcptenant.MiddlewareOptions
	http       mcptenant.Options
	server     *mcp.ServerOptions
	between    func(http.Handler) http.Handler // between Authenticate and the SDK
}

func open(t testing.TB, c config) *world {
	t.Helper()
	w := &world{keys: &keys{}, release: make(chan struct{}), started: make(chan struct{}, 10_000)}
	c.middleware.OnFault = func(_ context.Context, f mcptenant.Fault) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.faults = append(w.faults, f)
	}
	w.server = mcp.NewServer(&mcp.Implementation{Name: "test", Version: "v1"}, mcptenant.ServerOptions(c.server))
	// Inside of ours stands what metering would be.
	w.server.AddReceivingMiddleware(mcptenant.Middleware(&c.middleware), func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			if method == "tools/call" || method == "resources/read" {
				w.inner.Add(1)
			}
			return next(ctx, method, req)
		}
	})
	w.tools()
	var h http.Handler = mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return w.server },
		&mcp.StreamableHTTPOptions{Stateless: !c.stateful, PropagateRequestCancellation: true})
	if c.between != nil {
		h = c.between(h)
	}
	mux := http.NewServeMux()
	mux.Handle("/mcp", mcptenant.Authenticate(w.keys, h, &c.http))
	srv := httptest.NewUnstartedServer(mux)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.Start()
	t.Cleanup(srv.Close)
	t.Cleanup(srv.CloseClientConnections)
	w.url = srv.URL + "/mcp"
	return w
}

func (w *world) tools() {
	add := func(name string, h func(ctx context.Context, in in) (out, error)) {
		mcp.AddTool(w.server, &mcp.Tool{Name: name}, func(ctx context.Context, _ *mcp.CallToolRequest, in in) (*mcp.CallToolResult, out, error) {
			w.runs.Add(1)
			o, err := h(ctx, in)
			if t, ok := tenant.FromContext(ctx); ok {
				o.Tenant = t.ID.String()
			}
			return nil, o, err
		})
	}
	add("whoami", func(_ context.Context, in in) (out, error) { return out{Text: in.Text}, nil })
	add("health_check", func(context.Context, in) (out, error) { return out{Text: "fine"}, nil })
	add("panic", func(_ context.Context, in in) (out, error) { panic("secret of the handler " + in.Text) })
	add("fail", func(context.Context, in) (out, error) { return out{}, errors.New(secretText) })
	add("passing", func(context.Context, in) (out, error) {
		return out{}, fmt.Errorf("%s: %w", secretText, tenancy.ErrMoved)
	})
	add("user_error", func(_ context.Context, in in) (out, error) {
		return out{}, fmt.Errorf("searching on db-7.internal: %w", mcptenant.UserError("no product %q", in.Text))
	})
	add("wait", func(ctx context.Context, _ in) (out, error) {
		w.started <- struct{}{}
		select {
		case <-w.release:
			return out{Text: "released"}, nil
		case <-ctx.Done():
			return out{}, fmt.Errorf("%s: %w", secretText, ctx.Err())
		}
	})
	w.server.AddTool(&mcp.Tool{Name: "raw", InputSchema: map[string]any{"type": "object"}},
		func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return nil, errors.New(secretText)
		})
	w.server.AddResource(&mcp.Resource{URI: "data://mine", Name: "mine"}, func(ctx context.Context, r *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		t, _ := tenant.FromContext(ctx)
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: r.Params.URI, Text: t.ID.String()}}}, nil
	})
	w.server.AddResource(&mcp.Resource{URI: "data://broken", Name: "broken"}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		return nil, errors.New(secretText)
	})
	w.server.AddPrompt(&mcp.Prompt{Name: "greet"}, func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		panic("secret of the prompt")
	})
}

func (w *world) seen() []mcptenant.Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]mcptenant.Fault(nil), w.faults...)
}

// bearer adds a token to each request. The token may be changed.
type bearer struct{ token atomic.Pointer[string] }

func as(token string) *bearer {
	b := &bearer{}
	b.token.Store(&token)
	return b
}

func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+*b.token.Load())
	return http.DefaultTransport.RoundTrip(r)
}

// connect opens a session of the SDK's client. An empty version is the newest
// that the server serves.
func (w *world) connect(t testing.TB, b *bearer, version string) *mcp.ClientSession {
	t.Helper()
	client := mcp.NewClient(&mcp.Implementation{Name: "client", Version: "v1"}, nil)
	session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{
		Endpoint: w.url, HTTPClient: &http.Client{Transport: b}, MaxRetries: -1,
	}, &mcp.ClientSessionOptions{ProtocolVersion: version})
	require.NoError(t, err)
	t.Cleanup(func() { session.Close() })
	return session
}

// call calls a tool and returns the text of its result.
func call(ctx context.Context, s *mcp.ClientSession, tool string, args any) (text string, isError bool, err error) {
	res, err := s.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		return "", false, err
	}
	for _, c := range res.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			text += t.Text
		}
	}
	return text, res.IsError, nil
}

// answer is what came back over HTTP.
type answer struct {
	status int
	header http.Header
	body   string
}

// post sends a body as it is.
func (w *world) post(t testing.TB, token, body string, header ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url, strings.NewReader(body))
	require.NoError(t, err)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return do(t, r)
}

func do(t testing.TB, r *http.Request) answer {
	t.Helper()
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res.StatusCode, res.Header, string(text)}
}

func toolCall(tool, arguments string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":%s}}`, tool, arguments)
}

// eachMode runs f in both modes at the oldest and the newest revision that the
// mode serves.
func eachMode(t *testing.T, c config, f func(t *testing.T, w *world, version string)) {
	t.Helper()
	for _, mode := range []struct {
		name     string
		stateful bool
		newest   string
	}{{"stateless", false, "2026-07-28"}, {"stateful", true, "2025-11-25"}} {
		for _, version := range []string{"2024-11-05", mode.newest} {
			t.Run(mode.name+" "+version, func(t *testing.T) {
				t.Parallel()
				c := c
				c.stateful = mode.stateful
				f(t, open(t, c), version)
			})
		}
	}
}
