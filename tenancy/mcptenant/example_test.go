package mcptenant_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

type greetInput struct {
	Name string `json:"name"`
}

type greetOutput struct {
	Greeting string `json:"greeting"`
}

func greet(ctx context.Context, _ *mcp.CallToolRequest, in greetInput) (*mcp.CallToolResult, greetOutput, error) {
	if in.Name == "" {
		return nil, greetOutput{}, mcptenant.UserError("name must not be empty")
	}
	t, _ := tenant.FromContext(ctx)
	return nil, greetOutput{Greeting: fmt.Sprintf("Hello %s, on plan %s", in.Name, t.Plan)}, nil
}

func Example() {
	ctx := context.Background()

	server := mcp.NewServer(&mcp.Implementation{Name: "greeter", Version: "v1.0.0"}, mcptenant.ServerOptions(nil))
	server.AddReceivingMiddleware(mcptenant.Middleware(nil))
	mcp.AddTool(server, &mcp.Tool{Name: "greet"}, greet)

	keys := mcptenant.AuthenticatorFunc(func(_ context.Context, token string) (tenant.Tenant, error) { // an *apikey.Store
		if token != "good" {
			return tenant.Tenant{}, tenant.ErrUnauthenticated
		}
		return tenant.Tenant{
			ID: tenant.NewID(), Plan: tenant.Pro, Status: tenant.Active, Scopes: []string{tenant.ScopeTools},
		}, nil
	})
	web := httptest.NewServer(mcptenant.Authenticate(keys, mcp.NewStreamableHTTPHandler(
		func(*http.Request) *mcp.Server { return server },
		&mcp.StreamableHTTPOptions{Stateless: true, PropagateRequestCancellation: true},
	), nil))
	defer web.Close()

	// What a client sees.
	session, err := mcp.NewClient(&mcp.Implementation{Name: "client", Version: "v1"}, nil).Connect(ctx,
		&mcp.StreamableClientTransport{Endpoint: web.URL, HTTPClient: &http.Client{Transport: as("good")}}, nil)
	if err != nil {
		panic(err)
	}
	defer session.Close()
	for _, name := range []string{"Ada", ""} {
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "greet", Arguments: greetInput{Name: name}})
		if err != nil {
			panic(err)
		}
		fmt.Println(res.IsError, res.Content[0].(*mcp.TextContent).Text)
	}
	// Output:
	// false {"greeting":"Hello Ada, on plan pro"}
	// true name must not be empty
}
