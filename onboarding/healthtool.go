package onboarding

import (
	"context"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// HealthTool is the name of the tool that [HealthCheckTool] makes and that the
// canary calls.
const HealthTool = "health_check"

// Marker reads the markers that the tenant in ctx can see, through the road
// that the application's own statements take: the same role, pool and policies.
type Marker interface {
	// Marker returns the marker it sees and how many markers are visible
	// without any condition in the statement. An isolated tenant sees one.
	Marker(ctx context.Context) (marker string, visible int, err error)
}

// MarkerFunc is a function that is a [Marker].
type MarkerFunc func(ctx context.Context) (marker string, visible int, err error)

// Marker calls f.
func (f MarkerFunc) Marker(ctx context.Context) (string, int, error) { return f(ctx) }

// HealthInput are the arguments of the health tool: none.
type HealthInput struct{}

// HealthResult is what the health tool answers: whose call it was, as the
// server understood it, and what that tenant can see.
type HealthResult struct {
	Tenant  string `json:"tenant" jsonschema:"the tenant that the server takes the caller for"`
	Marker  string `json:"marker" jsonschema:"the tenant's marker, as read from its data"`
	Visible int    `json:"visible" jsonschema:"how many tenants' markers are visible; one when isolated"`
}

// HealthCheckTool returns the tool that the canary, monitors and the tenant
// itself call to see that the whole road to the tenant's data works and is
// isolated. Register it like any other:
//
//	tool, handler := onboarding.HealthCheckTool(db)
//	mcp.AddTool(server, tool, handler)
//
// It reads only, and should cost nothing.
func HealthCheckTool(m Marker) (*mcp.Tool, mcp.ToolHandlerFor[HealthInput, HealthResult]) {
	closed := false
	tool := &mcp.Tool{
		Name:        HealthTool,
		Description: "Reports whether the service can read this tenant's data, and only this tenant's.",
		Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true, IdempotentHint: true, OpenWorldHint: &closed},
	}
	return tool, func(ctx context.Context, _ *mcp.CallToolRequest, _ HealthInput) (*mcp.CallToolResult, HealthResult, error) {
		t, ok := tenant.FromContext(ctx)
		if !ok {
			return nil, HealthResult{}, tenant.ErrNone
		}
		marker, visible, err := m.Marker(ctx)
		if err != nil {
			return nil, HealthResult{}, &healthError{err}
		}
		return nil, HealthResult{Tenant: t.ID.String(), Marker: marker, Visible: visible}, nil
	}
}

// healthError tells the caller no more than that it failed; the cause is for
// the server's own log.
type healthError struct{ err error }

func (e *healthError) Error() string { return "health check failed: the tenant's data can't be read" }
func (e *healthError) Unwrap() error { return e.err }
