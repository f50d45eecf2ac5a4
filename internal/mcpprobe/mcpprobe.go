// Package mcpprobe marks the request by which a program asks, at its start, whether
// a middleware is in a server's chain. A middleware outside of that one lets it
// through without asking who calls; it serves nothing, and no client can send it:
// the mark is in the context.
package mcpprobe

import "context"

type key struct{}

// NewContext marks requests that are made with the context that it returns.
func NewContext(ctx context.Context) context.Context {
	return context.WithValue(ctx, key{}, true)
}

// In reports whether ctx is that of a marked request.
func In(ctx context.Context) bool { return ctx.Value(key{}) != nil }
