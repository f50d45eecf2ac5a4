// Command quickstart serves one metered MCP tool to two tenants, without any
// infrastructure: keys are a map, and quotas are counted in memory.
package main

import (
	"context"
	"log"
	"net/http"
	"os"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

type input struct {
	Name string `json:"name" jsonschema:"whom to greet"`
}

func greet(ctx context.Context, _ *mcp.CallToolRequest, in input) (*mcp.CallToolResult, any, error) {
	t, _ := tenant.FromContext(ctx) // always there: the middleware refuses a call without a tenant
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "Hello, " + in.Name + ", on plan " + string(t.Plan)}}}, nil, nil
}

var tenants = map[string]tenant.Tenant{
	"alice-key": {ID: tenant.NewID(), Plan: tenant.Free, Status: tenant.Active, Subject: "alice", Scopes: []string{tenant.ScopeTools}},
	"bob-key":   {ID: tenant.NewID(), Plan: tenant.Pro, Status: tenant.Active, Subject: "bob", Scopes: []string{tenant.ScopeTools}},
}

func authenticate(_ context.Context, token string) (tenant.Tenant, error) {
	if t, ok := tenants[token]; ok {
		return t, nil
	}
	return tenant.Tenant{}, tenant.ErrUnauthenticated
}

func main() {
	spool, err := usage.OpenSpool(os.TempDir()+"/quickstart-usage", nil) // one event per call, on disk before the answer
	if err != nil {
		log.Fatal(err)
	}
	meter, err := metering.New(metering.NewMemory(nil), spool, &metering.Options{
		Tools: map[string]metering.Tool{"greet": {Units: 1}}, // free: 100 units an hour, pro: 10,000
	})
	if err != nil {
		log.Fatal(err)
	}
	server := mcp.NewServer(&mcp.Implementation{Name: "greeter", Version: "v1.0.0"}, mcptenant.ServerOptions(nil))
	server.AddReceivingMiddleware(mcptenant.Middleware(nil), meter.Middleware())
	mcp.AddTool(server, &mcp.Tool{Name: "greet", Description: "Greets somebody."}, metering.WithMetering(meter, "greet", greet))

	handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{Stateless: true})
	http.Handle("/mcp", mcptenant.Authenticate(mcptenant.AuthenticatorFunc(authenticate), handler, nil))
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", nil))
}
