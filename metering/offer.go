package metering

import (
	"context"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// has is the one predicate for listing and for calling a tool.
func (c *compiledPlan) has(tool string) bool { return !slices.Contains(c.Without, tool) }

// lists reports whether the caller of ctx is told of a tool. One that no plan
// leaves out is everybody's, even before it is known who asks.
func (m *Meter) lists(ctx context.Context, tool string) bool {
	if t, ok := tenant.FromContext(ctx); ok {
		if plan, ok := m.plans[t.Plan]; ok {
			return t.HasScope(tenant.ScopeCanary) || plan.has(tool)
		}
	}
	for _, plan := range m.plans {
		if !plan.has(tool) {
			return false
		}
	}
	return true
}

// listTools lists the tools of the caller's plan. A page of which nothing is
// left is not answered while there are more: a client may take it for the end.
func (m *Meter) listTools(ctx context.Context, next mcp.MethodHandler, method string, req *mcp.ListToolsRequest) (mcp.Result, error) {
	for {
		res, err := next(ctx, method, req)
		page, ok := res.(*mcp.ListToolsResult)
		if err != nil || !ok || page == nil {
			return res, err
		}
		kept := make([]*mcp.Tool, 0, len(page.Tools))
		for _, tool := range page.Tools {
			if m.lists(ctx, tool.Name) {
				kept = append(kept, tool)
			}
		}
		if len(kept) == len(page.Tools) && !m.varied {
			return page, nil
		}
		if len(kept) > 0 || page.NextCursor == "" {
			list := *page
			list.Tools = kept
			list.CacheScope = "private" // nobody else's list, whatever the server says
			return &list, nil
		}
		again, params := *req, mcp.ListToolsParams{}
		if req.Params != nil {
			params = *req.Params
		}
		params.Cursor, again.Params = page.NextCursor, &params
		req = &again
	}
}
