package mcptenant_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// BenchmarkCall is one tool call through the HTTP handler, without a network:
// on the bare SDK, and with Authenticate and Middleware around it.
//
//	go test -bench Call -benchmem ./tenancy/mcptenant
func BenchmarkCall(b *testing.B) {
	server := func(opts *mcp.ServerOptions) *mcp.Server {
		s := mcp.NewServer(&mcp.Implementation{Name: "bench", Version: "v1"}, opts)
		mcp.AddTool(s, &mcp.Tool{Name: "greet"}, func(_ context.Context, _ *mcp.CallToolRequest, in greetInput) (*mcp.CallToolResult, greetOutput, error) {
			return nil, greetOutput{Greeting: "Hello " + in.Name}, nil
		})
		return s
	}
	handler := func(s *mcp.Server) http.Handler {
		return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{Stateless: true})
	}
	bare := server(nil)
	whole := server(mcptenant.ServerOptions(nil))
	whole.AddReceivingMiddleware(mcptenant.Middleware(nil))
	t := tenant.Tenant{ID: tenant.NewID(), Plan: tenant.Pro, Status: tenant.Active, Subject: "k", Scopes: []string{tenant.ScopeTools}}
	keys := mcptenant.AuthenticatorFunc(func(context.Context, string) (tenant.Tenant, error) { return t, nil })
	for _, bm := range []struct {
		name string
		h    http.Handler
	}{
		{"bare", handler(bare)},
		{"mcptenant", mcptenant.Authenticate(keys, handler(whole), nil)},
	} {
		for _, version := range []string{"2025-11-25", "2026-07-28"} {
			b.Run(fmt.Sprintf("%s/%s", bm.name, version), func(b *testing.B) {
				body := toolCall("greet", `{"name":"Ada"}`)
				if version == "2026-07-28" {
					body = strings.Replace(body, `"params":{`, `"params":{`+listenMeta+`,`, 1)
				}
				b.ReportAllocs()
				for b.Loop() {
					r := httptest.NewRequest("POST", "/mcp", strings.NewReader(body))
					r.Header = http.Header{
						"Authorization": {"Bearer token"}, "Content-Type": {"application/json"},
						"Accept": {"application/json, text/event-stream"}, "Mcp-Protocol-Version": {version},
						"Mcp-Method": {"tools/call"}, "Mcp-Name": {"greet"},
					}
					w := httptest.NewRecorder()
					bm.h.ServeHTTP(w, r)
					if w.Code != 200 || !strings.Contains(w.Body.String(), "Hello Ada") {
						b.Fatal(w.Code, w.Body.String())
					}
				}
			})
		}
	}
}
