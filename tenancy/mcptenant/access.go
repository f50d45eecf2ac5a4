package mcptenant

import (
	"context"
	"slices"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// handshake reports whether a method only sets up or describes the session. It
// is open to every authenticated tenant, so that one that isn't served learns
// so from its first call, in words.
func handshake(method string) bool {
	switch method {
	case "initialize", "ping", "server/discover", "logging/setLevel",
		"tools/list", "prompts/list", "resources/list", "resources/templates/list",
		"resources/unsubscribe":
		return true
	}
	return strings.HasPrefix(method, "notifications/")
}

// mayCall is the one predicate for listing and for calling a tool.
func (m *middleware) mayCall(t tenant.Tenant, tool string) bool {
	if m.opts.Tools != nil && !m.opts.Tools(t, tool) {
		return false
	}
	if m.health[tool] && (t.HasScope(tenant.ScopeCanary) || t.HasScope(tenant.ScopeHealthRead)) {
		return true
	}
	return !t.HasScope(tenant.ScopeCanary) && t.AllowsTool(tool)
}

// whole reports whether a credential reaches beyond single tools.
func whole(t tenant.Tenant) bool {
	return t.HasScope(tenant.ScopeTools) && !t.HasScope(tenant.ScopeCanary)
}

// standing says why a tenant isn't served, or "". The platform's own probe is
// served in every status: it is how a tenant is proved before it is activated.
func (m *middleware) standing(t tenant.Tenant) string {
	if t.Status.Serves() || t.HasScope(tenant.ScopeCanary) {
		return ""
	}
	var why string
	switch t.Status {
	case tenant.Suspended:
		why = "suspended: this account is suspended, its tools answer again once it is reactivated"
	case tenant.Requested, tenant.Provisioning, tenant.Failed:
		why = "provisioning: this account is still being set up, retry in a moment"
	default:
		why = "closed: this account is closed"
	}
	if m.opts.SupportURL != "" {
		why += "; see " + m.opts.SupportURL
	}
	return why
}

// admits checks a request other than a tool call against the tenant's standing
// and the credential's scopes.
func (m *middleware) admits(ctx context.Context, t tenant.Tenant, req mcp.Request) error {
	if !whole(t) {
		return &jsonrpc.Error{Code: codeForbidden, Message: "insufficient scope: this credential is limited to single tools"}
	}
	if why := m.standing(t); why != "" {
		return &jsonrpc.Error{Code: codeNotServed, Message: why}
	}
	var uris []string
	switch r := req.(type) {
	case *mcp.SubscribeRequest:
		uris = []string{r.Params.URI}
	case *mcp.SubscriptionsListenRequest:
		if r.Params.Notifications != nil {
			uris = r.Params.Notifications.ResourceSubscriptions
		}
	}
	for _, uri := range uris {
		if m.opts.Subscribe == nil || !m.opts.Subscribe(ctx, t, uri) {
			// The same whether the resource exists, is another tenant's, or
			// can't be subscribed to.
			return mcp.ResourceNotFoundError(uri)
		}
	}
	return nil
}

// visible removes from a list what the tenant could not use. The slices are
// the SDK's own copies, made for this answer.
func (m *middleware) visible(t tenant.Tenant, res mcp.Result) mcp.Result {
	switch r := res.(type) {
	case *mcp.ListToolsResult:
		r.Tools = slices.DeleteFunc(r.Tools, func(tool *mcp.Tool) bool { return !m.mayCall(t, tool.Name) })
	case *mcp.ListPromptsResult:
		if !whole(t) {
			r.Prompts = []*mcp.Prompt{}
		}
	case *mcp.ListResourcesResult:
		if !whole(t) {
			r.Resources = []*mcp.Resource{}
		}
	case *mcp.ListResourceTemplatesResult:
		if !whole(t) {
			r.ResourceTemplates = []*mcp.ResourceTemplate{}
		}
	}
	return res
}
