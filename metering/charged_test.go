package metering_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func adds(units ...int64) handler {
	return func(ctx context.Context, _ *mcp.CallToolRequest, _ noArgs) (*mcp.CallToolResult, answer, error) {
		for _, n := range units {
			if err := metering.AddUnits(ctx, n); err != nil {
				return nil, answer{}, err
			}
		}
		return nil, answer{}, nil
	}
}

// outOfTime is a call whose time is up before it has done its work.
func outOfTime(ctx context.Context, _ *mcp.CallToolRequest, _ noArgs) (*mcp.CallToolResult, answer, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	return nil, answer{}, ctx.Err()
}

// asksFirst asks for input in a round of its own.
func asksFirst(_ context.Context, req *mcp.CallToolRequest, _ noArgs) (*mcp.CallToolResult, answer, error) {
	if len(req.Params.InputResponses) == 0 {
		return &mcp.CallToolResult{InputRequests: mcp.InputRequestMap{"sure": &mcp.ElicitParams{Message: "Really?"}}}, answer{}, nil
	}
	return nil, answer{"sure"}, nil
}

// asksWithin asks for input while it runs, as older revisions can in a session.
func asksWithin(ctx context.Context, req *mcp.CallToolRequest, _ noArgs) (*mcp.CallToolResult, answer, error) {
	_, err := req.Session.Elicit(ctx, &mcp.ElicitParams{Message: "Really?"})
	return nil, answer{"sure"}, err
}

// What the quota has been charged on a real Redis is what the events say, by every
// policy, in both eras of the protocol, with and without an idempotency key, however
// a call ends and whatever it says that it costs.
//
// Mutations seen here: AddUnits that replaces what was reserved, or what Charge said;
// interim rounds that are charged on start.
func TestChargedAsRecorded(t *testing.T) {
	t.Parallel()
	type charged [3]int64 // on success, on start, always
	calls := map[string]struct {
		handler   handler
		charged   charged
		stateless bool // only without a session
		stateful  bool // only with one
	}{
		"ok":                {handler: ok, charged: charged{20, 20, 20}},
		"error":             {handler: fails, charged: charged{0, 20, 20}},
		"panic":             {handler: panics, charged: charged{0, 20, 20}},
		"out of time":       {handler: outOfTime, charged: charged{0, 20, 20}},
		"less":              {handler: charges(7), charged: charged{7, 7, 7}},
		"nothing":           {handler: charges(0), charged: charged{0, 0, 0}},
		"more":              {handler: charges(33), charged: charged{33, 33, 33}},
		"added":             {handler: adds(5, 0, 8), charged: charged{33, 33, 33}},
		"asks first, new":   {handler: asksFirst, charged: charged{20, 20, 40}, stateless: true},
		"asks first, older": {handler: asksFirst, charged: charged{20, 20, 40}, stateful: true},
		"asks within":       {handler: asksWithin, charged: charged{20, 20, 20}, stateful: true},
		"charged and added": {handler: func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
			_ = metering.AddUnits(ctx, 3)
			_ = metering.Charge(ctx, 10)
			return adds(4)(ctx, req, in)
		}, charged: charged{17, 17, 17}},
	}
	for era, stateless := range eras {
		for policy := range 3 {
			t.Run(fmt.Sprintf("%s policy=%d", era, policy), func(t *testing.T) {
				t.Parallel()
				b, _ := throughGate(t, metering.Options{Tools: map[string]metering.Tool{
					"report": {Units: 20, Charge: metering.ChargePolicy(policy)},
				}})
				run(t, b.meter)
				var now atomic.Pointer[handler]
				var who atomic.Pointer[tenant.Tenant]
				asWho := func(next mcp.MethodHandler) mcp.MethodHandler {
					return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
						if w := who.Load(); w != nil {
							ctx = tenant.NewContext(ctx, *w)
						}
						return next(ctx, method, req)
					}
				}
				server := newServer()
				mcp.AddTool(server, &mcp.Tool{Name: "report"}, metering.WithMetering(b.meter, "report",
					func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
						return (*now.Load())(ctx, req, in)
					}))
				server.AddReceivingMiddleware(recovering, asWho, b.meter.Middleware())
				s := connect(t, server, stateless)
				for name, test := range calls {
					if test.stateless && !stateless || test.stateful && stateless {
						continue
					}
					for _, key := range []string{"", name} {
						caller := newTenant(tenant.Starter)
						who.Store(&caller)
						now.Store(&test.handler)
						want := test.charged[policy]
						for range 2 { // sent again with the key, it is charged once
							params := &mcp.CallToolParams{Name: "report"}
							if key != "" {
								params.Meta = withKey(key)
							}
							_, _ = s.CallTool(t.Context(), params)
							require.NoError(t, b.agrees(t, caller), "%s, key %q", name, key)
							if key == "" || policy == 2 && want == 40 {
								break // a round that is charged under the key pays for the next
							}
						}
						if key != "" && want == 40 {
							want = 20
						}
						require.Equal(t, want, b.sink.Units(caller.ID), "%s, key %q", name, key)
					}
				}
			})
		}
	}
}

func recovering(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (res mcp.Result, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panicked: %v", p)
			}
		}()
		return next(ctx, method, req)
	}
}

func TestAddUnits(t *testing.T) {
	t.Parallel()
	require.Error(t, metering.AddUnits(t.Context(), 5))
	b := newBench(t, nil)
	for _, units := range []int64{-1, metering.MaxUnits + 1} {
		_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "search", adds(units)), "search", nil)
		require.ErrorContains(t, err, "want 0 to")
	}
	_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "search", adds(metering.MaxUnits, metering.MaxUnits)), "search", nil)
	require.NoError(t, err)
	b.requireCharged(t, 100) // as far as the limit admits it
}

// Units that are given back after the end of a period or of a window are taken from
// where they were taken, and the event stays where the call was decided.
//
// Mutations seen here: the bounds of the moment of the settlement, so that the new
// period loses units; its time, so that the new window does; and the event at its time.
func TestGivenBackAfterTheEnd(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]time.Duration{"of the month": 20 * 24 * time.Hour, "of the window": 61 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, plansOf(metering.Plan{Limits: []metering.Limit{metering.PerHour(1_000), metering.PerMonth(2_000)}}))
			before := b.clock.Now()
			report := metering.WithMetering(b.meter, "report", func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
				b.clock.Advance(end)
				_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "search", ok), "search", nil)
				require.NoError(t, err)
				return charges(7)(ctx, req, in)
			})
			_, err := invoke(b.ctx(t), report, "report", nil)
			require.NoError(t, err)
			limits, err := b.meter.Remaining(b.ctx(t))
			require.NoError(t, err)
			require.EqualValues(t, 999, limits[0].Remaining, "the window has the call within it alone")
			month := int64(1_999)
			if name == "of the window" {
				month -= 7
			}
			require.Equal(t, month, limits[1].Remaining)
			for _, e := range b.sink.Events() {
				if e.Tool == "report" {
					require.EqualValues(t, 7, e.Units)
					require.Equal(t, before, e.Time)
				}
			}
		})
	}
}

// A clock of the limiter's that is ahead of ours does not move an event out of the
// period that its units were taken from.
//
// Mutation seen here: by the limiter's clock alone, the event is the next month's.
func TestEventInItsPeriod(t *testing.T) {
	t.Parallel()
	memory, clock := meteringtest.NewLimiter()
	limiter := &limiterFunc{Limiter: memory}
	limiter.take = func(ctx context.Context, r metering.Request) (metering.Decision, error) {
		d, err := memory.Take(ctx, r)
		d.Time = d.Time.AddDate(0, 1, 0)
		return d, err
	}
	b := newBenchOn(t, limiter, clock, plansOf(metering.Plan{Limits: []metering.Limit{metering.PerMonth(2_000)}}))
	_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "search", ok), "search", nil)
	require.NoError(t, err)
	require.Equal(t, clock.Now().Month(), b.sink.Events()[0].Time.Month())
}
