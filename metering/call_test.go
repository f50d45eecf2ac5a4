package metering_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

type handler = mcp.ToolHandlerFor[noArgs, answer]

func fails(context.Context, *mcp.CallToolRequest, noArgs) (*mcp.CallToolResult, answer, error) {
	return nil, answer{}, errors.New("no stock")
}

func panics(context.Context, *mcp.CallToolRequest, noArgs) (*mcp.CallToolResult, answer, error) {
	panic("bug")
}

func charges(units int64) handler {
	return func(ctx context.Context, _ *mcp.CallToolRequest, _ noArgs) (*mcp.CallToolResult, answer, error) {
		return nil, answer{}, metering.Charge(ctx, units)
	}
}

// guarded calls h as a server with a recovering middleware would.
func guarded(h handler) handler {
	return func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (res *mcp.CallToolResult, out answer, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = errors.New("panicked")
			}
		}()
		return h(ctx, req, in)
	}
}

// Mutations seen here: a settlement that ends with the caller's context loses the
// units and the event of a call whose caller is gone; without settlePanic, a panic
// is charged.
func TestSettlement(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		handler handler
		policy  metering.ChargePolicy
		cancel  bool
		units   int64
		outcome usage.Outcome
	}{
		"success":           {ok, metering.ChargeOnSuccess, false, 20, usage.OK},
		"error":             {fails, metering.ChargeOnSuccess, false, 0, usage.Error},
		"error, on start":   {fails, metering.ChargeOnStart, false, 20, usage.Error},
		"error, always":     {fails, metering.ChargeAlways, false, 20, usage.Error},
		"panic":             {panics, metering.ChargeOnSuccess, false, 0, usage.Panicked},
		"panic, on start":   {panics, metering.ChargeOnStart, false, 20, usage.Panicked},
		"caller gone":       {fails, metering.ChargeOnSuccess, true, 0, usage.Canceled},
		"caller gone, done": {ok, metering.ChargeOnSuccess, true, 20, usage.OK},
		"less":              {charges(7), metering.ChargeOnSuccess, false, 7, usage.OK},
		"nothing":           {charges(0), metering.ChargeOnSuccess, false, 0, usage.OK},
		"more":              {charges(33), metering.ChargeOnSuccess, false, 33, usage.OK},
		"more than is left": {charges(300), metering.ChargeOnSuccess, false, 100, usage.OK},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, &metering.Options{Tools: map[string]metering.Tool{"report": {Units: 20, Charge: test.policy}}})
			ctx, cancel := context.WithCancel(b.ctx(t))
			h := func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
				if test.cancel {
					cancel()
				}
				return test.handler(ctx, req, in)
			}
			_, _ = invoke(ctx, guarded(metering.WithMetering(b.meter, "report", h)), "report", nil)
			cancel()
			b.requireCharged(t, test.units)
			events := b.sink.Events()
			require.Len(t, events, 1)
			require.Equal(t, test.outcome, events[0].Outcome)
		})
	}
}

func TestChargeOutsideOfACall(t *testing.T) {
	t.Parallel()
	require.Error(t, metering.Charge(t.Context(), 5))
	b := newBench(t, nil)
	_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "search", charges(-1)), "search", nil)
	require.ErrorContains(t, err, "charge -1 units")
}

// Mutation seen here: a price that can't be, told to the caller as it is logged.
func TestPrices(t *testing.T) {
	t.Parallel()
	type items struct {
		IDs []string `json:"ids"`
	}
	var log bytes.Buffer
	own := errors.New("at most 10 ids")
	b := newBench(t, &metering.Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), Tools: map[string]metering.Tool{
		"bulk": {UnitsFunc: metering.UnitsOf(func(in items) int64 { return int64(len(in.IDs)) })},
		"odd":  {UnitsFunc: func(*mcp.CallToolRequest) (int64, error) { return -1, nil }},
		"said": {UnitsFunc: func(*mcp.CallToolRequest) (int64, error) { return 0, nil }},
		"many": {UnitsFunc: func(*mcp.CallToolRequest) (int64, error) { return 0, own }},
	}})
	bulk := metering.WithMetering(b.meter, "bulk", ok)
	call := func(args string) error {
		_, _, err := bulk(b.ctx(t), &mcp.CallToolRequest{Params: &mcp.CallToolParamsRaw{Name: "bulk", Arguments: []byte(args)}}, noArgs{})
		return err
	}
	require.NoError(t, call(`{"ids":["a","b","c"]}`))
	b.requireCharged(t, 3)
	require.NoError(t, call(`{}`))
	b.requireCharged(t, 3)
	require.Empty(t, log.String())
	require.EqualError(t, call(`{"ids":7}`), "bulk has no price for these arguments; it did not run and nothing was charged")
	require.Contains(t, log.String(), "json: cannot unmarshal")
	_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "odd", ok), "odd", nil)
	require.EqualError(t, err, "odd has no price for these arguments; it did not run and nothing was charged")
	require.Contains(t, log.String(), "-1 units are not within 0 and")
	_, err = invoke(b.ctx(t), metering.WithMetering(b.meter, "many", ok), "many", nil)
	require.Equal(t, own, err, "what the server itself says is for the caller")
	b.requireCharged(t, 3)
	_, err = invoke(b.ctx(t), metering.WithMetering(b.meter, "said", adds(2, 3)), "said", nil)
	require.NoError(t, err)
	b.requireCharged(t, 8)
}

// Mutation seen here: what the handler of a free tool says that it costs is charged.
func TestUnlimitedPlanAsksNobody(t *testing.T) {
	t.Parallel()
	limiter := &limiterFunc{take: func(context.Context, metering.Request) (metering.Decision, error) {
		return metering.Decision{}, errors.New("asked")
	}}
	b := newBenchOn(t, limiter, meteringtest.NewClock(), nil)
	b.tenant = newTenant(tenant.Enterprise)
	_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "report", ok), "report", nil)
	require.NoError(t, err)
	_, err = invoke(b.ctx(t), metering.WithMetering(b.meter, "search", fails), "search", nil)
	require.Error(t, err)
	require.EqualValues(t, 20, b.sink.Units(b.tenant.ID))

	// Neither do free tools, nor the platform's own probes.
	b.tenant = newTenant(tenant.Free)
	for _, h := range []handler{ok, charges(7), adds(7)} { // which may serve other tools too
		_, err = invoke(b.ctx(t), metering.WithMetering(b.meter, "help", h), "help", nil)
		require.NoError(t, err)
	}
	b.tenant.Scopes = []string{tenant.ScopeCanary}
	_, err = invoke(b.ctx(t), metering.WithMetering(b.meter, "report", charges(7)), "report", nil)
	require.NoError(t, err)
	require.Zero(t, b.sink.Units(b.tenant.ID))
	events := b.sink.Events()
	require.Equal(t, usage.Probe, events[len(events)-1].Outcome)
}

func TestToolAndPeriodLimits(t *testing.T) {
	t.Parallel()
	b := newBench(t, &metering.Options{Plans: map[tenant.Plan]metering.Plan{tenant.Free: {
		Limits: []metering.Limit{metering.PerHour(100), metering.PerBillingPeriod(150)},
		Tools:  map[string][]metering.Limit{"report": {metering.PerDay(40)}},
	}}})
	b.tenant.PeriodStart = b.clock.Now().AddDate(0, 0, -70) // the news of two renewals has not come
	b.tenant.PeriodEnd = b.tenant.PeriodStart.AddDate(0, 0, 30)
	report := metering.WithMetering(b.meter, "report", ok)
	search := metering.WithMetering(b.meter, "search", charges(10))
	refused := func(h handler, tool, limit string, retry time.Duration) {
		t.Helper()
		_, err := invoke(b.ctx(t), h, tool, nil)
		denied, is := errors.AsType[*metering.QuotaError](err)
		require.True(t, is, "%v", err)
		require.ErrorIs(t, err, metering.ErrQuotaExceeded)
		require.NotErrorIs(t, err, metering.ErrUnavailable)
		require.Equal(t, limit, denied.Limit)
		require.Equal(t, retry, denied.RetryAfter)
		require.Equal(t, err.Error(), denied.UserMessage())
	}
	for range 2 {
		_, err := invoke(b.ctx(t), report, "report", nil)
		require.NoError(t, err)
	}
	refused(report, "report", "report day", 24*time.Hour)
	for range 6 {
		_, err := invoke(b.ctx(t), search, "search", nil)
		require.NoError(t, err)
	}
	refused(search, "search", "hour", time.Hour)
	b.clock.Advance(time.Hour)
	for range 5 {
		_, err := invoke(b.ctx(t), search, "search", nil)
		require.NoError(t, err)
	}
	refused(search, "search", "billing", 20*24*time.Hour-time.Hour)
	b.clock.Advance(20*24*time.Hour - time.Hour)
	_, err := invoke(b.ctx(t), search, "search", nil)
	require.NoError(t, err)
}

func TestCallDearerThanItsPlan(t *testing.T) {
	t.Parallel()
	b := newBench(t, &metering.Options{Plans: map[tenant.Plan]metering.Plan{tenant.Free: {Limits: []metering.Limit{metering.PerHour(10)}}}})
	_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "report", ok), "report", nil)
	require.ErrorContains(t, err, "the call costs 20 units, more than the limit of 10 (hour) ever allows")
}

func TestParallelCalls(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	search := metering.WithMetering(b.meter, "search", ok)
	for range 99 {
		_, err := invoke(b.ctx(t), search, "search", nil)
		require.NoError(t, err)
	}
	var admitted, denied atomic.Int64
	var all sync.WaitGroup
	for range 1_000 {
		all.Go(func() {
			_, err := invoke(b.ctx(t), search, "search", nil)
			switch {
			case err == nil:
				admitted.Add(1)
			case errors.Is(err, metering.ErrQuotaExceeded):
				denied.Add(1)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, admitted.Load())
	require.EqualValues(t, 999, denied.Load())
	b.requireCharged(t, 100)
}

// An event that can't be made durable is an answer that is not given.
//
// Mutation seen here: without the second settlement the units stay taken.
func TestSinkFails(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.sink.Fail(errors.New("disk is full"))
	out, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "report", ok), "report", nil)
	require.ErrorIs(t, err, metering.ErrNotRecorded)
	require.Zero(t, out)
	b.requireCharged(t, 0)
	require.EqualValues(t, 1, b.meter.Stats().Unrecorded)

	// What is not charged is answered.
	_, err = invoke(b.ctx(t), metering.WithMetering(b.meter, "help", ok), "help", nil)
	require.NoError(t, err)
	require.EqualValues(t, 1, b.meter.Stats().EventsLost)

	b.sink.Fail(nil)
	_, err = invoke(b.ctx(t), metering.WithMetering(b.meter, "report", ok), "report", nil)
	require.NoError(t, err)
	b.requireCharged(t, 20)
}

func TestSinkFailsOnce(t *testing.T) {
	t.Parallel()
	limiter, clock := meteringtest.NewLimiter()
	sink, tries := &meteringtest.Sink{}, 0
	m, err := metering.New(limiter, usage.SinkFunc(func(ctx context.Context, e usage.Event) error {
		if tries++; tries == 1 {
			return errors.New("interrupted")
		}
		return sink.Record(ctx, e)
	}), &metering.Options{Now: clock.Now})
	require.NoError(t, err)
	who := newTenant(tenant.Free)
	_, err = invoke(tenant.NewContext(t.Context(), who), metering.WithMetering(m, "search", ok), "search", nil)
	require.NoError(t, err)
	require.EqualValues(t, 1, sink.Units(who.ID))
}

func TestObserve(t *testing.T) {
	t.Parallel()
	var seen []metering.Observation
	b := newBench(t, &metering.Options{Observe: func(o metering.Observation) { seen = append(seen, o) }})
	b.tenant.Plan = tenant.Free
	_, _ = invoke(b.ctx(t), metering.WithMetering(b.meter, "report", ok), "report", nil)
	_, _ = invoke(b.ctx(t), metering.WithMetering(b.meter, "report", fails), "report", nil)
	for range 2 {
		_, _ = invoke(b.ctx(t), metering.WithMetering(b.meter, "report", ok), "report", withKey("k"))
	}
	require.Equal(t, []metering.Observation{
		{Plan: tenant.Free, Tool: "report", Outcome: usage.OK, Source: metering.SourceLimiter, Units: 20},
		{Plan: tenant.Free, Tool: "report", Outcome: usage.Error, Source: metering.SourceLimiter},
		{Plan: tenant.Free, Tool: "report", Outcome: usage.OK, Source: metering.SourceLimiter, Units: 20},
		{Plan: tenant.Free, Tool: "report", Outcome: usage.OK, Source: metering.SourceLimiter}, // paid for
	}, seen)
}

// A call whose answer is withheld is observed as one that failed and cost nothing,
// as its caller and its tenant see it.
//
// Mutations seen here: observed before it is known that the event is lost; as ok; with
// its units; not at all.
func TestObserveWithheld(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		tool    string
		handler handler
		want    usage.Outcome
	}{
		"ok":       {"report", ok, usage.Error},
		"asks":     {"report", asksFirst, usage.Error},
		"error":    {"report", fails, usage.Error},
		"panic":    {"report", panics, usage.Panicked},
		"answered": {"help", ok, usage.OK}, // nothing was to be billed
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var seen []metering.Observation
			b := newBench(t, &metering.Options{
				Tools:   map[string]metering.Tool{"report": {Units: 20, Charge: metering.ChargeAlways}, "help": {Free: true}},
				Observe: func(o metering.Observation) { seen = append(seen, o) },
			})
			b.sink.Fail(errors.New("disk is full"))
			func() {
				defer func() { _ = recover() }()
				_, _ = invoke(b.ctx(t), metering.WithMetering(b.meter, test.tool, test.handler), test.tool, nil)
			}()
			require.Len(t, seen, 1)
			require.Equal(t, test.want, seen[0].Outcome)
			require.Zero(t, seen[0].Units)
			b.requireCharged(t, 0)
		})
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	limiter, _ := meteringtest.NewLimiter()
	sink := &meteringtest.Sink{}
	plans := func(p metering.Plan) *metering.Options {
		return &metering.Options{Plans: map[tenant.Plan]metering.Plan{"gold": p}, Tools: map[string]metering.Tool{"search": {Units: 1}}}
	}
	tools := func(tool metering.Tool) *metering.Options {
		return &metering.Options{Tools: map[string]metering.Tool{"search": tool}}
	}
	tests := map[string]struct {
		opts *metering.Options
		want string
	}{
		"no price":          {tools(metering.Tool{}), `Tools["search"].Units: 0`},
		"two prices":        {tools(metering.Tool{Units: 1, UnitsFunc: func(*mcp.CallToolRequest) (int64, error) { return 1, nil }}), `Units and UnitsFunc`},
		"free and priced":   {tools(metering.Tool{Units: 1, Free: true}), `Tools["search"].Free`},
		"charge policy":     {tools(metering.Tool{Units: 1, Charge: 7}), `Tools["search"].Charge`},
		"no plans":          {&metering.Options{Plans: map[tenant.Plan]metering.Plan{}}, "Plans"},
		"no units":          {plans(metering.Plan{Limits: []metering.Limit{metering.PerHour(0)}}), `Plans["gold"].Limits[0].Units: 0`},
		"no window":         {plans(metering.Plan{Limits: []metering.Limit{{Units: 5}}}), `Plans["gold"].Limits[0].Window`},
		"window and period": {plans(metering.Plan{Limits: []metering.Limit{{Units: 5, Window: time.Hour, Period: metering.CalendarMonth}}}), "more than one"},
		"period":            {plans(metering.Plan{Limits: []metering.Limit{{Units: 5, Period: "week"}}}), `unknown period "week"`},
		"same window":       {plans(metering.Plan{Limits: []metering.Limit{metering.PerHour(5), {Name: "x", Units: 6, Window: time.Hour}}}), "second limit"},
		"same name":         {plans(metering.Plan{Limits: []metering.Limit{metering.PerHour(5), {Name: "hour", Units: 6, Window: time.Minute}}}), `"hour" is taken`},
		"tool of plan":      {plans(metering.Plan{Tools: map[string][]metering.Limit{"serach": {metering.PerHour(5)}}}), `Tools["serach"]`},
		"limit of tool":     {plans(metering.Plan{Tools: map[string][]metering.Limit{"search": {metering.PerHour(-5)}}}), `Tools["search"][0].Units: -5`},
		"attempts":          {plans(metering.Plan{Limits: []metering.Limit{metering.PerHour(5)}, Attempts: metering.PerMonth(5)}), "Attempts: want a Window"},
		"attempts alone":    {plans(metering.Plan{Attempts: metering.PerHour(5)}), "Attempts: the plan has no limits"},
		"outage":            {plans(metering.Plan{OnOutage: 9}), "OnOutage"},
		"budget":            {&metering.Options{Budget: -1}, "Budget"},
		"key":               {&metering.Options{IdempotencyTTL: time.Second}, "IdempotencyTTL"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := metering.New(limiter, sink, test.opts)
			require.ErrorContains(t, err, test.want)
		})
	}
	_, err := metering.New(nil, nil, nil)
	require.ErrorContains(t, err, "limiter is nil")
	require.ErrorContains(t, err, "sink is nil")
	_, err = metering.New(limiter, sink, nil)
	require.NoError(t, err)
}

// picky is a sink that tells beforehand whether it takes events.
type picky struct {
	meteringtest.Sink
	reason atomic.Pointer[error]
}

func (s *picky) Ready(context.Context) error {
	if reason := s.reason.Load(); reason != nil {
		return *reason
	}
	return nil
}

// What can't be billed is not run, and nobody's units are taken for it. All that
// isn't charged is served, and recorded once if it can be.
//
// Mutations seen here: asked after the limiter, the sink leaves it to a refund;
// not asked, it has the tool run.
func TestSinkIsAskedBefore(t *testing.T) {
	t.Parallel()
	sink, limiter := &picky{}, &limiterFunc{}
	memory, clock := meteringtest.NewLimiter()
	taken := 0
	limiter.Limiter, limiter.take = memory, func(ctx context.Context, r metering.Request) (metering.Decision, error) {
		taken++
		return memory.Take(ctx, r)
	}
	m, err := metering.New(limiter, sink, &metering.Options{
		Now: clock.Now, Budget: time.Minute, Tools: map[string]metering.Tool{"report": {Units: 20}, "help": {Free: true}},
	})
	require.NoError(t, err)
	ran := 0
	runs := func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
		ran++
		return ok(ctx, req, in)
	}
	report, help := metering.WithMetering(m, "report", runs), metering.WithMetering(m, "help", runs)
	full := errors.New("disk is full")
	sink.reason.Store(&full)
	for _, plan := range []tenant.Plan{tenant.Free, tenant.Pro, tenant.Enterprise} {
		ctx := tenant.NewContext(t.Context(), newTenant(plan))
		_, err := invoke(ctx, report, "report", nil)
		require.ErrorIs(t, err, metering.ErrNotRecorded)
		_, err = invoke(ctx, help, "help", nil)
		require.NoError(t, err)
	}
	require.Equal(t, 3, ran)
	require.Zero(t, taken)
	require.Len(t, sink.Events(), 6)
	stats := m.Stats()
	require.EqualValues(t, 3, stats.Unavailable)
	require.Zero(t, stats.Unrecorded)

	sink.reason.Store(nil)
	_, err = invoke(tenant.NewContext(t.Context(), newTenant(tenant.Pro)), report, "report", nil)
	require.NoError(t, err)
}

// An event that is worth nothing is tried once, though it be lost.
func TestUnchargedEventsAreTriedOnce(t *testing.T) {
	t.Parallel()
	limiter, clock := meteringtest.NewLimiter()
	tries := 0
	m, err := metering.New(limiter, usage.SinkFunc(func(context.Context, usage.Event) error {
		tries++
		return errors.New("interrupted")
	}), &metering.Options{Now: clock.Now})
	require.NoError(t, err)
	_, err = invoke(tenant.NewContext(t.Context(), newTenant(tenant.Free)), metering.WithMetering(m, "search", fails), "search", nil)
	require.EqualError(t, err, "no stock")
	require.Equal(t, 1, tries)
}
