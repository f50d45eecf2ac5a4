package mcptenant_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func TestCallKnowsItsTenant(t *testing.T) {
	t.Parallel()
	eachMode(t, config{}, func(t *testing.T, w *world, version string) {
		a, b := w.keys.add("a"), w.keys.add("b")
		for _, who := range []struct {
			token string
			t     tenant.Tenant
		}{{"a", a}, {"b", b}} {
			s := w.connect(t, as(who.token), version)
			require.Equal(t, version, s.InitializeResult().ProtocolVersion)
			text, isError, err := call(t.Context(), s, "whoami", map[string]any{"text": "x"})
			require.NoError(t, err)
			require.False(t, isError, text)
			require.JSONEq(t, fmt.Sprintf(`{"tenant":%q,"text":"x"}`, who.t.ID), text)

			res, err := s.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "data://mine"})
			require.NoError(t, err)
			require.Equal(t, who.t.ID.String(), res.Contents[0].Text)
		}
	})
}

func TestEveryRevisionIsServed(t *testing.T) {
	t.Parallel()
	w := open(t, config{})
	a := w.keys.add("a")
	for _, version := range mcp.SupportedProtocolVersions() {
		t.Run(version, func(t *testing.T) {
			s := w.connect(t, as("a"), version)
			require.Equal(t, version, s.InitializeResult().ProtocolVersion)
			text, _, err := call(t.Context(), s, "whoami", nil)
			require.NoError(t, err)
			require.Contains(t, text, a.ID.String())
		})
	}
}

// A's session with B's token. The SDK refuses it by UserID.
// Mutation seen by this test: UserID without the tenant, with equal subjects.
func TestForeignSessionIsRefused(t *testing.T) {
	t.Parallel()
	w := open(t, config{stateful: true})
	a, b := w.keys.add("a"), w.keys.add("b")
	a.Subject, b.Subject = "alice", "alice"
	w.keys.set("a", a)
	w.keys.set("b", b)
	s := w.connect(t, as("a"), "2025-06-18")
	for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
		r, err := http.NewRequestWithContext(t.Context(), method, w.url, strings.NewReader(toolCall("whoami", `{}`)))
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer b")
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json, text/event-stream")
		r.Header.Set("Mcp-Session-Id", s.ID())
		got := do(t, r)
		require.Equal(t, http.StatusForbidden, got.status, method)
	}
	require.Zero(t, w.runs.Load())
	_, _, err := call(t.Context(), s, "whoami", nil)
	require.NoError(t, err, "A's session lives on")
}

// The second line of defence: even where the SDK's own check is void, a call
// with B's token in A's session does not run.
// Mutation seen by this test: caller without the comparison with the opener.
func TestForeignSessionIsRefusedWithoutTheSDKsCheck(t *testing.T) {
	t.Parallel()
	w := open(t, config{stateful: true, between: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			auth.TokenInfoFromContext(r.Context()).UserID = ""
			next.ServeHTTP(rw, r)
		})
	}})
	w.keys.add("a")
	w.keys.add("b")
	s := w.connect(t, as("a"), "2025-06-18")
	for _, body := range []string{
		toolCall("whoami", `{}`),
		`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`,
		`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"data://mine"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"ping"}`,
	} {
		got := w.post(t, "b", body, "Mcp-Session-Id", s.ID())
		require.Equal(t, http.StatusOK, got.status)
		require.Contains(t, got.body, "unauthenticated: ")
		require.NotContains(t, got.body, `"result"`)
	}
	require.Zero(t, w.runs.Load())
}

// The tenant of a context is that of its call, through errors, cancellations
// and panics of others, in one process.
func TestInterleavedCallsKeepTheirTenants(t *testing.T) {
	t.Parallel()
	calls := 600
	if testing.Short() {
		calls = 200
	}
	eachMode(t, config{}, func(t *testing.T, w *world, version string) {
		w.keys.add("a")
		w.keys.add("b")
		var wg sync.WaitGroup
		var mine atomic.Int64
		for worker := range 8 {
			token := []string{"a", "b"}[worker%2]
			id := w.keys.tokens[token].ID.String()
			s := w.connect(t, as(token), version)
			wg.Go(func() {
				for i := range calls / 8 {
					switch (i + worker) % 5 {
					case 0:
						text, isError, err := call(t.Context(), s, "panic", nil)
						if err != nil || !isError || strings.Contains(text, "secret") {
							t.Errorf("panic: %q, %v", text, err)
						}
					case 1:
						text, isError, err := call(t.Context(), s, "fail", nil)
						if err != nil || !isError || strings.Contains(text, "SQLSTATE") {
							t.Errorf("fail: %q, %v", text, err)
						}
					case 2:
						ctx, cancel := context.WithCancel(t.Context())
						go cancel()
						call(ctx, s, "whoami", nil)
					default:
						text, isError, err := call(t.Context(), s, "whoami", nil)
						if err != nil || isError || !strings.Contains(text, id) {
							t.Errorf("whoami of %s: %q, %v", id, text, err)
						}
						mine.Add(1)
					}
				}
			})
		}
		wg.Wait()
		require.NotZero(t, mine.Load())
	})
}

func TestTokenOfTheCallCountsNotOfTheSession(t *testing.T) {
	t.Parallel()
	w := open(t, config{stateful: true})
	a := w.keys.add("a")
	s := w.connect(t, as("a"), "2025-11-25")
	_, isError, err := call(t.Context(), s, "whoami", nil)
	require.NoError(t, err)
	require.False(t, isError)

	a.Status = tenant.Suspended
	w.keys.set("a", a)
	text, isError, err := call(t.Context(), s, "whoami", nil)
	require.NoError(t, err)
	require.True(t, isError)
	require.Contains(t, text, "suspended: ")

	w.keys.remove("a") // revoked: the live session is refused
	_, _, err = call(t.Context(), s, "whoami", nil)
	require.Error(t, err)
	require.EqualValues(t, 1, w.runs.Load())
}

func TestStanding(t *testing.T) {
	t.Parallel()
	w := open(t, config{middleware: mcptenant.MiddlewareOptions{SupportURL: "https://example.com/billing"}})
	for _, tc := range []struct {
		status tenant.Status
		want   string // "" if served
	}{
		{tenant.Active, ""}, {tenant.Updating, ""}, {tenant.UpdateFailed, ""},
		{tenant.Suspended, "suspended: "}, {tenant.Provisioning, "provisioning: "}, {tenant.Requested, "provisioning: "},
		{tenant.DeprovisionScheduled, "closed: "}, {tenant.Deleted, "closed: "}, {"no such status", "closed: "},
	} {
		t.Run(string(tc.status), func(t *testing.T) {
			a := w.keys.add("a")
			a.Status = tc.status
			w.keys.set("a", a)
			s := w.connect(t, as("a"), "")
			before, inner := w.runs.Load(), w.inner.Load()
			_, err := s.ListTools(t.Context(), nil)
			require.NoError(t, err, "it may look")
			text, isError, err := call(t.Context(), s, "whoami", nil)
			require.NoError(t, err)
			_, resourceErr := s.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "data://mine"})
			if tc.want == "" {
				require.False(t, isError)
				require.NoError(t, resourceErr)
				require.Equal(t, before+1, w.runs.Load())
				return
			}
			require.True(t, isError)
			require.Contains(t, text, tc.want)
			require.Contains(t, text, "https://example.com/billing")
			require.ErrorContains(t, resourceErr, tc.want)
			require.Equal(t, before, w.runs.Load())
			require.Equal(t, inner, w.inner.Load(), "no middleware behind this one, such as metering, sees the call")
		})
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	all := []string{"fail", "health_check", "panic", "passing", "raw", "user_error", "wait", "whoami"}
	for _, tc := range []struct {
		name     string
		scopes   []string
		status   tenant.Status
		options  mcptenant.MiddlewareOptions
		sees     []string
		resource bool
	}{
		{name: "every tool", scopes: []string{tenant.ScopeTools}, sees: all, resource: true},
		{name: "one tool", scopes: []string{"tool:whoami"}, sees: []string{"whoami"}},
		{name: "health", scopes: []string{tenant.ScopeHealthRead}, sees: []string{"health_check"}},
		{name: "canary", scopes: []string{tenant.ScopeCanary}, sees: []string{"health_check"}},
		{name: "canary of a new tenant", scopes: []string{tenant.ScopeCanary}, status: tenant.Provisioning, sees: []string{"health_check"}},
		{name: "canary with more", scopes: []string{tenant.ScopeCanary, tenant.ScopeTools}, sees: []string{"health_check"}},
		{name: "other health tools", scopes: []string{tenant.ScopeCanary}, options: mcptenant.MiddlewareOptions{HealthTools: []string{"whoami"}}, sees: []string{"whoami"}},
		{name: "nothing", scopes: []string{"export"}},
		{
			name: "plan filter", scopes: []string{tenant.ScopeTools}, sees: []string{"whoami"}, resource: true,
			options: mcptenant.MiddlewareOptions{Tools: func(t tenant.Tenant, tool string) bool {
				return t.Plan == tenant.Pro && tool == "whoami"
			}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := open(t, config{middleware: tc.options})
			a := w.keys.add("a", tc.scopes...)
			if tc.status != "" {
				a.Status = tc.status
				w.keys.set("a", a)
			}
			s := w.connect(t, as("a"), "")
			list, err := s.ListTools(t.Context(), nil)
			require.NoError(t, err)
			var sees []string
			for _, tool := range list.Tools {
				sees = append(sees, tool.Name)
			}
			require.Equal(t, tc.sees, sees)

			// The list is the law: what it doesn't show is as if it didn't exist.
			_, _, unknown := call(t.Context(), s, "no_such_tool", nil)
			require.ErrorContains(t, unknown, "no_such_tool")
			for _, tool := range []string{"whoami", "health_check"} {
				before := w.runs.Load()
				_, _, err := call(t.Context(), s, tool, nil)
				if strings.Contains(strings.Join(tc.sees, " "), tool) {
					require.NoError(t, err)
					require.Equal(t, before+1, w.runs.Load())
					continue
				}
				require.Error(t, err)
				require.Equal(t, strings.ReplaceAll(unknown.Error(), "no_such_tool", tool), err.Error())
				require.Equal(t, before, w.runs.Load())
			}

			resources, err := s.ListResources(t.Context(), nil)
			require.NoError(t, err)
			require.Equal(t, tc.resource, len(resources.Resources) > 0)
			prompts, err := s.ListPrompts(t.Context(), nil)
			require.NoError(t, err)
			require.Equal(t, tc.resource, len(prompts.Prompts) > 0)
			_, err = s.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "data://mine"})
			require.Equal(t, tc.resource, err == nil, err)
		})
	}
}

func TestListsArePrivate(t *testing.T) {
	t.Parallel()
	header := []string{"Mcp-Protocol-Version", "2026-07-28"}
	meta := `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"x","version":"1"}}`
	methods := map[string]string{
		"tools/list": "", "prompts/list": "", "resources/list": "", "resources/templates/list": "",
		"server/discover": "", "resources/read": `"uri":"data://mine",`,
	}
	ask := func(t *testing.T, w *world, method, params string) answer {
		extra := []string{"Mcp-Method", method}
		if params != "" {
			extra = append(extra, "Mcp-Name", "data://mine")
		}
		return w.post(t, "a", `{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":{`+params+meta+`}}`, append(extra, header...)...)
	}
	w := open(t, config{})
	w.keys.add("a")
	for method, params := range methods {
		got := ask(t, w, method, params)
		require.Equal(t, http.StatusOK, got.status, got.body)
		require.Contains(t, got.body, `"cacheScope":"private"`, method)
		require.NotContains(t, got.body, `"public"`, method)
		require.NotContains(t, got.body, `"logging"`, method)
	}
	w = open(t, config{server: &mcp.ServerOptions{SetCacheable: func(_ context.Context, _ mcp.Request, c *mcp.Cacheable) { c.TTLMs = 7 }}})
	w.keys.add("a")
	got := ask(t, w, "tools/list", "")
	require.Contains(t, got.body, `"cacheScope":"private"`)
	require.Contains(t, got.body, `"ttlMs":7`)
}

func TestThousandPanics(t *testing.T) {
	t.Parallel()
	w := open(t, config{})
	a := w.keys.add("a")
	s := w.connect(t, as("a"), "")
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 100 {
				text, isError, err := call(t.Context(), s, "panic", nil)
				if err != nil || !isError || !strings.HasPrefix(text, "internal error (reference ") || strings.Contains(text, "secret") {
					t.Errorf("panic: %q, %v, %v", text, isError, err)
				}
			}
		})
	}
	wg.Wait()
	faults := w.seen()
	require.Len(t, faults, 1000)
	references := make(map[string]bool)
	for _, f := range faults {
		require.Equal(t, "panic", f.Class)
		require.Equal(t, a.ID, f.Tenant)
		require.Equal(t, "panic", f.Tool)
		require.ErrorContains(t, f.Err, "secret of the handler")
		references[f.Reference] = true
	}
	require.Len(t, references, 1000)

	_, err := s.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "greet"})
	require.ErrorContains(t, err, "internal error (reference ")
	require.NotContains(t, err.Error(), "secret")
	_, _, err = call(t.Context(), s, "whoami", nil)
	require.NoError(t, err)
}

// What decides on a call may panic as well as what runs it. Mutation: recovering
// only after the tenant is known ends the process.
func TestPanicBeforeTheTenantIsKnown(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]mcp.MethodHandler{
		"Local": mcptenant.Middleware(&mcptenant.MiddlewareOptions{
			Local: func(context.Context) (tenant.Tenant, error) { panic("secret") },
		})(nil),
		"no params": mcptenant.Middleware(&mcptenant.MiddlewareOptions{
			Local: mcptenant.Static(tenant.Tenant{ID: tenant.NewID(), Status: tenant.Active}),
		})(nil),
	} {
		t.Run(name, func(t *testing.T) {
			res, err := h(t.Context(), "tools/call", &mcp.CallToolRequest{})
			require.NoError(t, err)
			text := res.(*mcp.CallToolResult).Content[0].(*mcp.TextContent).Text
			require.Contains(t, text, "internal error (reference ")
			require.NotContains(t, text, "secret")
		})
	}
}

func TestErrorsAreHidden(t *testing.T) {
	t.Parallel()
	eachMode(t, config{}, func(t *testing.T, w *world, version string) {
		w.keys.add("a")
		s := w.connect(t, as("a"), version)
		for _, tc := range []struct {
			tool string
			args any
			want string // a part of the answer
		}{
			{"fail", nil, "internal error (reference "},
			{"passing", nil, "unavailable: "},
			{"user_error", map[string]any{"text": "x"}, `no product "x"`},
			{"whoami", map[string]any{"tenant_id": "someone else's"}, `invalid arguments: `},
			{"whoami", map[string]any{"text": 5}, `invalid arguments: `},
			{"whoami", map[string]any{"when": "yesterday"}, `invalid arguments: `},
		} {
			text, isError, err := call(t.Context(), s, tc.tool, tc.args)
			require.NoError(t, err, tc.want)
			require.True(t, isError, tc.want)
			require.Contains(t, text, tc.want)
			for _, leak := range []string{"SQLSTATE", "db-7", "invoices", "mcptenant"} {
				require.NotContains(t, text, leak)
			}
		}
		_, _, err := call(t.Context(), s, "raw", nil)
		require.ErrorContains(t, err, "internal error (reference ")
		require.NotContains(t, err.Error(), "SQLSTATE")
		_, err = s.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "data://broken"})
		require.ErrorContains(t, err, "internal error (reference ")
		require.NotContains(t, err.Error(), "SQLSTATE")
		_, err = s.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "data://none"})
		require.ErrorContains(t, err, "not found")

		faults := w.seen()
		require.Len(t, faults, 4, "one for each hidden error, none for the user's own")
		for _, f := range faults {
			require.ErrorContains(t, f.Err, "SQLSTATE 42P01", "the log has it all")
		}
	})
}

func TestCallTakesTooLong(t *testing.T) {
	t.Parallel()
	eachMode(t, config{middleware: mcptenant.MiddlewareOptions{Timeout: 50 * time.Millisecond}}, func(t *testing.T, w *world, version string) {
		w.keys.add("a")
		text, isError, err := call(t.Context(), w.connect(t, as("a"), version), "wait", nil)
		require.NoError(t, err)
		require.True(t, isError)
		require.Equal(t, "timeout: the call took too long and was stopped", text)
	})
}

// One tenant's calls queue, and then are refused; another's are not touched.
// Mutation seen by this test: one lane for all tenants.
func TestTenantsShareOfConcurrency(t *testing.T) {
	t.Parallel()
	const running, waiting = 4, 3
	w := open(t, config{middleware: mcptenant.MiddlewareOptions{MaxConcurrent: running, MaxWaiting: waiting}})
	w.keys.add("a")
	w.keys.add("b")
	a, b := w.connect(t, as("a"), ""), w.connect(t, as("b"), "")
	type outcome struct {
		text    string
		isError bool
	}
	outcomes := make(chan outcome)
	for range running + waiting + 5 {
		go func() {
			text, isError, err := call(t.Context(), a, "wait", nil)
			if err != nil {
				text = err.Error()
			}
			outcomes <- outcome{text, isError}
		}()
	}
	for range 5 {
		got := <-outcomes
		require.True(t, got.isError)
		require.Contains(t, got.text, "busy: ")
	}
	for range running {
		<-w.started
	}
	require.EqualValues(t, running, w.runs.Load(), "the others wait for their turn")
	text, isError, err := call(t.Context(), b, "whoami", nil)
	require.NoError(t, err)
	require.False(t, isError, text)

	close(w.release)
	for range running + waiting {
		got := <-outcomes
		require.False(t, got.isError, got.text)
	}
	text, isError, err = call(t.Context(), a, "whoami", nil)
	require.NoError(t, err)
	require.False(t, isError, text)
}
