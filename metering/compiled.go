package metering

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// compiledPlan is a plan with what each priced tool draws on worked out.
type compiledPlan struct {
	Plan
	byTool map[string]*scope
	other  *scope // any tool without a price of its own
	all    *scope // every limit, of all tools together and of single ones
}

// scope is what the calls of one tool draw on.
type scope struct {
	limits  []counted // of the plan, in its order
	bounds  []Bound   // one for each counter, and the attempts last
	periods bool      // some bound has a period to be filled in per call
	hard    bool      // some limit refuses
	soft    bool      // some limit only tells
}

// counted is a limit and the bound whose counter it goes by. Several may share
// one: a plan's limit, and a soft one that a tenant has for the same period.
type counted struct {
	Limit
	tool  string
	bound int
}

// used is how many units of the limit are used after a decision of its scope.
func (l counted) used(d Decision) int64 {
	return d.Request.Bounds[l.bound].Units - d.Limits[l.bound].Remaining
}

func compile(p Plan, tools map[string]Tool) *compiledPlan {
	c := &compiledPlan{Plan: p, byTool: make(map[string]*scope, len(tools)), other: newScope(p), all: newScope(p, slices.Sorted(maps.Keys(p.Tools))...)}
	for name := range tools {
		c.byTool[name] = newScope(p, name)
	}
	return c
}

func (c *compiledPlan) scope(tool string) *scope {
	if s, ok := c.byTool[tool]; ok {
		return s
	}
	return c.other
}

// newScope puts the attempts last, so that a quota is what a refusal names if
// both hold the call as long.
func newScope(p Plan, tools ...string) *scope {
	s := &scope{}
	s.add(p.Limits, "")
	for _, tool := range tools {
		s.add(p.Tools[tool], tool)
	}
	if attempts, ok := p.attempts(); ok && s.hard {
		s.bounds = append(s.bounds, Bound{Limit: attempts, Attempts: true})
	}
	return s
}

// add adds limits of all tools, or of one. A limiter has one bound for each
// counter: that of the tightest hard limit, or for soft ones alone one that
// counts and never refuses.
func (s *scope) add(limits []Limit, tool string) {
	counters := make(map[string]int)
	for _, l := range limits {
		l = l.withName()
		if tool != "" {
			l.Name = tool + " " + l.Name
		}
		b := Bound{Limit: l, Tool: tool}
		if !l.hard() {
			b.Units = MaxUnits
		}
		at, shared := counters[l.id()]
		if !shared {
			at = len(s.bounds)
			counters[l.id()] = at
			s.bounds = append(s.bounds, b)
		} else if b.Units < s.bounds[at].Units {
			s.bounds[at] = b
		}
		s.limits = append(s.limits, counted{Limit: l, tool: tool, bound: at})
		s.periods = s.periods || l.Period != ""
		s.hard, s.soft = s.hard || l.hard(), s.soft || !l.hard()
	}
}

// at returns what a call by t draws on now. It must not be modified.
func (s *scope) at(t tenant.Tenant, now time.Time) []Bound {
	if !s.periods {
		return s.bounds
	}
	bounds := slices.Clone(s.bounds)
	for i, b := range bounds {
		if b.Period != "" {
			bounds[i].Start, bounds[i].End = b.periodAt(now, t)
		}
	}
	return bounds
}

// over returns the name of the first soft limit that would have refused the call
// which d admitted.
func (s *scope) over(d Decision) string {
	if !s.soft || len(d.Limits) == 0 || d.Source == SourceLocal {
		return ""
	}
	for _, l := range s.limits {
		if !l.hard() && d.Request.Bounds[l.bound].Weight(d.Request.Units) > 0 && l.used(d) > l.Units {
			return l.Name
		}
	}
	return ""
}

// ownPlans are the plans of tenants that have limits of their own.
type ownPlans struct {
	mu    sync.RWMutex
	plans map[tenant.ID]ownPlan
}

type ownPlan struct {
	name   tenant.Plan
	limits []tenant.Limit
	plan   *compiledPlan
}

// maxOwnPlans bounds what is kept; it is worked out again within microseconds.
const maxOwnPlans = 10_000

// planOf returns the plan of a tenant, with its own limits.
func (m *Meter) planOf(t tenant.Tenant) (*compiledPlan, bool) {
	base, ok := m.plans[t.Plan]
	if !ok || len(t.Limits) == 0 {
		return base, ok
	}
	m.own.mu.RLock()
	kept, ok := m.own.plans[t.ID]
	m.own.mu.RUnlock()
	if ok && kept.name == t.Plan && slices.Equal(kept.limits, t.Limits) {
		return kept.plan, true
	}
	p, errs := base.Plan.with(t.Limits, m.tools)
	for _, err := range errs {
		if err.unknown {
			continue // the plan has changed since, and has no such limit
		}
		m.log.Error("limit of a tenant can't be used, its plan's holds", slog.String("tenant", t.ID.String()), slog.Any("err", err))
	}
	plan := compile(p, m.tools)
	m.own.mu.Lock()
	defer m.own.mu.Unlock()
	if m.own.plans == nil || len(m.own.plans) >= maxOwnPlans {
		m.own.plans = make(map[tenant.ID]ownPlan)
	}
	m.own.plans[t.ID] = ownPlan{name: t.Plan, limits: t.Limits, plan: plan}
	return plan, true
}
