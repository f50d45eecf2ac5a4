package metering

import (
	"context"
	"errors"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/metering/usage"
)

// WithMetering meters a typed tool handler where it is registered:
//
//	mcp.AddTool(server, &mcp.Tool{Name: "search"}, metering.WithMetering(meter, "search", search))
//
// The handler runs once its arguments have passed the tool's schema, the tenant
// is known, and the price of the tool has been taken from every limit of the
// tenant's plan. It is charged by the tool's [ChargePolicy] when it ends, also
// by a panic, which goes on after the units have been settled. A call that may
// not run gets an error: [*QuotaError], or one of the sentinels of this package.
//
// Tool is the name under which the handler is registered. Wrapping twice, and
// [Meter.Middleware] besides, charge once.
func WithMetering[In, Out any](m *Meter, tool string, h mcp.ToolHandlerFor[In, Out]) mcp.ToolHandlerFor[In, Out] {
	m.mu.Lock()
	m.wrapped[tool] = true
	m.mu.Unlock()
	return func(ctx context.Context, req *mcp.CallToolRequest, in In) (*mcp.CallToolResult, Out, error) {
		var none Out
		ctx, c, shared := m.enter(ctx)
		if c.state == running {
			return h(ctx, req, in) // metered already, by a wrapper around this one or by the middleware
		}
		if c.state == ended {
			// An older protocol's second round within one request: the first has
			// ended by asking for input.
			if err := m.finish(ctx, c, c.outcome); err != nil {
				return nil, none, err
			}
		}
		c.begun = true
		if err := m.reserve(ctx, c, tool, req); err != nil {
			return nil, none, err
		}
		defer m.settlePanic(ctx, c)
		res, out, err := h(ctx, req, in)
		c.state, c.outcome = ended, outcomeOf(ctx, res, err)
		if shared {
			return res, out, err // the middleware finishes, when the output has passed its schema
		}
		if err := m.finish(ctx, c, c.outcome); err != nil {
			return nil, none, err
		}
		return res, out, err
	}
}

// settlePanic is deferred around a tool: if it is still running, it panicked.
// The panic is not recovered, so that it keeps its stack.
func (m *Meter) settlePanic(ctx context.Context, c *call) {
	if c.state == running {
		m.finish(ctx, c, usage.Panicked) // nobody is left to be told of an error; it has been logged
	}
}

// Charge makes the running call of a metered tool cost units when it ends,
// instead of what was reserved for it; the last call of Charge counts, and the
// tool's ChargePolicy still decides whether it is charged at all. More than was
// reserved is charged as far as the limits of the tenant still admit it, so
// reserve the most that a call may cost. The replay of a call with an
// idempotency key costs what its first run did. A call of a tool that is Free stays
// free, as does a probe by the platform: one handler may serve free tools and others.
// A tool that costs what its handler says and nothing else has a UnitsFunc that
// returns 0.
//
// Charge returns an error if units is negative or more than MaxUnits, or if ctx
// is not that of a metered call.
func Charge(ctx context.Context, units int64) error {
	c, err := runningCall(ctx, units)
	if err == nil {
		c.charge.Store(units)
	}
	return err
}

// AddUnits makes the running call of a metered tool cost units more when it ends,
// on top of what was reserved for it or of what Charge says: for a handler that
// finds out piece by piece what it uses, in several goroutines if it likes. All
// else is as for Charge.
func AddUnits(ctx context.Context, units int64) error {
	c, err := runningCall(ctx, units)
	if err != nil {
		return err
	}
	if c.added.Add(units) > MaxUnits {
		c.added.Store(MaxUnits)
	}
	return nil
}

func runningCall(ctx context.Context, units int64) (*call, error) {
	if units < 0 || units > MaxUnits {
		return nil, fmt.Errorf("metering: charge %d units: want 0 to %d", units, int64(MaxUnits))
	}
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return nil, errors.New("metering: charge: no metered call in context")
	}
	return c, nil
}
