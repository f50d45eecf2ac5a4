package metering_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func TestAddUsage(t *testing.T) {
	t.Parallel()
	for era, stateless := range eras {
		t.Run(era, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, &metering.Options{
				Tools: map[string]metering.Tool{"search": {Units: 1}, "report": {Units: 20}, "usage": {Free: true}},
				Plans: map[tenant.Plan]metering.Plan{tenant.Free: {Limits: []metering.Limit{
					metering.PerHour(100), {Name: "cap", Units: 5, Period: metering.BillingPeriod, Mode: metering.Soft}, {Name: "tried", Units: 1, Window: 24 * time.Hour, Mode: metering.Shadow},
				}, Tools: map[string][]metering.Limit{"search": {metering.PerDay(500)}, "report": {metering.PerHour(3)}}}},
			})
			b.tenant.PeriodStart = time.Date(2026, 11, 3, 0, 0, 0, 0, time.UTC)
			b.tenant.PeriodEnd = time.Date(2026, 12, 3, 0, 0, 0, 0, time.UTC)
			away := errors.New("secret cause")
			var fail, failGrants error
			server := newServer()
			b.meter.AddUsage(server, &metering.UsageOptions{Totals: func(_ context.Context, id tenant.ID, from, to time.Time) ([]metering.ToolUsage, error) {
				if fail != nil {
					return nil, fail
				}
				require.Equal(t, b.tenant.ID, id)
				require.Equal(t, b.tenant.PeriodStart, from)
				require.Equal(t, b.tenant.PeriodEnd, to)
				return []metering.ToolUsage{{Tool: "search", Calls: 7, Units: 7}, {Tool: "report", Calls: 1, Units: 20}}, nil
			}, Grants: func(_ context.Context, id tenant.ID) ([]metering.UsageGrant, error) {
				require.Equal(t, b.tenant.ID, id)
				return []metering.UsageGrant{
					{Kind: "free", Units: 9, Remaining: 2, From: b.tenant.PeriodStart, To: b.tenant.PeriodEnd},
					{Kind: "prepaid", Units: 1000, Remaining: 1000, From: b.tenant.PeriodStart},
				}, failGrants
			}})
			mcp.AddTool(server, &mcp.Tool{Name: "search"}, metering.WithMetering(b.meter, "search", ok))
			s := b.serve(t, server, stateless)
			for range 7 {
				res := call(t, s, "search", nil)
				require.False(t, res.IsError)
				require.Equal(t, "hour", quota(t, res)["limit"], "what only tells is not what is left")
			}
			const want = `{"plan": "free", "from": "2026-11-03T00:00:00Z", "to": "2026-12-03T00:00:00Z", "units": 27,
				"tools": [{"tool": "search", "calls": 7, "units": 7}, {"tool": "report", "calls": 1, "units": 20}],
				"grants": [{"kind": "free", "units": 9, "remaining": 2, "from": "2026-11-03T00:00:00Z", "to": "2026-12-03T00:00:00Z"},
					{"kind": "prepaid", "units": 1000, "remaining": 1000, "from": "2026-11-03T00:00:00Z"}],
				"limits": [{"limit": "hour", "units": 100, "remaining": 93}, {"limit": "cap", "units": 5, "remaining": 0, "soft": true},
					{"limit": "report hour", "units": 3, "remaining": 3}, {"limit": "search day", "units": 500, "remaining": 493}]}`
			res := call(t, s, "usage", nil)
			require.False(t, res.IsError)
			got, err := json.Marshal(res.StructuredContent)
			require.NoError(t, err)
			require.JSONEq(t, want, string(got))

			list, err := s.ListResources(t.Context(), nil)
			require.NoError(t, err)
			require.Len(t, list.Resources, 1)
			read, err := s.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: list.Resources[0].URI})
			require.NoError(t, err)
			require.Equal(t, "application/json", read.Contents[0].MIMEType)
			require.JSONEq(t, want, read.Contents[0].Text)
			require.EqualValues(t, 7, b.sink.Units(b.tenant.ID), "to look costs nothing")

			fail = away
			require.True(t, call(t, s, "usage", nil).IsError)
			fail, failGrants = nil, away
			require.True(t, call(t, s, "usage", nil).IsError)
			b.tenant = tenant.Tenant{}
			_, err = s.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: list.Resources[0].URI})
			require.Error(t, err, "nobody's usage is nobody's")
		})
	}
}

func TestAddUsageAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t, &metering.Options{Tools: map[string]metering.Tool{"mine": {Free: true}}})
	b.tenant = newTenant(tenant.Enterprise)
	server := newServer()
	b.meter.AddUsage(server, &metering.UsageOptions{Tool: "mine", URI: "usage://mine"})
	s := b.serve(t, server, true)
	require.NoError(t, b.meter.Coverage(t.Context(), server))
	got, err := json.Marshal(call(t, s, "mine", nil).StructuredContent)
	require.NoError(t, err)
	require.JSONEq(t, `{"plan": "enterprise", "from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z", "limits": []}`, string(got))
	_, err = s.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "usage://mine"})
	require.NoError(t, err)
}

func TestAddUsageOfNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, &metering.Options{Tools: map[string]metering.Tool{"usage": {Free: true}}})
	server := newServer()
	b.meter.AddUsage(server, &metering.UsageOptions{Totals: func(context.Context, tenant.ID, time.Time, time.Time) ([]metering.ToolUsage, error) {
		return []metering.ToolUsage{}, nil
	}, Grants: func(context.Context, tenant.ID) ([]metering.UsageGrant, error) { return []metering.UsageGrant{}, nil }})
	got, err := json.Marshal(call(t, b.serve(t, server, true), "usage", nil).StructuredContent)
	require.NoError(t, err)
	require.Contains(t, string(got), `"tools":[]`)
	require.Contains(t, string(got), `"units":0`)
	require.Contains(t, string(got), `"grants":[]`)
}

// What depends on the tenant says so to caches between it and the server, where
// nobody else does. Mutations seen here: the resource without its mark, and the list
// without the one in listTools.
func TestTenantsOwnIsPrivate(t *testing.T) {
	t.Parallel()
	b := newBench(t, &metering.Options{
		Tools: map[string]metering.Tool{"report": {Units: 1}, "help": {Free: true}, "usage": {Free: true}}, Plans: offers,
	})
	server := newServer()
	b.meter.AddUsage(server, nil)
	s := b.serve(t, server, true)
	read, err := s.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "usage://current"})
	require.NoError(t, err)
	require.Equal(t, "private", read.CacheScope)
	for _, plan := range []tenant.Plan{tenant.Free, tenant.Pro} {
		b.tenant.Plan = plan
		list, err := s.ListTools(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, "private", list.CacheScope, "one that is whole as well")
	}
}

// While the limiter is away, who looks is told what who calls is told, and the
// operator why. Mutation seen here: the error of Remaining handed on as it is.
func TestUsageInAnOutage(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	var log bytes.Buffer
	b := newBenchOn(t, limiter, clock, &metering.Options{
		Tools:  map[string]metering.Tool{"usage": {Free: true}},
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	server := newServer()
	b.meter.AddUsage(server, nil)
	s := b.serve(t, server, true)
	limiter.away.Store(true)
	const told = "metering_unavailable: usage can't be metered for plan free at the moment; retry in 1s"
	for range 10 { // the breaker opens meanwhile
		res := call(t, s, "usage", nil)
		require.True(t, res.IsError)
		require.Equal(t, told, text(t, res))
		require.Equal(t, map[string]any{"code": "metering_unavailable", "plan": "free", "retryAfterMs": 1000.0}, quota(t, res))
	}
	_, err := s.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "usage://current"})
	require.ErrorContains(t, err, told)
	require.Equal(t, 5, strings.Count(log.String(), "limiter can't be asked"), "once for each question, and not for those that were not asked")
	_, err = b.meter.Remaining(b.ctx(t))
	require.ErrorIs(t, err, metering.ErrUnavailable)
}
