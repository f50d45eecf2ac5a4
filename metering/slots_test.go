package metering_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func plansOf(p metering.Plan) *metering.Options {
	return &metering.Options{Plans: map[tenant.Plan]metering.Plan{tenant.Free: p}}
}

// A call holds its slot while it runs, and no longer, however it ends.
// Mutation seen here: a slot that is freed only if the charge changes.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	b := newBench(t, plansOf(metering.Plan{Limits: []metering.Limit{metering.PerHour(100), metering.Concurrent(1)}}))
	var inner error
	search := metering.WithMetering(b.meter, "search", func(ctx context.Context, _ *mcp.CallToolRequest, _ noArgs) (*mcp.CallToolResult, answer, error) {
		// A second call of the tenant, not one within this one.
		_, inner = invoke(b.ctx(t), metering.WithMetering(b.meter, "report", ok), "report", nil)
		return nil, answer{}, nil
	})
	_, err := invoke(b.ctx(t), search, "search", nil)
	require.NoError(t, err)
	var quota *metering.QuotaError
	require.ErrorAs(t, inner, &quota)
	require.Equal(t, "concurrent", quota.Limit)
	require.Equal(t, metering.CodeRateLimited, quota.Code)
	b.requireCharged(t, 1)

	failing := metering.WithMetering(b.meter, "search", func(context.Context, *mcp.CallToolRequest, noArgs) (*mcp.CallToolResult, answer, error) {
		return nil, answer{}, errors.New("no")
	})
	_, err = invoke(b.ctx(t), failing, "search", nil)
	require.EqualError(t, err, "no")
	_, err = invoke(b.ctx(t), metering.WithMetering(b.meter, "report", ok), "report", nil)
	require.NoError(t, err)
}

// What is left is what the next calls may use. Mutations seen here: Remaining that
// tells of the slot that its question weighs, as the limiter does, and one that adds
// it although all are taken.
func TestConcurrentRemaining(t *testing.T) {
	t.Parallel()
	b := newBench(t, plansOf(metering.Plan{
		Limits: []metering.Limit{metering.Concurrent(2), metering.PerHour(100), {Name: "wish", Units: 1, Hold: time.Second, Mode: metering.Soft}},
		Tools:  map[string][]metering.Limit{"report": {metering.Concurrent(1)}},
	}))
	requireLeft := func(want map[string]int64) {
		t.Helper()
		limits, err := b.meter.Remaining(b.ctx(t))
		require.NoError(t, err)
		left := make(map[string]int64)
		for _, l := range limits {
			left[l.Name] = l.Remaining
		}
		require.Equal(t, want, left)
	}
	requireLeft(map[string]int64{"concurrent": 2, "hour": 100, "wish": 1, "report concurrent": 1})
	within := func(tool string, do func()) {
		h := metering.WithMetering(b.meter, tool, func(context.Context, *mcp.CallToolRequest, noArgs) (*mcp.CallToolResult, answer, error) {
			do()
			return nil, answer{}, nil
		})
		_, err := invoke(b.ctx(t), h, tool, nil)
		require.NoError(t, err)
	}
	within("search", func() {
		requireLeft(map[string]int64{"concurrent": 1, "hour": 99, "wish": 0, "report concurrent": 1})
		within("report", func() { requireLeft(map[string]int64{"concurrent": 0, "hour": 79, "wish": 0, "report concurrent": 0}) })
	})
	requireLeft(map[string]int64{"concurrent": 2, "hour": 79, "wish": 1, "report concurrent": 1})
}

// A call that has ended holds no slot any more: what it tells of is a quota.
// Mutation seen here: without the look at Hold in stateMeta, it tells of a slot
// of which none is left.
func TestConcurrentIsNoQuota(t *testing.T) {
	t.Parallel()
	b := newBench(t, plansOf(metering.Plan{Limits: []metering.Limit{metering.PerHour(40), metering.PerMonth(50), metering.Concurrent(1)}}))
	server := newServer()
	var s *mcp.ClientSession
	var inner *mcp.CallToolResult
	mcp.AddTool(server, &mcp.Tool{Name: "search"}, metering.WithMetering(b.meter, "search", func(context.Context, *mcp.CallToolRequest, noArgs) (*mcp.CallToolResult, answer, error) {
		inner = call(t, s, "report", nil)
		return nil, answer{}, nil
	}))
	mcp.AddTool(server, &mcp.Tool{Name: "report"}, ok)
	s = b.serve(t, server, true)
	require.Equal(t, map[string]any{"plan": "free", "units": 1.0, "limit": "hour", "allowed": 40.0, "remaining": 39.0}, quota(t, call(t, s, "search", nil)))
	require.True(t, inner.IsError)
	require.Equal(t, []any{"concurrent", 1.0, 0.0}, []any{quota(t, inner)["limit"], quota(t, inner)["allowed"], quota(t, inner)["remaining"]})
}

// The slot of a call that takes longer than Hold is renewed. Mutation seen
// here: without the renewing, the second call is admitted.
func TestConcurrentLongCall(t *testing.T) {
	t.Parallel()
	memory := metering.NewMemory(nil)
	renewed := make(chan struct{}, 100)
	meter, err := metering.New(renewing{memory, renewed}, &meteringtest.Sink{}, plansOf(metering.Plan{
		Limits: []metering.Limit{{Units: 1, Hold: 3 * time.Second}},
	}))
	require.NoError(t, err)
	ctx := tenant.NewContext(t.Context(), newTenant(tenant.Free))
	long := metering.WithMetering(meter, "long", func(context.Context, *mcp.CallToolRequest, noArgs) (*mcp.CallToolResult, answer, error) {
		for range 5 { // a third of Hold each
			select {
			case <-renewed:
			case <-time.After(time.Minute):
				return nil, answer{}, errors.New("nobody renews")
			}
		}
		_, err := invoke(ctx, metering.WithMetering(meter, "other", ok), "other", nil)
		require.ErrorIs(t, err, metering.ErrQuotaExceeded)
		return nil, answer{}, nil
	})
	_, err = invoke(ctx, long, "long", nil)
	require.NoError(t, err)
	_, err = invoke(ctx, metering.WithMetering(meter, "other", ok), "other", nil)
	require.NoError(t, err)
}

type renewing struct {
	*metering.Memory
	renewed chan struct{}
}

func (r renewing) Renew(ctx context.Context, d metering.Decision) error {
	defer func() { r.renewed <- struct{}{} }()
	return r.Memory.Renew(ctx, d)
}

func TestReset(t *testing.T) {
	t.Parallel()
	b := newBench(t, plansOf(metering.Plan{
		Limits: []metering.Limit{metering.PerHour(20), metering.PerMonth(20), {Units: 20, Period: metering.CalendarDay}},
		Tools:  map[string][]metering.Limit{"report": {metering.PerMinute(20)}},
	}))
	report := metering.WithMetering(b.meter, "report", ok)
	_, err := invoke(b.ctx(t), report, "report", nil)
	require.NoError(t, err)
	_, err = invoke(b.ctx(t), report, "report", nil)
	require.ErrorIs(t, err, metering.ErrQuotaExceeded)
	require.NoError(t, b.meter.Reset(t.Context(), b.tenant))
	_, err = invoke(b.ctx(t), report, "report", nil)
	require.NoError(t, err)
	require.ErrorIs(t, b.meter.Reset(t.Context(), tenant.Tenant{ID: b.tenant.ID, Plan: "none"}), metering.ErrUnknownPlan)
}
