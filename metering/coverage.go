package metering

import (
	"context"
	"errors"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Coverage returns an error that names each tool of the server that is not
// metered, or that has no entry in Options.Tools. Call it when all tools are
// registered, at start or in a test. It lists the tools below the server's own
// middleware, so that it needs no tenant and misses no tool that a filter hides.
func (m *Meter) Coverage(ctx context.Context, server *mcp.Server) error {
	tools, err := registered(ctx, server)
	if err != nil {
		return fmt.Errorf("metering: list tools: %w", err)
	}
	var errs []error
	for _, name := range tools {
		if !m.installed.Load() && !m.isWrapped(name) {
			errs = append(errs, fmt.Errorf("metering: tool %q is not metered: wrap it by WithMetering, or install the Middleware", name))
		}
		if _, ok := m.tools[name]; !ok {
			errs = append(errs, fmt.Errorf("metering: tool %q has no price: add it to Options.Tools", name))
		}
	}
	return errors.Join(errs...)
}

// registered lists the names of all tools of a server.
func registered(ctx context.Context, server *mcp.Server) ([]string, error) {
	// The handler at the bottom of every server's chain is the same; it serves
	// the server of the request's session. A server of our own hands it out.
	var bottom mcp.MethodHandler
	mcp.NewServer(&mcp.Implementation{Name: "coverage"}, nil).AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		bottom = next
		return next
	})

	transport, _ := mcp.NewInMemoryTransports()
	session, err := server.Connect(ctx, transport, nil)
	if err != nil {
		return nil, err
	}
	defer session.Close()

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
