package main

import (
	"context"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

type usageInput struct{}

type usageOutput struct {
	Plan   string      `json:"plan"`
	From   string      `json:"from"`
	To     string      `json:"to,omitempty"`
	Units  int64       `json:"units" jsonschema:"units charged in this period"`
	Tools  []toolUsage `json:"tools"`
	Limits []limitLeft `json:"limits" jsonschema:"what is left of each limit now; empty for an unlimited plan"`
}

type toolUsage struct {
	Tool  string `json:"tool"`
	Calls int64  `json:"calls"`
	Units int64  `json:"units"`
}

type limitLeft struct {
	Limit     string `json:"limit"`
	Units     int64  `json:"units"`
	Remaining int64  `json:"remaining"`
}

// usageTool tells a tenant what it has used, so that its agent can plan. What
// is still in the spool, a second or so, is not in it.
func (a *app) usageTool(ctx context.Context, _ *mcp.CallToolRequest, _ usageInput) (*mcp.CallToolResult, usageOutput, error) {
	t, ok := tenant.FromContext(ctx)
	if !ok {
		return nil, usageOutput{}, tenant.ErrNone
	}
	from, to := t.PeriodStart, t.PeriodEnd
	if from.IsZero() {
		now := time.Now().UTC()
		from = time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
		to = from.AddDate(0, 1, 0)
	}
	out := usageOutput{
		Plan: string(t.Plan), From: from.Format(time.RFC3339), To: to.Format(time.RFC3339),
		Tools: []toolUsage{}, Limits: []limitLeft{},
	}
	used, err := a.ledger.Usage(ctx, t.ID, from, to)
	if err != nil {
		return nil, usageOutput{}, err
	}
	for _, u := range used {
		out.Units += u.Units
		out.Tools = append(out.Tools, toolUsage{Tool: u.Tool, Calls: u.Calls, Units: u.Units})
	}
	limits, err := a.meter.Remaining(ctx)
	if err != nil {
		return nil, usageOutput{}, err
	}
	for _, l := range limits {
		out.Limits = append(out.Limits, limitLeft{Limit: l.Name, Units: l.Units, Remaining: l.Remaining})
	}
	return nil, out, nil
}
