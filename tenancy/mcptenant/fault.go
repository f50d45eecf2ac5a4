package mcptenant

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// UserError is an error whose whole text is meant for the caller, formatted as
// by [fmt.Errorf]. A handler returns it for what the caller can put right:
//
//	return nil, out, mcptenant.UserError("no product %q", in.Name)
//
// Every other error of a handler reaches the caller only as its class and a
// reference to the log, because an error of a database or of another service
// may name hosts, statements or other tenants. An error type of any package
// takes part by a method UserMessage() string, which returns the text to show.
// It counts wherever it is in the chain of wrapped errors.
func UserError(format string, args ...any) error {
	return &userError{fmt.Errorf(format, args...)}
}

type userError struct{ err error }

func (e *userError) Error() string       { return e.err.Error() }
func (e *userError) UserMessage() string { return e.err.Error() }
func (e *userError) Unwrap() error       { return errors.Unwrap(e.err) }

// Fault is a panic, or an error that was hidden from the caller.
type Fault struct {
	Tenant tenant.ID
	Method string // as "tools/call"
	Tool   string // "" unless the method is tools/call; not always a tool that exists

	// Class is what the caller was told: "panic" (which the caller sees as
	// internal), "internal", "unavailable", "timeout" or "canceled".
	Class string

	// Reference is what the caller was given to quote, and the log carries.
	Reference string

	// Err is what happened. Its text may hold anything.
	Err error
}

var (
	errTimeout = errors.New("mcptenant: the call took too long")
	errPanic   = errors.New("mcptenant: handler panicked")
)

// call is what is known of the call that is being handled.
type call struct {
	*middleware
	tenant tenant.Tenant
	method string
	tool   string
}

// report logs and counts err, and returns the text for the caller.
func (c *call) report(ctx context.Context, err error, stack []byte) string {
	class, text := classify(ctx, err)
	f := Fault{Tenant: c.tenant.ID, Method: c.method, Tool: c.tool, Class: class, Err: err}
	level := slog.LevelError
	switch class {
	case "canceled":
		level = slog.LevelDebug
	case "timeout":
		level = slog.LevelWarn
	default:
		f.Reference = rand.Text()[:12]
		text += " (reference " + f.Reference + ")"
	}
	attrs := []slog.Attr{
		slog.String("tenant", f.Tenant.String()), slog.String("method", f.Method), slog.String("tool", clip(f.Tool)),
		slog.String("class", class), slog.String("reference", f.Reference), slog.Any("err", err),
	}
	if stack != nil {
		attrs = append(attrs, slog.String("stack", string(stack)))
	}
	c.log.LogAttrs(ctx, level, "mcptenant: call failed", attrs...)
	if c.opts.OnFault != nil {
		c.opts.OnFault(ctx, f)
	}
	return text
}

func classify(ctx context.Context, err error) (class, text string) {
	var network *net.OpError
	var passing interface{ Temporary() bool }
	switch {
	case errors.Is(err, errPanic):
		return "panic", "internal error"
	case errors.Is(context.Cause(ctx), errTimeout):
		return "timeout", "timeout: the call took too long and was stopped"
	case ctx.Err() != nil:
		return "canceled", "canceled"
	case errors.As(err, &network), errors.As(err, &passing) && passing.Temporary():
		return "unavailable", "unavailable: a service behind this one can't be reached now, retry later"
	}
	return "internal", "internal error"
}

// panicked turns a panic into the answer to this one call.
func (c *call) panicked(ctx context.Context, p any) (mcp.Result, error) {
	text := c.report(ctx, fmt.Errorf("%w: %v", errPanic, p), debug.Stack())
	if c.method == "tools/call" {
		return refused(text), nil
	}
	return nil, &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: text}
}

// explain rewrites the text of a failed tool call to what the caller may see.
// Content that the handler wrote by itself is left alone.
func (c *call) explain(ctx context.Context, result *mcp.CallToolResult) {
	err := result.GetError()
	if err == nil {
		return
	}
	if len(result.Content) == 1 {
		if t, ok := result.Content[0].(*mcp.TextContent); !ok || t.Text != err.Error() {
			return
		}
	} else if len(result.Content) > 1 {
		return
	}
	text, ok := userText(err)
	if !ok {
		text = c.report(ctx, err, nil)
	}
	result.Content = []mcp.Content{&mcp.TextContent{Text: text}}
}

// userText returns the text of an error that is meant for the caller.
func userText(err error) (text string, ok bool) {
	var shown interface{ UserMessage() string }
	if errors.As(err, &shown) {
		return shown.UserMessage(), true
	}
	// What the SDK says of arguments that don't fit the schema, or fit the
	// schema but not the Go type. It has no type of its own; a wrapped error,
	// which only a handler returns, is none of these.
	switch e := err.(type) {
	case *json.UnmarshalTypeError:
		return fmt.Sprintf("invalid arguments: %q can't be %s", e.Field, e.Value), true
	case *time.ParseError:
		return fmt.Sprintf("invalid arguments: %q is not a time", e.Value), true
	}
	if strings.HasPrefix(err.Error(), `validating "arguments": `) && errors.Unwrap(err) == nil {
		return "invalid arguments: " + strings.TrimPrefix(err.Error(), `validating "arguments": `), true
	}
	return "", false
}

// protocolError is what the caller sees of an error that is not a tool's
// result.
func (c *call) protocolError(ctx context.Context, err error) error {
	if wire, ok := err.(*jsonrpc.Error); ok {
		return wire // made to be sent
	}
	if text, ok := userText(err); ok {
		return &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: text}
	}
	var wire *jsonrpc.Error
	if errors.As(err, &wire) {
		if handshake(c.method) {
			return err // no handler of the application ran: the text is the SDK's
		}
		return &jsonrpc.Error{Code: wire.Code, Message: wire.Message}
	}
	text := c.report(ctx, err, nil)
	code := int64(jsonrpc.CodeInternalError)
	if errors.Is(context.Cause(ctx), errTimeout) {
		code = codeTimeout
	}
	return &jsonrpc.Error{Code: code, Message: text}
}

func clip(s string) string {
	const most = 128
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
