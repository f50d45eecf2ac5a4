package metering_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var offers = map[tenant.Plan]metering.Plan{
	tenant.Free: {Limits: []metering.Limit{metering.PerHour(100)}, Without: []string{"report", "help"}},
	tenant.Pro:  {},
}

func listed(t *testing.T, s *mcp.ClientSession) []string {
	t.Helper()
	var names []string
	for tool, err := range s.Tools(t.Context(), nil) {
		require.NoError(t, err)
		names = append(names, tool.Name)
	}
	return names
}

// Mutations: without the predicate in admit, the tool runs for whoever knows its
// name; without that in listTools, it is listed.
func TestToolsByPlan(t *testing.T) {
	t.Parallel()
	for era, stateless := range eras {
		t.Run(era, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, &metering.Options{Plans: offers})
			server := newServer()
			mcp.AddTool(server, &mcp.Tool{Name: "search"}, metering.WithMetering(b.meter, "search", ok))
			mcp.AddTool(server, &mcp.Tool{Name: "report"}, metering.WithMetering(b.meter, "report", ok))
			mcp.AddTool(server, &mcp.Tool{Name: "help"}, ok) // metered by the middleware
			s := b.serve(t, server, stateless)
			require.NoError(t, b.meter.Coverage(t.Context(), server), "a tool that is not everybody's is covered all the same")

			require.Equal(t, []string{"search"}, listed(t, s))
			for _, tool := range []string{"report", "help"} {
				res := call(t, s, tool, nil)
				require.True(t, res.IsError)
				require.Equal(t, "not_in_plan: "+tool+" is not part of plan free", text(t, res))
				require.Equal(t, map[string]any{"code": "not_in_plan", "plan": "free"}, quota(t, res))
			}
			b.requireCharged(t, 0)
			for _, e := range b.sink.Events() {
				require.Equal(t, usage.Denied, e.Outcome)
			}
			require.False(t, call(t, s, "search", nil).IsError)

			b.tenant.Plan = tenant.Pro // within the session
			require.Equal(t, []string{"help", "report", "search"}, listed(t, s))
			require.False(t, call(t, s, "report", nil).IsError)

			b.tenant.Plan, b.tenant.Scopes = tenant.Free, []string{tenant.ScopeCanary}
			require.Len(t, listed(t, s), 3, "the platform's probe sees the whole product")
			require.False(t, call(t, s, "help", nil).IsError)
		})
	}
}

func TestNotInPlanIsAnError(t *testing.T) {
	t.Parallel()
	b := newBench(t, &metering.Options{Plans: offers})
	_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "report", ok), "report", nil)
	require.ErrorIs(t, err, metering.ErrNotInPlan)
	require.NotErrorIs(t, err, metering.ErrQuotaExceeded)
	_, err = metering.New(b.limiter, b.sink, &metering.Options{Plans: map[tenant.Plan]metering.Plan{tenant.Free: {Without: []string{"x"}}}})
	require.ErrorContains(t, err, `Plans["free"].Without[0]: no tool "x"`)
}

// A page of which the plan leaves nothing is no end of the list. Mutation: without
// the loop in listTools, a client that takes an empty page for the end, or asks for
// one page, sees no tool at all.
func TestPagesOfToolsByPlan(t *testing.T) {
	t.Parallel()
	tools := make(map[string]metering.Tool)
	var hidden, shown []string
	for i := range 40 {
		name := fmt.Sprintf("tool_%02d", i)
		tools[name] = metering.Tool{Units: 1}
		if i < 10 || i >= 20 && i < 23 {
			shown = append(shown, name)
		} else {
			hidden = append(hidden, name)
		}
	}
	shown, hidden = hidden, shown // the first three pages have nothing for free
	b := newBench(t, &metering.Options{Tools: tools, Plans: map[tenant.Plan]metering.Plan{tenant.Free: {Without: hidden}}})
	server := mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "v1.0.0"}, &mcp.ServerOptions{PageSize: 3})
	for name := range tools {
		mcp.AddTool(server, &mcp.Tool{Name: name}, metering.WithMetering(b.meter, name, ok))
	}
	s := b.serve(t, server, true)
	var names []string
	params := &mcp.ListToolsParams{}
	for {
		page, err := s.ListTools(t.Context(), params)
		require.NoError(t, err)
		require.NotEmpty(t, page.Tools)
		for _, tool := range page.Tools {
			names = append(names, tool.Name)
		}
		if page.NextCursor == "" {
			break
		}
		params.Cursor = page.NextCursor
	}
	require.True(t, slices.IsSorted(names))
	require.ElementsMatch(t, shown, names)
}
