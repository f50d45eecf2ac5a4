package metering_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var shopTools = map[string]metering.Tool{"search": {Units: 1}, "report": {Units: 20}, "help": {Free: true}}

func TestPlanWith(t *testing.T) {
	t.Parallel()
	plan := metering.Plan{
		Limits: []metering.Limit{metering.PerHour(100), metering.PerMonth(1000)},
		Tools:  map[string][]metering.Limit{"report": {metering.PerDay(40)}},
	}
	tests := map[string]struct {
		own     tenant.Limit
		limits  []metering.Limit
		reports []metering.Limit
		err     string
	}{
		"more":  {own: tenant.Limit{Name: "hour", Units: 500}, limits: []metering.Limit{metering.PerHour(500), metering.PerMonth(1000)}},
		"less":  {own: tenant.Limit{Name: "month", Units: 5}, limits: []metering.Limit{metering.PerHour(100), metering.PerMonth(5)}},
		"tried": {own: tenant.Limit{Name: "month", Units: 5, Mode: "shadow"}, limits: []metering.Limit{metering.PerHour(100), {Units: 5, Period: metering.CalendarMonth, Mode: metering.Shadow}}},
		"none":  {own: tenant.Limit{Name: "hour", Units: tenant.Unlimited}, limits: []metering.Limit{metering.PerMonth(1000)}},
		"of a tool": {
			own: tenant.Limit{Name: "report day", Units: 80}, reports: []metering.Limit{metering.PerDay(80)},
		},
		"none of a tool": {own: tenant.Limit{Name: "report day", Units: tenant.Unlimited}, reports: []metering.Limit{}},
		"spend cap": {
			own:    tenant.Limit{Name: "spend", Units: 700, Per: "billing", Mode: "soft"},
			limits: []metering.Limit{metering.PerHour(100), metering.PerMonth(1000), {Name: "spend", Units: 700, Period: metering.BillingPeriod, Mode: metering.Soft}},
		},
		"another window": {
			own:    tenant.Limit{Name: "hour", Units: 700, Per: "2h"},
			limits: []metering.Limit{metering.PerMonth(1000), {Name: "hour", Units: 700, Window: 2 * time.Hour}},
		},
		"beside a tool's": {
			own:     tenant.Limit{Name: "report burst", Units: 20, Per: "1m", Tool: "report"},
			reports: []metering.Limit{metering.PerDay(40), {Name: "burst", Units: 20, Window: time.Minute}},
		},
		"unknown":        {own: tenant.Limit{Name: "hours", Units: 500}, err: `limit "hours": the plan has no limit of this name (it has: hour, month, report day, attempts)`},
		"no name":        {own: tenant.Limit{Units: 5}, err: "want a name"},
		"odd name":       {own: tenant.Limit{Name: "a\nb", Units: 5}, err: "want a name"},
		"zero":           {own: tenant.Limit{Name: "hour"}, err: `limit "hour": 0 units are not within 1 and`},
		"negative":       {own: tenant.Limit{Name: "hour", Units: -2}, err: "-2 units"},
		"too many":       {own: tenant.Limit{Name: "hour", Units: metering.MaxUnits + 1}, err: "units are not within"},
		"mode":           {own: tenant.Limit{Name: "hour", Units: 5, Mode: "loud"}, err: `unknown mode "loud"`},
		"period":         {own: tenant.Limit{Name: "x", Units: 5, Per: "fortnight"}, err: `"fortnight" is no period`},
		"no window":      {own: tenant.Limit{Name: "x", Units: 5, Per: "0s"}, err: `"0s" is no period`},
		"short window":   {own: tenant.Limit{Name: "x", Units: 5, Per: "1ns"}, err: "Window"},
		"none of period": {own: tenant.Limit{Name: "x", Units: tenant.Unlimited, Per: "day"}, err: "neither a period nor a mode"},
		"tool":           {own: tenant.Limit{Name: "buy x", Units: 5, Per: "day", Tool: "buy"}, err: `no tool "buy" has a price`},
		"free tool":      {own: tenant.Limit{Name: "help x", Units: 5, Per: "day", Tool: "help"}, err: `no tool "help" has a price`},
		"tool's name":    {own: tenant.Limit{Name: "x", Units: 5, Per: "day", Tool: "report"}, err: "begins with it and a space"},
		"tool alone":     {own: tenant.Limit{Name: "report day", Units: 5, Tool: "report"}, err: "needs a period or a window"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := plan.With([]tenant.Limit{test.own}, shopTools)
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				return
			}
			require.NoError(t, err)
			want := metering.Plan{Limits: slices.Clone(plan.Limits), Tools: map[string][]metering.Limit{"report": slices.Clone(plan.Tools["report"])}}
			if test.limits != nil {
				want.Limits = test.limits
			}
			if test.reports != nil {
				want.Tools = map[string][]metering.Limit{"report": test.reports}
			}
			for _, limits := range [][]metering.Limit{want.Limits, want.Tools["report"]} {
				for i, l := range limits {
					if l.Name == "" {
						limits[i].Name = map[time.Duration]string{time.Hour: "hour", 24 * time.Hour: "day", 0: "month"}[l.Window]
					}
				}
			}
			require.Equal(t, want, got)
		})
	}
	_, err := plan.With([]tenant.Limit{{Name: "hours", Units: 1}, {Name: "month"}, {Name: "day", Units: 1}}, shopTools)
	for _, name := range []string{`"hours"`, `"month"`, `"day"`} {
		require.ErrorContains(t, err, name, "each mistake is named")
	}
}

// use makes calls of one unit and returns how many were admitted.
func (b *bench) use(t *testing.T, tool string, calls int) (admitted int) {
	t.Helper()
	h := metering.WithMetering(b.meter, tool, ok)
	for range calls {
		_, err := invoke(b.ctx(t), h, tool, nil)
		if err == nil {
			admitted++
			continue
		}
		require.ErrorIs(t, err, metering.ErrQuotaExceeded)
	}
	return admitted
}

// A tenant's own limits hold from the next call on, for it alone, and what it has
// used by then counts. Mutation: a plan that is kept without a look at the limits goes
// on with the first set.
func TestOwnLimits(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	other := newTenant(tenant.Free)
	require.Equal(t, 100, b.use(t, "search", 110))
	b.tenant.Limits = []tenant.Limit{{Name: "hour", Units: 150}}
	require.Equal(t, 50, b.use(t, "search", 60), "more")
	b.tenant.Limits = []tenant.Limit{{Name: "hour", Units: 120}}
	require.Zero(t, b.use(t, "search", 5), "less")
	b.tenant.Limits = []tenant.Limit{{Name: "hour", Units: tenant.Unlimited}}
	require.Equal(t, 500, b.use(t, "search", 500), "none")
	b.tenant.Limits = []tenant.Limit{{Name: "hour", Units: tenant.Unlimited}, {Name: "spend", Units: 7, Per: "billing"}}
	require.Equal(t, 7, b.use(t, "search", 10), "one beside the plan's")
	b.tenant.Limits = nil
	require.Zero(t, b.use(t, "search", 1), "the plan's again")

	mine := b.tenant
	b.tenant = other
	require.Equal(t, 100, b.use(t, "search", 110), "another tenant has its plan's")
	b.tenant = mine
	b.tenant.Plan, b.tenant.Limits = tenant.Enterprise, []tenant.Limit{{Name: "hour", Units: 3}, {Name: "", Units: 1}}
	require.Equal(t, 200, b.use(t, "search", 200), "what only changes a limit has no effect where there is none")
}

// Through a tenant's own limits, too, no limit is exceeded and none refuses too
// early, whichever share a counter. Mutations: with the first of several instead of
// the tightest, too much is admitted; with a soft limit's own units, too little.
func TestOwnLimitsOnOneCounter(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		b := newBench(t, &metering.Options{Plans: map[tenant.Plan]metering.Plan{tenant.Free: {
			Limits:   []metering.Limit{metering.PerMonth(1 + random.Int64N(40)), {Name: "tried", Units: 1 + random.Int64N(40), Period: metering.CalendarMonth, Mode: metering.Shadow}},
			Attempts: metering.PerHour(10_000),
		}}})
		limits := []int64{b.left(t, "month")}
		for _, name := range []string{"a", "b", "c"} {
			l := tenant.Limit{Name: name, Units: 1 + random.Int64N(40), Per: "month", Mode: []string{"", "hard", "soft", "shadow"}[random.IntN(4)]}
			b.tenant.Limits = append(b.tenant.Limits, l)
			if l.Mode == "" || l.Mode == "hard" {
				limits = append(limits, l.Units)
			}
		}
		least := limits[0]
		for _, l := range limits {
			least = min(least, l)
		}
		require.EqualValues(t, least, b.use(t, "search", 50))
	}
}

func (b *bench) left(t *testing.T, limit string) int64 {
	t.Helper()
	states, err := b.meter.Remaining(b.ctx(t))
	require.NoError(t, err)
	for _, s := range states {
		if s.Name == limit {
			return s.Remaining
		}
	}
	return -1
}

// Mutation: a shadow limit whose bound has its own units refuses.
func TestShadow(t *testing.T) {
	t.Parallel()
	var over []string
	b := newBench(t, &metering.Options{
		Plans: map[tenant.Plan]metering.Plan{tenant.Free: {Limits: []metering.Limit{
			metering.PerDay(30), {Name: "tried", Units: 10, Window: time.Hour, Mode: metering.Shadow},
		}}},
		Observe: func(o metering.Observation) { over = append(over, o.Over) },
	})
	b.tenant.Limits = []tenant.Limit{{Name: "told", Units: 20, Per: "day", Mode: "soft"}}
	require.Equal(t, 30, b.use(t, "search", 33))
	for i, name := range over {
		want := ""
		if i >= 10 && i < 30 { // the first of the limits that would have refused
			want = "tried"
		}
		require.Equal(t, want, name, i)
	}
	states, err := b.meter.Remaining(b.ctx(t))
	require.NoError(t, err)
	require.Equal(t, []metering.LimitState{
		{Name: "day", Units: 30}, {Name: "told", Units: 20, Mode: metering.Soft},
	}, states, "the tenant is not shown what is tried")
	b.clock.Advance(24 * time.Hour)
	require.Equal(t, 1, b.use(t, "search", 1))
	require.EqualValues(t, 29, b.left(t, "day"))
	require.EqualValues(t, 19, b.left(t, "told"))
}

// A limit that is tried out never makes a call fail, and never changes its attempts.
// Mutation: with the outage policy of the plan, calls are refused.
func TestShadowAndOutage(t *testing.T) {
	t.Parallel()
	away := errors.New("away")
	limiter, clock := meteringtest.NewLimiter()
	broken := &limiterFunc{Limiter: limiter}
	b := newBenchOn(t, broken, clock, &metering.Options{Plans: map[tenant.Plan]metering.Plan{
		tenant.Free: {Limits: []metering.Limit{{Units: 5, Window: time.Hour, Mode: metering.Shadow}}, OnOutage: metering.Deny},
	}})
	require.Equal(t, 20, b.use(t, "search", 20))
	broken.take = func(context.Context, metering.Request) (metering.Decision, error) { return metering.Decision{}, away }
	require.Equal(t, 20, b.use(t, "search", 20))
	require.EqualValues(t, 40, b.sink.Units(b.tenant.ID))
	require.Zero(t, b.meter.Stats().Unavailable)
}
