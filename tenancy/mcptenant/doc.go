// Package mcptenant tells an MCP server of the official Go SDK which tenant
// each call belongs to, and keeps one tenant's calls from harming another's.
//
// Two pieces, both needed:
//
//	server := mcp.NewServer(impl, mcptenant.ServerOptions(nil))
//	server.AddReceivingMiddleware(mcptenant.Middleware(nil))
//	mux.Handle("/mcp", mcptenant.Authenticate(keys, mcp.NewStreamableHTTPHandler(
//		func(*http.Request) *mcp.Server { return server },
//		&mcp.StreamableHTTPOptions{Stateless: true, PropagateRequestCancellation: true},
//	), nil))
//
// [Authenticate] judges the bearer token of every HTTP request by an
// [Authenticator]: API keys (package apikey), JWTs ([NewJWT]), or [Any] of
// several. [Middleware] takes the tenant from the verified token of the very
// call it handles and puts it into the context, where tenancy, metering and a
// handler's own code find it by [tenant.FromContext]. There is no default: a
// call without a tenant is refused. Neither piece works without the other, so a
// forgotten one shows at once.
//
// The tenant never comes from the HTTP request's context. In a stateful MCP
// session that context is the one of the request that opened the session,
// whoever sent the present one.
//
// A handler's error reaches the caller only when it says that it may, see
// [UserError]; a handler's panic ends its own call.
package mcptenant
