package main

import (
	"context"
	"time"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// totals is what the books have of a tenant's usage, for the usage tool and
// resource. What is still in the spool, a second or so, is not in it.
func (a *app) totals(ctx context.Context, id tenant.ID, from, to time.Time) ([]metering.ToolUsage, error) {
	used, err := a.ledger.Usage(ctx, id, from, to)
	if err != nil {
		return nil, err
	}
	tools := make([]metering.ToolUsage, len(used))
	for i, u := range used {
		tools[i] = metering.ToolUsage{Tool: u.Tool, Calls: u.Calls, Units: u.Units}
	}
	return tools, nil
}

// grants is what a tenant was given or has paid for, and can still use. Of the
// calls of the last second or so it doesn't know either.
func (a *app) grants(ctx context.Context, id tenant.ID) ([]metering.UsageGrant, error) {
	left, err := a.ledger.GrantsLeft(ctx, id)
	if err != nil {
		return nil, err
	}
	grants := make([]metering.UsageGrant, len(left))
	for i, g := range left {
		grants[i] = metering.UsageGrant{Kind: string(g.Kind), Units: g.Units, Remaining: g.Remaining, From: g.StartsAt, To: g.ExpiresAt}
	}
	return grants, nil
}
