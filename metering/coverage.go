package metering

import (
	"context"
	"errors"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/internal/mcpprobe"
)

// Coverage returns an error that names each tool of the server that is not
// metered, or that has no entry in Options.Tools. Call it when all tools are
// registered, at start or in a test, for each server. It lists the tools below the
// server's own middleware, so that it needs no tenant and misses no tool that a
// filter hides.
//
// Whether calls pass the Middleware it sees by one of a tool that does not exist.
// mcptenant.Middleware lets that through; before a middleware of your own that
// turns away calls without a credential, call Coverage first and then add it. A
// tool counts as wrapped if WithMetering was called with its name, for whichever
// server: with the Middleware, one that was not is metered all the same.
func (m *Meter) Coverage(ctx context.Context, server *mcp.Server) error {
	transport, _ := mcp.NewInMemoryTransports()
	session, err := server.Connect(ctx, transport, nil)
	if err != nil {
		return fmt.Errorf("metering: list tools: %w", err)
	}
	defer session.Close()
	tools, err := registered(ctx, session)
	if err != nil {
		return fmt.Errorf("metering: list tools: %w", err)
	}
	installed := m.installed(ctx, server, session)
	var errs []error
	for _, name := range tools {
		if !installed && !m.isWrapped(name) {
			errs = append(errs, fmt.Errorf("metering: tool %q is not metered: wrap it by WithMetering, or install the Middleware where calls pass it", name))
		}
		if _, ok := m.tools[name]; !ok {
			errs = append(errs, fmt.Errorf("metering: tool %q has no price: add it to Options.Tools", name))
		}
	}
	return errors.Join(errs...)
}

// probedTool is called by Coverage alone.
const probedTool = "metering.Coverage"

type probeKey struct{}

// probe finds out whether calls pass the middleware of a meter.
type probe struct {
	meter  *Meter
	passed bool
}

// probed answers the call that Coverage makes; ok is false for any other.
func (m *Meter) probed(ctx context.Context, next mcp.MethodHandler, method string, req *mcp.CallToolRequest) (res mcp.Result, ok bool, err error) {
	if req.Params.Name != probedTool {
		return nil, false, nil
	}
	p, ok := ctx.Value(probeKey{}).(*probe)
	if !ok {
		return nil, false, nil
	}
	if p.meter != m {
		res, err = next(ctx, method, req)
		return res, true, err
	}
	p.passed = true
	return &mcp.CallToolResult{}, true, nil
}

// installed reports whether calls of the server's tools pass m's middleware.
func (m *Meter) installed(ctx context.Context, server *mcp.Server, session *mcp.ServerSession) bool {
	var chain mcp.MethodHandler
	server.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		chain = next
		return next
	})
	p := &probe{meter: m}
	func() {
		defer func() { _ = recover() }() // a middleware that expects a credential has none to look at
		_, _ = chain(mcpprobe.NewContext(context.WithValue(ctx, probeKey{}, p)), "tools/call",
			&mcp.CallToolRequest{Session: session, Params: &mcp.CallToolParamsRaw{Name: probedTool}})
	}()
	return p.passed
}

// registered lists the names of all tools of a session's server.
func registered(ctx context.Context, session *mcp.ServerSession) ([]string, error) {
	// The handler at the bottom of every server's chain is the same; it serves
	// the server of the request's session. A server of our own hands it out.
	var bottom mcp.MethodHandler
	mcp.NewServer(&mcp.Implementation{Name: "coverage"}, nil).AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		bottom = next
		return next
	})

	var names []string
	params := &mcp.ListToolsParams{}
	for {
		res, err := bottom(ctx, "tools/list", &mcp.ListToolsRequest{Session: session, Params: params})
		if err != nil {
			return nil, err
		}
		list, ok := res.(*mcp.ListToolsResult)
		if !ok {
			return nil, fmt.Errorf("unexpected answer %T", res)
		}
		for _, tool := range list.Tools {
			names = append(names, tool.Name)
		}
		if list.NextCursor == "" {
			return names, nil
		}
		params = &mcp.ListToolsParams{Cursor: list.NextCursor}
	}
}
