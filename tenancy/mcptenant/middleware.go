package mcptenant

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/internal/mcpprobe"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// MiddlewareOptions tunes [Middleware]. The zero value is safe and complete.
type MiddlewareOptions struct {
	// Local names the tenant of calls that come by a transport without HTTP
	// and so without a token: standard input, or memory. It is asked on each
	// call; [Static] names the same tenant always. It never answers for a
	// call that came by HTTP. Defaults to none: such calls are refused.
	Local func(context.Context) (tenant.Tenant, error)

	// Tools further limits what a tenant may list and call, say by plan; a
	// tool must pass both this and the credential's scopes. Defaults to no
	// further limit.
	Tools func(t tenant.Tenant, tool string) bool

	// HealthTools are the tools that say how the service is. They are all
	// that a credential with [tenant.ScopeCanary] may call, and open to one
	// with [tenant.ScopeHealthRead]. Defaults to health_check.
	HealthTools []string

	// Subscribe says whether a tenant may subscribe to a resource. An update
	// notice goes to every subscriber of a URI, whatever its tenant, so allow
	// only URIs that contain the tenant's id. Defaults to none.
	Subscribe func(ctx context.Context, t tenant.Tenant, uri string) bool

	// MaxConcurrent is how many calls of one tenant run at once, and
	// MaxWaiting how many more wait for their turn; what comes on top is
	// refused. They default to 64 and 1024.
	MaxConcurrent, MaxWaiting int

	// MaxStreams is how many subscriptions/listen calls one tenant may hold
	// open. Defaults to 256.
	MaxStreams int

	// Timeout ends the context of a call that takes longer, waiting for its
	// turn included. A handler that doesn't heed its context is not stopped.
	// Negative means never. Defaults to a minute.
	Timeout time.Duration

	// SupportURL is where a tenant that isn't served can do something about
	// it, such as its billing page. Defaults to none.
	SupportURL string

	// OnFault is called for each panic and each error that is hidden from
	// the caller, to count them. It must not block. Defaults to nothing.
	OnFault func(context.Context, Fault)

	// Logger takes the faults, with tenant, tool and reference. Defaults to
	// none.
	Logger *slog.Logger
}

// Static is a [MiddlewareOptions.Local] that always names t.
func Static(t tenant.Tenant) func(context.Context) (tenant.Tenant, error) {
	return func(context.Context) (tenant.Tenant, error) { return t, nil }
}

// Codes of the JSON-RPC errors with which a call is refused, from the range
// that the specification leaves to implementations.
const (
	codeUnauthenticated = -32010 // no tenant, or a session of another
	codeForbidden       = -32011 // the credential's scopes don't reach
	codeNotServed       = -32012 // the tenant's status doesn't
	codeBusy            = -32013 // too much at once
	codeTimeout         = -32014 // the call took too long
)

type middleware struct {
	opts    MiddlewareOptions
	health  map[string]bool
	calls   *gate
	streams *gate
	log     *slog.Logger
}

// Middleware returns the receiving middleware without which no handler sees a
// tenant. Install it first, so that it is outermost:
//
//	server.AddReceivingMiddleware(mcptenant.Middleware(nil), meter.Middleware())
//
// For every method it takes the tenant from the credential of that very call
// and puts it into the context. A call without one is refused, as is one whose
// context belongs to another tenant's session: in a stateful session the
// context is that of the request that opened it.
//
// Around each call it keeps the tenant within its status, scopes, share of
// concurrency and time; refuses arguments that would reach a database as
// something other than what was checked (NUL, broken UTF-8, a key twice);
// survives a panic of the handler; and hides errors that are not meant for the
// caller, see [UserError]. A handler's own goroutines are out of its reach: a
// panic there still ends the process.
//
// opts may be nil. Middleware panics if an option is malformed.
func Middleware(opts *MiddlewareOptions) mcp.Middleware {
	m := &middleware{}
	if opts != nil {
		m.opts = *opts
	}
	o := &m.opts
	if o.MaxConcurrent < 0 || o.MaxWaiting < 0 || o.MaxStreams < 0 {
		panic("mcptenant: Middleware: MaxConcurrent, MaxWaiting and MaxStreams must not be negative")
	}
	if o.MaxConcurrent == 0 {
		o.MaxConcurrent = 64
	}
	if o.MaxWaiting == 0 {
		o.MaxWaiting = 1024
	}
	if o.MaxStreams == 0 {
		o.MaxStreams = 256
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.HealthTools == nil {
		o.HealthTools = []string{"health_check"}
	}
	m.health = make(map[string]bool, len(o.HealthTools))
	for _, tool := range o.HealthTools {
		m.health[tool] = true
	}
	m.calls = newGate(o.MaxConcurrent, o.MaxWaiting)
	m.streams = newGate(o.MaxStreams, 0)
	m.log = logger(o.Logger)
	return func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			if req.GetExtra() == nil && mcpprobe.In(ctx) {
				return next(ctx, method, req)
			}
			return m.receive(ctx, method, req, next)
		}
	}
}

// receive handles one message of any kind.
func (m *middleware) receive(ctx context.Context, method string, req mcp.Request, next mcp.MethodHandler) (res mcp.Result, err error) {
	call := &call{middleware: m, method: method}
	defer func() {
		if p := recover(); p != nil {
			res, err = call.panicked(ctx, p)
		}
	}()
	t, id, err := m.caller(ctx, req)
	if err != nil {
		m.log.LogAttrs(ctx, slog.LevelWarn, "mcptenant: call refused", slog.String("method", method), slog.Any("err", err))
		return nil, &jsonrpc.Error{Code: codeUnauthenticated, Message: "unauthenticated: this call carries no valid credential of its session's tenant"}
	}
	ctx = tenant.NewContext(ctx, t)
	call.tenant = t
	if r, ok := req.(*mcp.CallToolRequest); ok {
		call.tool = r.Params.Name
	}

	switch r := req.(type) {
	case *mcp.CallToolRequest:
		return m.callTool(ctx, call, r, next)
	case *mcp.SubscriptionsListenRequest:
		return m.listen(ctx, call, id, r, next)
	}
	if !handshake(method) {
		if err := m.admits(ctx, t, req); err != nil {
			return nil, err
		}
		if bad := badParams(req.GetParams()); bad != "" {
			return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "invalid params: " + bad}
		}
		return m.run(ctx, call, req, next)
	}
	res, err = next(ctx, method, req)
	if err != nil {
		return nil, call.protocolError(ctx, err)
	}
	return m.visible(t, res), nil
}

// caller returns the tenant of this call, and its identity where it came by
// HTTP.
func (m *middleware) caller(ctx context.Context, req mcp.Request) (tenant.Tenant, *identity, error) {
	extra := req.GetExtra()
	if extra == nil || extra.TokenInfo == nil {
		if m.opts.Local == nil || extra != nil && extra.Header != nil {
			return tenant.Tenant{}, nil, errors.New("no token")
		}
		t, err := m.opts.Local(ctx)
		if err == nil && t.ID.IsZero() {
			err = tenant.ErrNone
		}
		return t, nil, err
	}
	id, ok := identityOf(extra.TokenInfo)
	if !ok {
		return tenant.Tenant{}, nil, errors.New("the token was not verified by mcptenant.Authenticate")
	}
	if opener := auth.TokenInfoFromContext(ctx); opener != nil && opener != extra.TokenInfo {
		if o, ok := identityOf(opener); !ok || o.tenant.ID != id.tenant.ID {
			return tenant.Tenant{}, nil, fmt.Errorf("session of another tenant, used by tenant %s", id.tenant.ID)
		}
	}
	if o, ok := tenant.FromContext(ctx); ok && o.ID != id.tenant.ID {
		return tenant.Tenant{}, nil, fmt.Errorf("context of another tenant, call of tenant %s", id.tenant.ID)
	}
	return id.tenant, id, nil
}

// callTool runs one tool call.
func (m *middleware) callTool(ctx context.Context, call *call, r *mcp.CallToolRequest, next mcp.MethodHandler) (mcp.Result, error) {
	if !m.mayCall(call.tenant, call.tool) {
		// The very answer to a tool that doesn't exist.
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf("unknown tool %q", call.tool)}
	}
	if why := m.standing(call.tenant); why != "" {
		return refused(why), nil
	}
	if bad := badArguments(r.Params.Arguments); bad != "" {
		return refused("invalid arguments: " + bad), nil
	}
	res, err := m.run(ctx, call, r, next)
	if err != nil {
		if wire, ok := err.(*jsonrpc.Error); ok && (wire.Code == codeBusy || wire.Code == codeTimeout) {
			return refused(wire.Message), nil
		}
		return nil, err
	}
	return res, nil
}

// run calls next within the tenant's share of concurrency and time.
func (m *middleware) run(ctx context.Context, call *call, req mcp.Request, next mcp.MethodHandler) (mcp.Result, error) {
	if m.opts.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, m.opts.Timeout, errTimeout)
		defer cancel()
	}
	slot, err := m.calls.enter(ctx, call.tenant.ID)
	if err != nil {
		if errors.Is(err, errBusy) || errors.Is(err, errTimeout) {
			return nil, &jsonrpc.Error{Code: codeBusy, Message: "busy: too many calls of this account are running, retry shortly"}
		}
		return nil, call.protocolError(ctx, err)
	}
	defer m.calls.leave(slot)
	res, err := next(ctx, call.method, req)
	if err != nil {
		return nil, call.protocolError(ctx, err)
	}
	if result, ok := res.(*mcp.CallToolResult); ok && result != nil && result.IsError {
		call.explain(ctx, result)
	}
	return res, nil
}

// listen runs a subscriptions/listen call, which lasts as long as the caller
// likes, or until its credential is refused.
func (m *middleware) listen(ctx context.Context, call *call, id *identity, r *mcp.SubscriptionsListenRequest, next mcp.MethodHandler) (mcp.Result, error) {
	if err := m.admits(ctx, call.tenant, r); err != nil {
		return nil, err
	}
	slot, err := m.streams.enter(ctx, call.tenant.ID)
	if err != nil {
		return nil, &jsonrpc.Error{Code: codeBusy, Message: "busy: too many open streams for this account"}
	}
	defer m.streams.leave(slot)
	if id != nil {
		var stop func()
		ctx, stop = whileLive(ctx, id)
		defer stop()
	}
	res, err := next(ctx, call.method, r)
	if err != nil {
		return nil, call.protocolError(ctx, err)
	}
	return res, nil
}

// refused is the answer to a tool call that was not run, in a form that reaches
// the model.
func refused(why string) *mcp.CallToolResult {
	return &mcp.CallToolResult{IsError: true, Content: []mcp.Content{&mcp.TextContent{Text: why}}}
}
