package metering_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
)

func TestCoverage(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	server := newServer()
	// Neither a tenant that is missing nor a filter may hide a tool.
	server.AddReceivingMiddleware(func(mcp.MethodHandler) mcp.MethodHandler {
		return func(context.Context, string, mcp.Request) (mcp.Result, error) { return nil, errors.New("no tenant") }
	})
	mcp.AddTool(server, &mcp.Tool{Name: "search"}, metering.WithMetering(b.meter, "search", ok))
	require.NoError(t, b.meter.Coverage(t.Context(), server))

	mcp.AddTool(server, &mcp.Tool{Name: "report"}, ok)
	err := b.meter.Coverage(t.Context(), server)
	require.ErrorContains(t, err, `"report" is not metered`)
	require.NotContains(t, err.Error(), "search")

	server.AddReceivingMiddleware(b.meter.Middleware())
	require.NoError(t, b.meter.Coverage(t.Context(), server))
	mcp.AddTool(server, &mcp.Tool{Name: "unpriced"}, ok)
	require.ErrorContains(t, b.meter.Coverage(t.Context(), server), `"unpriced" has no price`)
	for range server.Sessions() {
		t.Fatal("a session is left behind")
	}
}

func TestManyPagesOfTools(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	server := mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "v1.0.0"}, &mcp.ServerOptions{PageSize: 2})
	for i := range 5 {
		mcp.AddTool(server, &mcp.Tool{Name: fmt.Sprintf("tool%d", i)}, ok)
	}
	require.ErrorContains(t, b.meter.Coverage(t.Context(), server), `"tool4" is not metered`)
}

// A server for each version, or each tenant: the Middleware of one is not that of
// another.
//
// Mutations seen here: a Middleware that is noted for its meter, whichever server
// it was put into, or whichever meter it is of; mcptenant.Middleware that asks who
// calls; a probe that runs what is inside of the Middleware.
func TestCoverageOfServers(t *testing.T) {
	t.Parallel()
	b, stranger := newBench(t, nil), newBench(t, nil)
	inside := 0
	counting := func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			inside++
			return next(ctx, method, req)
		}
	}
	nobody := func(mcp.MethodHandler) mcp.MethodHandler {
		return func(_ context.Context, _ string, req mcp.Request) (mcp.Result, error) {
			return nil, fmt.Errorf("tenant %s has no access", req.GetExtra().TokenInfo.UserID)
		}
	}
	covered := func(middleware ...mcp.Middleware) error {
		server := newServer()
		mcp.AddTool(server, &mcp.Tool{Name: "report"}, ok)
		server.AddReceivingMiddleware(middleware...)
		return b.meter.Coverage(t.Context(), server)
	}
	const free = `"report" is not metered`
	require.NoError(t, covered(mcptenant.Middleware(nil), b.meter.Middleware(), counting))
	require.ErrorContains(t, covered(mcptenant.Middleware(nil)), free)
	require.ErrorContains(t, covered(), free)
	require.ErrorContains(t, covered(stranger.meter.Middleware()), free)
	require.NoError(t, covered(stranger.meter.Middleware(), b.meter.Middleware()))
	require.ErrorContains(t, covered(nobody, b.meter.Middleware()), free, "whether calls pass can't be seen")
	require.NoError(t, covered(b.meter.Middleware(), nobody))
	require.Zero(t, inside)
	require.Empty(t, b.sink.Events())
}
