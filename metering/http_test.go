package metering_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// eras are the two ways in which the protocol is served.
var eras = map[string]bool{"stateful": false, "stateless": true}

func TestCallsOverHTTP(t *testing.T) {
	t.Parallel()
	for era, stateless := range eras {
		t.Run(era, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			server := newServer()
			mcp.AddTool(server, &mcp.Tool{Name: "search"}, metering.WithMetering(b.meter, "search", ok))
			mcp.AddTool(server, &mcp.Tool{Name: "report"}, ok) // the wrapper was forgotten
			mcp.AddTool(server, &mcp.Tool{Name: "help"}, metering.WithMetering(b.meter, "help", ok))
			s := b.serve(t, server, stateless)

			res := call(t, s, "search", nil)
			require.False(t, res.IsError)
			require.Equal(t, map[string]any{"plan": "free", "units": 1.0, "limit": "hour", "allowed": 100.0, "remaining": 99.0}, quota(t, res))
			res = call(t, s, "report", nil)
			require.False(t, res.IsError)
			require.EqualValues(t, 79, quota(t, res)["remaining"])
			require.False(t, call(t, s, "help", nil).IsError)
			b.requireCharged(t, 21)

			for range 3 {
				require.False(t, call(t, s, "report", nil).IsError)
			}
			for range 19 {
				require.False(t, call(t, s, "search", nil).IsError)
			}
			b.requireCharged(t, 100)
			for _, tool := range []string{"search", "report"} { // refused by the wrapper, and by the middleware
				res = call(t, s, tool, nil)
				require.True(t, res.IsError)
				require.Nil(t, res.StructuredContent)
				require.Equal(t, "quota_exceeded: "+tool+" limit reached for plan free; 100 of 100 units used (hour), retry in 3600s", text(t, res))
				require.Equal(t, map[string]any{
					"code": "quota_exceeded", "plan": "free", "limit": "hour", "allowed": 100.0, "remaining": 0.0,
					"retryAfterMs": 3600_000.0, "resetAt": "2026-11-11T13:00:00Z",
				}, quota(t, res))
				if stateless {
					require.False(t, res.NeedsInput())
				}
			}
			require.False(t, call(t, s, "help", nil).IsError)
			b.requireCharged(t, 100)

			outcomes := make(map[usage.Outcome]int)
			for _, e := range b.sink.Events() {
				outcomes[e.Outcome]++
				require.Equal(t, b.tenant.ID, e.Tenant)
				require.Equal(t, tenant.Free, e.Plan)
				require.Equal(t, b.clock.Now(), e.Time)
			}
			require.Equal(t, map[usage.Outcome]int{usage.OK: 26, usage.Denied: 2}, outcomes)
			require.Equal(t, metering.Stats{Admitted: 26, Denied: 2}, b.meter.Stats())
		})
	}
}

// One logical call of several rounds is charged once, wrapped or not, although
// the handler, and in the newer era the middleware, runs for each round.
//
// Mutation seen here: without the Input outcome in outcomeOf, 2 are charged.
func TestMultiRoundTrip(t *testing.T) {
	t.Parallel()
	confirm := func(_ context.Context, req *mcp.CallToolRequest, _ noArgs) (*mcp.CallToolResult, answer, error) {
		if len(req.Params.InputResponses) == 0 {
			return &mcp.CallToolResult{InputRequests: mcp.InputRequestMap{"confirm": &mcp.ElicitParams{Message: "Really?"}}}, answer{}, nil
		}
		return nil, answer{"confirmed"}, nil
	}
	for era, stateless := range eras {
		for _, wrapped := range []bool{true, false} {
			for policy, want := range map[metering.ChargePolicy]int64{metering.ChargeOnSuccess: 20, metering.ChargeOnStart: 20, metering.ChargeAlways: 40} {
				t.Run(fmt.Sprintf("%s wrapped=%t policy=%d", era, wrapped, policy), func(t *testing.T) {
					t.Parallel()
					b := newBench(t, &metering.Options{Tools: map[string]metering.Tool{"order": {Units: 20, Charge: policy}}})
					server := newServer()
					h := confirm
					if wrapped {
						h = metering.WithMetering(b.meter, "order", h)
					}
					mcp.AddTool(server, &mcp.Tool{Name: "order"}, h)
					s := b.serve(t, server, stateless)
					res := call(t, s, "order", nil)
					require.False(t, res.IsError)
					require.Contains(t, text(t, res), "confirmed")
					if !wrapped && !stateless {
						want = 20 // both rounds are one to the middleware
					}
					b.requireCharged(t, want)
				})
			}
		}
	}
}

// A refusal reads the same whatever the tool returns.
func TestDenialForms(t *testing.T) {
	t.Parallel()
	b := newBench(t, &metering.Options{Tools: map[string]metering.Tool{"help": {Free: true}}, Plans: map[tenant.Plan]metering.Plan{
		tenant.Free: {Limits: []metering.Limit{metering.PerMinute(1)}},
	}})
	type constrained struct {
		Text string `json:"text"`
	}
	schema := json.RawMessage(`{"type":"object","properties":{"text":{"type":"string","minLength":1}},"required":["text"]}`)
	server := newServer()
	add(server, b, "struct", nil, answer{})
	add(server, b, "pointer", nil, &answer{})
	add(server, b, "any", nil, any(nil))
	add(server, b, "slice", nil, []string{})
	add(server, b, "constrained", schema, constrained{"x"})
	s := b.serve(t, server, true)
	require.False(t, call(t, s, "struct", nil).IsError)
	for _, tool := range []string{"struct", "pointer", "any", "slice", "constrained"} {
		res := call(t, s, tool, nil)
		require.True(t, res.IsError, tool)
		require.Nil(t, res.StructuredContent, tool)
		require.Len(t, res.Content, 1, tool)
		require.Equal(t, "rate_limited: "+tool+" limit reached for plan free; 1 of 1 units used (minute), retry in 60s", text(t, res))
		require.Equal(t, "rate_limited", quota(t, res)["code"])
	}
}

func add[Out any](server *mcp.Server, b *bench, name string, schema any, out Out) {
	mcp.AddTool(server, &mcp.Tool{Name: name, OutputSchema: schema}, metering.WithMetering(b.meter, name,
		func(context.Context, *mcp.CallToolRequest, noArgs) (*mcp.CallToolResult, Out, error) {
			return nil, out, nil
		}))
}

// Mutation seen here: settled by what the handler returned alone, a call whose
// output its schema refuses is charged.
func TestNothingDoneNothingCharged(t *testing.T) {
	t.Parallel()
	input := json.RawMessage(`{"type":"object","properties":{"q":{"type":"string","minLength":1}}}`)
	type args struct {
		Q string `json:"q"`
	}
	handlers := map[string]mcp.ToolHandlerFor[args, any]{
		"error": func(context.Context, *mcp.CallToolRequest, args) (*mcp.CallToolResult, any, error) {
			return nil, nil, errors.New("no stock")
		},
		"is error": func(context.Context, *mcp.CallToolRequest, args) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{IsError: true, Content: []mcp.Content{&mcp.TextContent{Text: "no stock"}}}, nil, nil
		},
		"protocol error": func(context.Context, *mcp.CallToolRequest, args) (*mcp.CallToolResult, any, error) {
			return nil, nil, &jsonrpc.Error{Code: -32000, Message: "no stock"}
		},
		"invalid arguments": func(context.Context, *mcp.CallToolRequest, args) (*mcp.CallToolResult, any, error) {
			return nil, nil, nil
		},
		"invalid output": func(context.Context, *mcp.CallToolRequest, args) (*mcp.CallToolResult, any, error) {
			return nil, map[string]any{"n": "not a number"}, nil
		},
	}
	for name, h := range handlers {
		for _, wrapped := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s wrapped=%t", name, wrapped), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, nil)
				server := newServer()
				h := h
				if wrapped {
					h = metering.WithMetering(b.meter, "report", h)
				}
				tool := &mcp.Tool{Name: "report", InputSchema: input}
				if name == "invalid output" {
					tool.OutputSchema = json.RawMessage(`{"type":"object","properties":{"n":{"type":"integer"}}}`)
				}
				mcp.AddTool(server, tool, h)
				s := b.serve(t, server, true)
				arguments := map[string]any{"q": "x"}
				if name == "invalid arguments" {
					arguments["q"] = ""
				}
				res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "report", Arguments: arguments})
				require.True(t, err != nil || res.IsError)
				b.requireCharged(t, 0)
				events := b.sink.Events()
				require.Len(t, events, 1)
				require.Equal(t, usage.Error, events[0].Outcome)
				require.Equal(t, "report", events[0].Tool)
			})
		}
	}
}

// Names that callers make up neither become labels nor cost anything, but each
// is an attempt.
//
// Mutation seen here: with every tool left to a wrapper, the calls are no attempts.
func TestUnknownTools(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	server := newServer()
	mcp.AddTool(server, &mcp.Tool{Name: "unpriced"}, ok)
	s := b.serve(t, server, true)
	for i := range 200 {
		_, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: fmt.Sprintf("made up %d", i)})
		require.ErrorContains(t, err, "unknown tool")
	}
	b.requireCharged(t, 0)
	res := call(t, s, "unpriced", nil)
	require.True(t, res.IsError)
	require.Contains(t, text(t, res), "rate_limited: unpriced limit reached for plan free; 200 of 200 units used (attempts)")
	for _, e := range b.sink.Events() {
		require.Equal(t, metering.UnknownTool, e.Tool)
	}

	b.tenant = newTenant(tenant.Free)
	require.False(t, call(t, s, "unpriced", nil).IsError)
	b.requireCharged(t, 1)
	events := b.sink.Events()
	require.Equal(t, "unpriced", events[len(events)-1].Tool)
}

func TestNoTenant(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.tenant = tenant.Tenant{}
	server := newServer()
	mcp.AddTool(server, &mcp.Tool{Name: "search"}, metering.WithMetering(b.meter, "search", ok))
	mcp.AddTool(server, &mcp.Tool{Name: "report"}, ok)
	s := b.serve(t, server, true)
	for _, tool := range []string{"search", "report"} {
		res := call(t, s, tool, nil)
		require.True(t, res.IsError)
		require.Equal(t, "Unauthenticated", text(t, res))
	}
	require.Empty(t, b.sink.Events())
	_, err := b.meter.Remaining(t.Context())
	require.ErrorIs(t, err, metering.ErrUnauthenticated)
}

// A wrapper made for a tool that is registered without it does not make the
// tool free.
//
// Mutation seen here: without the look at whether the wrapper began, it is free.
func TestWrapperNotRegistered(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	server := newServer()
	metering.WithMetering(b.meter, "report", ok)
	mcp.AddTool(server, &mcp.Tool{Name: "report"}, ok)
	s := b.serve(t, server, true)
	for i := range int64(5) {
		require.False(t, call(t, s, "report", nil).IsError)
		b.requireCharged(t, 20*(i+1))
	}
	require.True(t, call(t, s, "report", nil).IsError)
	b.requireCharged(t, 100)
}

func TestWrapperUnderAnotherName(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	server := newServer()
	mcp.AddTool(server, &mcp.Tool{Name: "report"}, metering.WithMetering(b.meter, "search", metering.WithMetering(b.meter, "search", ok)))
	s := b.serve(t, server, true)
	require.False(t, call(t, s, "report", nil).IsError)
	b.requireCharged(t, 20)
	require.Len(t, b.sink.Events(), 1)
}

// From revision 2026-07-28 on every result names its type, refusals too.
func TestRefusalNamesItsType(t *testing.T) {
	t.Parallel()
	b := newBench(t, &metering.Options{Plans: map[tenant.Plan]metering.Plan{tenant.Free: {Limits: []metering.Limit{metering.PerHour(1)}}}})
	server := newServer()
	mcp.AddTool(server, &mcp.Tool{Name: "report"}, ok) // left to the middleware
	server.AddReceivingMiddleware(b.asTenant, b.meter.Middleware())
	web := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true}))
	t.Cleanup(web.Close)
	wire := &wiretap{}
	s, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "v1.0.0"}, nil).Connect(t.Context(),
		&mcp.StreamableClientTransport{Endpoint: web.URL, HTTPClient: &http.Client{Transport: wire}}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	require.True(t, call(t, s, "report", nil).IsError)
	require.Contains(t, wire.last(), `"resultType":"complete"`)
	require.Contains(t, wire.last(), `"code":"quota_exceeded"`)
}

// wiretap remembers the last answer.
type wiretap struct {
	mu   sync.Mutex
	body string
}

func (w *wiretap) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil || req.Method != http.MethodPost {
		return res, err
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	res.Body = io.NopCloser(bytes.NewReader(body))
	w.mu.Lock()
	w.body = string(body)
	w.mu.Unlock()
	return res, err
}

func (w *wiretap) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.body
}
