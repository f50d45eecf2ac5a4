package metering_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// bench is a meter with a limiter in memory and a sink that remembers.
type bench struct {
	meter   *metering.Meter
	limiter metering.Limiter
	clock   *meteringtest.Clock
	sink    *meteringtest.Sink
	tenant  tenant.Tenant
}

func newBench(t testing.TB, opts *metering.Options) *bench {
	t.Helper()
	limiter, clock := meteringtest.NewLimiter()
	return newBenchOn(t, limiter, clock, opts)
}

func newBenchOn(t testing.TB, limiter metering.Limiter, clock *meteringtest.Clock, opts *metering.Options) *bench {
	t.Helper()
	if opts == nil {
		opts = &metering.Options{}
	}
	o := *opts
	o.Now = clock.Now
	if o.Budget == 0 {
		o.Budget = time.Minute // a busy machine is no outage
	}
	if o.Tools == nil {
		o.Tools = map[string]metering.Tool{"search": {Units: 1}, "report": {Units: 20}, "help": {Free: true}}
	}
	b := &bench{limiter: limiter, clock: clock, sink: &meteringtest.Sink{}, tenant: newTenant(tenant.Free)}
	var err error
	b.meter, err = metering.New(limiter, b.sink, &o)
	require.NoError(t, err)
	return b
}

func newTenant(plan tenant.Plan) tenant.Tenant {
	return tenant.Tenant{ID: tenant.NewID(), Plan: plan, Status: tenant.Active, Scopes: []string{tenant.ScopeTools}}
}

// units returns what the tenant has been charged by events, and what the
// limiter counts, of the plan's first limit.
func (b *bench) units(t testing.TB) (events, counted int64) {
	t.Helper()
	limits, err := b.meter.Remaining(b.ctx(t))
	require.NoError(t, err)
	if len(limits) > 0 {
		counted = limits[0].Units - limits[0].Remaining
	}
	return b.sink.Units(b.tenant.ID), counted
}

// requireCharged checks that quota and bill agree.
func (b *bench) requireCharged(t testing.TB, units int64) {
	t.Helper()
	events, counted := b.units(t)
	require.Equal(t, units, events, "units of the events")
	require.Equal(t, units, counted, "units that the limiter counts")
}

func (b *bench) ctx(t testing.TB) context.Context { return tenant.NewContext(t.Context(), b.tenant) }

// asTenant stands in for mcptenant: it puts the tenant into each call.
func (b *bench) asTenant(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
		if !b.tenant.ID.IsZero() {
			ctx = tenant.NewContext(ctx, b.tenant)
		}
		return next(ctx, method, req)
	}
}

func newServer() *mcp.Server {
	return mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "v1.0.0"}, nil)
}

// serve serves the server over HTTP, with the tenant and the meter's middleware
// in front, and returns a client that is connected to it.
func (b *bench) serve(t testing.TB, server *mcp.Server, stateless bool) *mcp.ClientSession {
	t.Helper()
	server.AddReceivingMiddleware(b.asTenant, b.meter.Middleware())
	return connect(t, server, stateless)
}

func connect(t testing.TB, server *mcp.Server, stateless bool) *mcp.ClientSession {
	t.Helper()
	h := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{Stateless: stateless})
	web := httptest.NewServer(h)
	t.Cleanup(web.Close)
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "v1.0.0"}, &mcp.ClientOptions{
		ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"ok": true}}, nil
		},
	})
	session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: web.URL}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { session.Close() })
	return session
}

func call(t testing.TB, s *mcp.ClientSession, tool string, args any) *mcp.CallToolResult {
	t.Helper()
	res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: tool, Arguments: args})
	require.NoError(t, err)
	return res
}

func text(t testing.TB, res *mcp.CallToolResult) string {
	t.Helper()
	require.NotEmpty(t, res.Content)
	content, ok := res.Content[0].(*mcp.TextContent)
	require.True(t, ok)
	return content.Text
}

func quota(t testing.TB, res *mcp.CallToolResult) map[string]any {
	t.Helper()
	meta, ok := res.Meta[metering.MetaQuota].(map[string]any)
	require.True(t, ok, "no %s in %v", metering.MetaQuota, res.Meta)
	return meta
}

type noArgs struct{}

type answer struct {
	Text string `json:"text"`
}

func ok(context.Context, *mcp.CallToolRequest, noArgs) (*mcp.CallToolResult, answer, error) {
	return nil, answer{"done"}, nil
}

// invoke calls a wrapped handler as the SDK does, without a server.
func invoke[In, Out any](ctx context.Context, h mcp.ToolHandlerFor[In, Out], tool string, meta mcp.Meta) (Out, error) {
	var in In
	_, out, err := h(ctx, &mcp.CallToolRequest{Params: &mcp.CallToolParamsRaw{Name: tool, Meta: meta}}, in)
	return out, err
}

// limiterFunc changes what a limiter does.
type limiterFunc struct {
	metering.Limiter
	take   func(context.Context, metering.Request) (metering.Decision, error)
	settle func(context.Context, metering.Decision, int64) (int64, error)
}

func (l *limiterFunc) Take(ctx context.Context, r metering.Request) (metering.Decision, error) {
	if l.take == nil {
		return l.Limiter.Take(ctx, r)
	}
	return l.take(ctx, r)
}

func (l *limiterFunc) Settle(ctx context.Context, d metering.Decision, units int64) (int64, error) {
	if l.settle == nil {
		return l.Limiter.Settle(ctx, d, units)
	}
	return l.settle(ctx, d, units)
}
