package metering_test

import (
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// What a refusal tells is of one limit, the one that holds the call the longest.
// Mutations seen here: the name and units of the first that refused, and a limit
// that never admits the call taken for one that admits it at once.
func TestRefusalOfSeveralLimits(t *testing.T) {
	t.Parallel()
	b := newBench(t, plansOf(metering.Plan{
		Limits: []metering.Limit{metering.PerHour(20), metering.PerDay(25)},
		Tools:  map[string][]metering.Limit{"report": {metering.PerMinute(30)}},
	}))
	search, report := metering.WithMetering(b.meter, "search", ok), metering.WithMetering(b.meter, "report", ok)
	_, err := invoke(b.ctx(t), report, "report", nil)
	require.NoError(t, err)
	_, err = invoke(b.ctx(t), search, "search", nil)
	require.EqualError(t, err, "quota_exceeded: search limit reached for plan free; 20 of 20 units used (hour), retry in 3600s")

	_, err = invoke(b.ctx(t), report, "report", nil) // the hour, the day and the minute
	var quota *metering.QuotaError
	require.ErrorAs(t, err, &quota)
	require.Equal(t, &metering.QuotaError{
		Code: metering.CodeQuotaExceeded, Tool: "report", Plan: tenant.Free, Limit: "day", Units: 20,
		Allowed: 25, Used: 20, Remaining: 5, RetryAfter: 24 * time.Hour, ResetAt: b.clock.Now().UTC().Add(24 * time.Hour),
	}, quota)

	b.tenant.Limits = []tenant.Limit{{Name: "report minute", Units: 10}}
	_, err = invoke(b.ctx(t), report, "report", nil)
	require.EqualError(t, err, "rate_limited: report limit reached for plan free; the call costs 20 units, more than the limit of 10 (report minute) ever allows")
}

// Mutations seen here: ErrUnknownPlan itself returned, which has no code, by admit and
// by the usage tool.
func TestUnknownPlan(t *testing.T) {
	t.Parallel()
	b := newBench(t, &metering.Options{Tools: map[string]metering.Tool{"search": {Units: 1}, "usage": {Free: true}}})
	b.tenant.Plan = "gold"
	_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "search", ok), "search", nil)
	require.ErrorIs(t, err, metering.ErrUnknownPlan)
	require.NotErrorIs(t, err, metering.ErrQuotaExceeded)
	require.Zero(t, b.sink.Units(b.tenant.ID))
	require.Equal(t, usage.Error, b.sink.Events()[0].Outcome, "no limit has denied it")

	server := newServer()
	b.meter.AddUsage(server, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "search"}, ok)
	s := b.serve(t, server, true)
	for _, tool := range []string{"search", "usage"} {
		res := call(t, s, tool, nil)
		require.True(t, res.IsError)
		require.Equal(t, "unknown_plan: "+tool+" can't be used; plan gold is not set up", text(t, res))
		require.Equal(t, map[string]any{"code": "unknown_plan", "plan": "gold"}, quota(t, res))
	}
}
