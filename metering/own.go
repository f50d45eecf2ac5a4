package metering

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// maxLimitName bounds what is told of a limit with every call.
const maxLimitName = 80

// With returns the plan as a tenant with limits of its own has it, each limit with
// its name, and an error that names each of them that can't be. Tools are those of
// Options.Tools.
//
// A limit without Per changes the units, and the mode if it has one, of the
// plan's limit of the same name, as tenants are told it: "hour",
// "generate_report hour", "attempts". One with Per holds beside those of the
// plan, or in place of the one of the same name:
//
//	{Name: "hour", Units: 500}                                   // instead of the plan's 100
//	{Name: "hour", Units: tenant.Unlimited}                      // no such limit
//	{Name: "spend", Units: 50_000, Per: "billing"}               // a cap on what it spends
//	{Name: "spend", Units: 50_000, Per: "billing", Mode: "soft"} // that tells and does not refuse
//
// The limit of a tool is named after it: "generate_report day". A Meter does
// this for every call by a tenant that has such limits, in memory.
func (p Plan) With(own []tenant.Limit, tools map[string]Tool) (Plan, error) {
	p, errs := p.with(own, tools)
	joined := make([]error, len(errs))
	for i, err := range errs {
		joined[i] = fmt.Errorf("metering: %w", err)
	}
	return p, errors.Join(joined...)
}

// ownError is a limit of a tenant that can't be.
type ownError struct {
	name    string
	text    string
	unknown bool // the plan has none of this name
}

func (e ownError) Error() string { return fmt.Sprintf("limit %q: %s", e.name, e.text) }

// with does what With does, as far as it can be done.
func (p Plan) with(own []tenant.Limit, tools map[string]Tool) (Plan, []ownError) {
	p.Limits = named(p.Limits)
	p.Tools = maps.Clone(p.Tools)
	for tool, limits := range p.Tools {
		p.Tools[tool] = named(limits)
	}
	var errs []ownError
	for _, o := range own {
		if err, ok := p.override(o, tools); !ok {
			err.name = o.Name
			errs = append(errs, err)
		}
	}
	return p, errs
}

// named returns a copy of limits in which each has a name.
func named(limits []Limit) []Limit {
	limits = slices.Clone(limits)
	for i, l := range limits {
		limits[i] = l.withName()
	}
	return limits
}

// override applies one limit.
func (p *Plan) override(o tenant.Limit, tools map[string]Tool) (ownError, bool) {
	fail := func(format string, args ...any) (ownError, bool) {
		return ownError{text: fmt.Sprintf(format, args...)}, false
	}
	unlimited := o.Units == tenant.Unlimited
	mode := Mode(o.Mode)
	switch {
	case o.Name == "" || len(o.Name) > maxLimitName || strings.ContainsFunc(o.Name, unprintable):
		return fail("want a name of 1 to %d printable ASCII characters", maxLimitName)
	case !unlimited && (o.Units < 1 || o.Units > MaxUnits):
		return fail("%d units are not within 1 and %d, and not %d for no limit", o.Units, int64(MaxUnits), tenant.Unlimited)
	case mode != "" && mode != Hard && mode != Soft && mode != Shadow:
		return fail("unknown mode %q: want hard, soft or shadow", o.Mode)
	case unlimited && (o.Per != "" || o.Mode != ""):
		return fail("no limit at all has neither a period nor a mode")
	case o.Per == "" && o.Tool != "":
		return fail("a limit for tool %q needs a period or a window", o.Tool)
	}
	tool, at := p.find(o.Name)
	if o.Per == "" {
		switch attempts, ok := p.attempts(); {
		case at >= 0 && unlimited:
			p.set(tool, slices.Delete(p.of(tool), at, at+1))
		case at >= 0:
			l := &p.of(tool)[at]
			l.Units = o.Units
			if mode != "" {
				l.Mode = mode
			}
		case ok && attempts.Name == o.Name && mode == "":
			p.Attempts = attempts
			if p.Attempts.Units = o.Units; unlimited {
				p.Attempts.Units = MaxUnits
			}
		default:
			err, _ := fail("the plan has no limit of this name (it has: %s); a limit beside the plan's needs a period or a window", strings.Join(p.names(), ", "))
			err.unknown = true
			return err, false
		}
		return ownError{}, true
	}

	l := Limit{Name: o.Name, Units: o.Units, Mode: mode}
	switch Period(o.Per) {
	case CalendarDay, CalendarMonth, BillingPeriod:
		l.Period = Period(o.Per)
	default:
		window, err := time.ParseDuration(o.Per)
		if err != nil || window == 0 {
			return fail("%q is no period: want day, month, billing, or the length of a window like 24h", o.Per)
		}
		l.Window = window
	}
	if err := l.validate("limit"); err != nil {
		return fail("%v", err)
	}
	if o.Tool != "" {
		if t, ok := tools[o.Tool]; !ok || t.Free {
			return fail("no tool %q has a price", o.Tool)
		}
		name, ok := strings.CutPrefix(o.Name, o.Tool+" ")
		if !ok || name == "" {
			return fail("the name of a limit of tool %q begins with it and a space", o.Tool)
		}
		l.Name = name
	}
	if at >= 0 {
		p.set(tool, slices.Delete(p.of(tool), at, at+1))
	}
	p.set(o.Tool, append(p.of(o.Tool), l))
	return ownError{}, true
}

func unprintable(r rune) bool { return r < ' ' || r > '~' }

// of returns the limits of a tool, or of all together.
func (p *Plan) of(tool string) []Limit {
	if tool == "" {
		return p.Limits
	}
	return p.Tools[tool]
}

func (p *Plan) set(tool string, limits []Limit) {
	if tool == "" {
		p.Limits = limits
		return
	}
	if p.Tools == nil {
		p.Tools = make(map[string][]Limit)
	}
	p.Tools[tool] = limits
}

// find returns where the limit stands that tenants are told by this name; at is
// negative if there is none.
func (p *Plan) find(name string) (tool string, at int) {
	is := func(prefix string) func(Limit) bool {
		return func(l Limit) bool { return prefix+l.Name == name }
	}
	if at := slices.IndexFunc(p.Limits, is("")); at >= 0 {
		return "", at
	}
	for tool, limits := range p.Tools {
		if at := slices.IndexFunc(limits, is(tool+" ")); at >= 0 {
			return tool, at
		}
	}
	return "", -1
}

// names returns what tenants are told the limits by.
func (p *Plan) names() []string {
	var names []string
	for _, l := range p.Limits {
		names = append(names, l.Name)
	}
	for _, tool := range slices.Sorted(maps.Keys(p.Tools)) {
		for _, l := range p.Tools[tool] {
			names = append(names, tool+" "+l.Name)
		}
	}
	if attempts, ok := p.attempts(); ok {
		names = append(names, attempts.Name)
	}
	if names == nil {
		names = []string{"none"}
	}
	return names
}
