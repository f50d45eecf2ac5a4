package metering

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Middleware meters every tool of a server, so that a tool that WithMetering
// was forgotten for is not free: its price is taken before its arguments are
// checked, and given back if they are refused. Calls of wrapped tools are left
// to the wrapper. It also tells callers where they stand, see [MetaQuota], and
// leaves out of tools/list what their plan does not have, see [Plan.Without].
//
// Install it inside of the middleware that puts the tenant into the context,
// and of any that recovers from panics or sets time limits:
//
//	server.AddReceivingMiddleware(mcptenant.Middleware(nil), meter.Middleware())
func (m *Meter) Middleware() mcp.Middleware {
	return func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			if list, ok := req.(*mcp.ListToolsRequest); ok {
				return m.listTools(ctx, next, method, list)
			}
			r, ok := req.(*mcp.CallToolRequest)
			if !ok || r.Params == nil {
				return next(ctx, method, req)
			}
			if res, ok, err := m.probed(ctx, next, method, r); ok {
				return res, err
			}
			c := &call{meter: m}
			ctx = context.WithValue(ctx, callKey{}, c)
			if m.isWrapped(r.Params.Name) {
				return m.serveWrapped(ctx, c, next, method, r)
			}
			if err := m.reserve(ctx, c, r.Params.Name, r); err != nil {
				return denial(r, c, err), nil
			}
			return m.serve(ctx, c, next, method, r)
		}
	}
}

// serve runs a tool that the middleware has reserved for.
func (m *Meter) serve(ctx context.Context, c *call, next mcp.MethodHandler, method string, req *mcp.CallToolRequest) (mcp.Result, error) {
	defer m.settlePanic(ctx, c)
	res, err := next(ctx, method, req)
	result, _ := res.(*mcp.CallToolResult)
	if err == nil && c.label == UnknownTool {
		// It has answered, so it is a tool of this server and its name is not
		// one that a caller made up.
		m.learn(c)
	}
	if isInvalidParams(err) {
		c.spec.Charge = ChargeOnSuccess // there is no such tool, or it did not start
	}
	c.state = ended
	return m.end(ctx, c, req, result, res, err)
}

// serveWrapped runs a tool whose wrapper reserves.
func (m *Meter) serveWrapped(ctx context.Context, c *call, next mcp.MethodHandler, method string, req *mcp.CallToolRequest) (mcp.Result, error) {
	res, err := next(ctx, method, req)
	result, _ := res.(*mcp.CallToolResult)
	if !c.begun {
		return m.neverBegan(ctx, c, req, result, res, err)
	}
	return m.end(ctx, c, req, result, res, err)
}

// end finishes a call and tells its caller where it stands.
func (m *Meter) end(ctx context.Context, c *call, req *mcp.CallToolRequest, result *mcp.CallToolResult, res mcp.Result, err error) (mcp.Result, error) {
	if c.state == ended {
		if ferr := m.finish(ctx, c, outcomeOf(ctx, result, err)); ferr != nil {
			return denial(req, c, ferr), nil
		}
	}
	if err != nil || result == nil {
		return res, err
	}
	return withMeta(result, c), nil
}

// neverBegan deals with a call that was left to a wrapper that did not run:
// the arguments were refused, or there is no such wrapper.
func (m *Meter) neverBegan(ctx context.Context, c *call, req *mcp.CallToolRequest, result *mcp.CallToolResult, res mcp.Result, err error) (mcp.Result, error) {
	served := err == nil && result != nil && !result.IsError
	if served {
		m.log.LogAttrs(ctx, slog.LevelError, "tool is registered without the wrapper made for it; the middleware meters it", slog.String("tool", req.Params.Name))
		m.mu.Lock()
		delete(m.wrapped, req.Params.Name)
		m.known[req.Params.Name] = true
		m.mu.Unlock()
		if denied := m.reserve(ctx, c, req.Params.Name, req); denied != nil {
			return denial(req, c, denied), nil
		}
		c.state = ended
		return m.end(ctx, c, req, result, res, err)
	}
	if t, ok := tenant.FromContext(ctx); ok {
		now := m.now()
		c.tenant, c.tool, c.label, c.start = t, req.Params.Name, m.label(req.Params.Name), now
		c.decision = Decision{ID: newEventID(), Source: SourceUnlimited, Time: now.UTC()}
		c.outcome = outcomeOf(ctx, result, err)
		m.recordUncharged(ctx, c)
	}
	return res, err
}

func (m *Meter) isWrapped(tool string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.wrapped[tool]
}

func (m *Meter) learn(c *call) {
	m.mu.Lock()
	m.known[c.tool] = true
	m.mu.Unlock()
	c.label = c.tool
}

// isInvalidParams reports the answer to the name of no tool, or to arguments
// that the protocol refuses.
func isInvalidParams(err error) bool {
	wire, ok := errors.AsType[*jsonrpc.Error](err)
	return ok && wire.Code == jsonrpc.CodeInvalidParams
}

// denial is the result of a call that was not run, or whose answer is withheld.
// It is an ordinary tool error, so that the agent reads its text.
func denial(req *mcp.CallToolRequest, c *call, err error) *mcp.CallToolResult {
	res := &mcp.CallToolResult{}
	if req.ProtocolVersion() >= "2026-07-28" {
		// From this revision on every result names its type. The SDK sets it on
		// results of its tools only, and lets others set it by decoding alone.
		json.Unmarshal([]byte(`{"content":[],"resultType":"complete"}`), res)
	}
	res.SetError(err)
	return withMeta(res, c)
}
