package metering

import (
	"errors"
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Outage is what a plan gets while the limiter can't be asked.
type Outage int

const (
	// Deny refuses metered calls until the limiter is back: the choice for
	// plans that do not pay. It is the zero value.
	Deny Outage = iota

	// Allow serves the calls and marks their events Unmetered. "Open" is not
	// "unlimited": each process counts by itself what it lets through, from one
	// outage to the next, so N processes let at most N times a limit through in
	// any of its windows or periods.
	Allow

	// Share is Allow with a part of each limit for each process: what it allows
	// divided by Options.Processes, at least 1. So all of them together admit
	// about the limit once more.
	Share
)

// Plan is what the tenants of a plan may use. The zero Plan is unlimited: its
// calls never touch the limiter; they are recorded all the same.
type Plan struct {
	// Limits bound the units of all tools together. They are taken all or none.
	// Of several that refuse, the caller is told of the one that holds the call the
	// longest, and of those that hold it as long, of the first.
	Limits []Limit

	// Tools bound the units of single tools, in addition.
	Tools map[string][]Limit

	// Without names the tools that the plan does not have: the Middleware
	// leaves them out of tools/list, and a call is refused by [ErrNotInPlan].
	Without []string

	// Attempts bounds how often metered tools may be started, each start
	// counting 1, whatever is charged in the end: it is never given back, so
	// that work which is not charged (errors, interim rounds, replays of an
	// idempotency key) is not free computing time. It must have a Window.
	// Defaults to twice the units of the hard limit with the shortest window in
	// Limits, or in Tools if Limits has no hard one with a window; a plan without
	// any has no bound.
	Attempts Limit

	// OnOutage says what happens while the limiter can't be asked.
	// Defaults to Deny.
	OnOutage Outage
}

// DefaultPlans returns the plans that a Meter without Options.Plans has: free
// with 100 units an hour, starter 1,000, pro 10,000, enterprise unlimited.
// Free is refused while the limiter is away, the others are served. The map is
// the caller's own, to start from.
func DefaultPlans() map[tenant.Plan]Plan {
	return map[tenant.Plan]Plan{
		tenant.Free:       {Limits: []Limit{PerHour(100)}, OnOutage: Deny},
		tenant.Starter:    {Limits: []Limit{PerHour(1_000)}, OnOutage: Allow},
		tenant.Pro:        {Limits: []Limit{PerHour(10_000)}, OnOutage: Allow},
		tenant.Enterprise: {OnOutage: Allow},
	}
}

func (p Plan) validate(field string, tools map[string]Tool) error {
	var errs []error
	check := func(field string, limits []Limit) {
		ids, names := make(map[string]bool), make(map[string]bool) // ids of hard limits
		for i, l := range limits {
			at := fmt.Sprintf("%s[%d]", field, i)
			errs = append(errs, l.validate(at))
			if l = l.withName(); ids[l.id()] && l.hard() {
				errs = append(errs, fmt.Errorf("%s: a second limit for the same window or period %s", at, l.id()))
			} else if names[l.Name] {
				errs = append(errs, fmt.Errorf("%s.Name: %q is taken", at, l.Name))
			}
			ids[l.id()], names[l.Name] = ids[l.id()] || l.hard(), true
		}
	}
	check(field+".Limits", p.Limits)
	for name, limits := range p.Tools {
		at := fmt.Sprintf("%s.Tools[%q]", field, name)
		if tool, ok := tools[name]; !ok || tool.Free {
			errs = append(errs, fmt.Errorf("%s: no tool of this name has a price", at))
		}
		check(at, limits)
	}
	for i, name := range p.Without {
		if _, ok := tools[name]; !ok {
			errs = append(errs, fmt.Errorf("%s.Without[%d]: no tool %q in Options.Tools", field, i, name))
		}
	}
	if p.Attempts != (Limit{}) {
		errs = append(errs, p.Attempts.validate(field+".Attempts"))
		if p.Attempts.Window == 0 {
			errs = append(errs, fmt.Errorf("%s.Attempts: want a Window", field))
		}
		if !p.Attempts.hard() {
			errs = append(errs, fmt.Errorf("%s.Attempts.Mode: want Hard", field))
		}
		if len(p.Limits) == 0 && len(p.Tools) == 0 {
			errs = append(errs, fmt.Errorf("%s.Attempts: the plan has no limits", field))
		}
	}
	if p.OnOutage < Deny || p.OnOutage > Share {
		errs = append(errs, fmt.Errorf("%s.OnOutage: unknown policy %d", field, p.OnOutage))
	}
	return errors.Join(errs...)
}

func (p Plan) attempts() (Limit, bool) {
	if l := p.Attempts; l != (Limit{}) {
		if l.Name == "" {
			l.Name = "attempts"
		}
		return l, true
	}
	var shortest Limit
	consider := func(limits []Limit) {
		for _, l := range limits {
			if l.Window == 0 || !l.hard() {
				continue
			}
			if shortest.Window == 0 || l.Window < shortest.Window || l.Window == shortest.Window && l.Units > shortest.Units {
				shortest = l
			}
		}
	}
	consider(p.Limits)
	if shortest.Window == 0 {
		for _, limits := range p.Tools {
			consider(limits)
		}
	}
	if shortest.Window == 0 {
		return Limit{}, false
	}
	return Limit{Name: "attempts", Window: shortest.Window, Units: min(2*shortest.Units, MaxUnits)}, true
}

// periodAt returns the period of l that holds now. A billing period that is
// over, because the news of the next has not come yet, is repeated: a late
// webhook must not stop a tenant that has paid.
func (l Limit) periodAt(now time.Time, t tenant.Tenant) (start, end time.Time) {
	now = now.UTC()
	if l.Period == BillingPeriod && t.PeriodEnd.After(t.PeriodStart) {
		start, end = t.PeriodStart.UTC(), t.PeriodEnd.UTC()
		length := end.Sub(start)
		if over := now.Sub(start); over >= length {
			start = start.Add(over / length * length)
		}
		return start, start.Add(length)
	}
	if l.Period == CalendarDay {
		start = now.Truncate(24 * time.Hour)
		return start, start.AddDate(0, 0, 1)
	}
	start = time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	return start, start.AddDate(0, 1, 0)
}
