package mcptenant

import (
	"context"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// ServerOptions returns a copy of opts (nil is fine) made fit for a server
// that many tenants share. What opts leaves unset becomes:
//
//   - SetCacheable: every list, resource and discovery answer is marked
//     private. The SDK's own default lets any intermediary serve one tenant's
//     list to another. A SetCacheable in opts still runs, after the mark.
//   - Capabilities: none of its own, rather than the deprecated logging.
//   - SchemaCache: one, so that a server per plan or per request is cheap.
func ServerOptions(opts *mcp.ServerOptions) *mcp.ServerOptions {
	var o mcp.ServerOptions
	if opts != nil {
		o = *opts
	}
	custom := o.SetCacheable
	o.SetCacheable = func(ctx context.Context, req mcp.Request, c *mcp.Cacheable) {
		c.CacheScope = "private"
		if custom != nil {
			custom(ctx, req, c)
		}
	}
	if o.Capabilities == nil {
		o.Capabilities = &mcp.ServerCapabilities{}
	}
	if o.SchemaCache == nil {
		o.SchemaCache = mcp.NewSchemaCache()
	}
	return &o
}
