package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// limitRow is a limit as it holds for one tenant.
type limitRow struct {
	Name  string        `json:"name"`
	Units int64         `json:"units"`
	Per   string        `json:"per,omitempty"`
	Mode  metering.Mode `json:"mode,omitempty"`
	Own   bool          `json:"own,omitempty"` // the tenant's, and not its plan's
	Idle  bool          `json:"idle,omitempty"`
}

// limitRows lists the limits of a plan as a tenant has them, and those of its own
// that its plan has no use for.
func limitRows(plan tenant.Plan, own []tenant.Limit) []limitRow {
	p, _ := plans[plan].With(own, tools) // what can't be has no effect, and is idle
	isOwn := func(name string) bool {
		return slices.ContainsFunc(own, func(l tenant.Limit) bool { return l.Name == name })
	}
	rows := []limitRow{}
	add := func(tool string, limits []metering.Limit) {
		for _, l := range limits {
			if tool != "" {
				l.Name = tool + " " + l.Name
			}
			per := string(l.Period)
			switch {
			case l.Window > 0:
				per = l.Window.String()
			case l.Hold > 0:
				per = "at once"
			}
			rows = append(rows, limitRow{Name: l.Name, Units: l.Units, Per: per, Mode: l.Mode, Own: isOwn(l.Name)})
		}
	}
	add("", p.Limits)
	for _, tool := range slices.Sorted(maps.Keys(p.Tools)) {
		add(tool, p.Tools[tool])
	}
	for _, l := range own {
		if !slices.ContainsFunc(rows, func(r limitRow) bool { return r.Name == l.Name }) {
			rows = append(rows, limitRow{Name: l.Name, Units: l.Units, Per: l.Per, Mode: metering.Mode(l.Mode), Own: true, Idle: l.Units != tenant.Unlimited})
		}
	}
	return rows
}

func limitList(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("tenant limit list", args, 1, 1); err != nil {
		return err
	}
	id, err := parseTenant(args[0])
	if err != nil {
		return err
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		return o.changeLimits(ctx, env, id, "", func(tenancy.Record) ([]tenant.Limit, error) { return nil, nil })
	})
}

func limitSet(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("tenant limit set", args, 3, 3); err != nil {
		return err
	}
	id, err := parseTenant(args[0])
	if err != nil {
		return err
	}
	l := tenant.Limit{Name: args[1], Units: tenant.Unlimited, Per: env.config.per, Tool: env.config.tool, Mode: env.config.mode}
	if args[2] != "unlimited" {
		if l.Units, err = strconv.ParseInt(args[2], 10, 64); err != nil || l.Units < 1 {
			return usagef("UNITS %s: want a number from 1 on, or unlimited", quote(args[2]))
		}
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		return o.changeLimits(ctx, env, id, fmt.Sprintf("set %q to %s", l.Name, args[2]), func(r tenancy.Record) ([]tenant.Limit, error) {
			if _, err := plans[r.Plan].With([]tenant.Limit{l}, tools); err != nil {
				return nil, usagef("plan %s: %w", r.Plan, err)
			}
			return append(without(r.Limits, l.Name), l), nil
		})
	})
}

func limitUnset(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("tenant limit unset", args, 2, 2); err != nil {
		return err
	}
	id, err := parseTenant(args[0])
	if err != nil {
		return err
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		return o.changeLimits(ctx, env, id, fmt.Sprintf("unset %q", args[1]), func(r tenancy.Record) ([]tenant.Limit, error) {
			left := without(r.Limits, args[1])
			if len(left) == len(r.Limits) {
				return nil, usagef("the tenant has no limit of its own named %s", quote(args[1]))
			}
			return left, nil
		})
	})
}

func without(limits []tenant.Limit, name string) []tenant.Limit {
	return slices.DeleteFunc(slices.Clone(limits), func(l tenant.Limit) bool { return l.Name == name })
}

// served refuses a tenant that has left.
func (o *office) served(r onboarding.Record) error {
	if r.State.Gone() {
		return fmt.Errorf("tenant %s is %s", r.Tenant, r.State)
	}
	return nil
}

// changeLimits changes what a tenant has of its own, if action says so, records who
// did it, and prints what holds now.
func (o *office) changeLimits(ctx context.Context, env *environment, id tenant.ID, action string, change func(tenancy.Record) ([]tenant.Limit, error)) error {
	read := func(tx pgx.Tx) (r tenancy.Record, limits []tenant.Limit, err error) {
		if r, err = tenancy.LockTenant(ctx, tx, id); err != nil {
			return r, nil, fmt.Errorf("tenant %s: %w", id, err)
		}
		limits, err = change(r)
		return r, limits, err
	}
	var r tenancy.Record
	if action != "" {
		// Looked at before it is recorded, so that no slip is, and again when it
		// is done.
		if err := pgx.BeginFunc(ctx, o.control, func(tx pgx.Tx) error { _, _, err := read(tx); return err }); err != nil {
			return err
		}
		if _, err := o.record(ctx, id, "limit", action, func(r *onboarding.Record) error { return o.served(*r) }); err != nil {
			return err
		}
	}
	err := pgx.BeginFunc(ctx, o.control, func(tx pgx.Tx) (err error) {
		var limits []tenant.Limit
		if r, limits, err = read(tx); err == nil && action != "" {
			r.Limits = limits
			_, err = tenancy.SetLimits(ctx, tx, id, limits)
		}
		return err
	})
	if err != nil {
		return err
	}
	rows := limitRows(r.Plan, r.Limits)
	return env.print(rows, func() {
		for _, row := range rows {
			units, note := strconv.FormatInt(row.Units, 10), ""
			if row.Units == tenant.Unlimited {
				units = "unlimited"
			}
			if row.Own {
				note = "own"
			}
			if row.Idle {
				note = "own, without effect under plan " + string(r.Plan)
			}
			fmt.Fprintf(env.stdout, "%-24s %12s  %-10s %-7s %s\n", row.Name, units, row.Per, row.Mode, note)
		}
		if len(rows) == 0 {
			fmt.Fprintf(env.stdout, "plan %s is unlimited\n", r.Plan)
		}
	})
}

// limitText says on one line what a limit of a tenant's own is.
func limitText(l tenant.Limit) string {
	text := l.Name + " unlimited"
	if l.Units != tenant.Unlimited {
		text = l.Name + " " + strconv.FormatInt(l.Units, 10)
	}
	for _, part := range []string{l.Per, l.Mode} {
		if part != "" {
			text += " " + part
		}
	}
	return text
}
