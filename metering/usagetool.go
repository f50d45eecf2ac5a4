package metering

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// UsageOptions are the settings of [Meter.AddUsage]. The zero value works.
type UsageOptions struct {
	// Tool is the name of the tool. Defaults to "usage".
	Tool string

	// URI is that of the resource. Defaults to "usage://current".
	URI string

	// Totals returns what a tenant was charged by events from a time up to
	// another, by tool, as the store of events has it. Defaults to none: then
	// only the limits are told.
	Totals func(ctx context.Context, id tenant.ID, from, to time.Time) ([]ToolUsage, error)

	// Grants returns the units that a tenant was given, or has paid for, and can
	// still use, in the order in which they are used. Defaults to none: then
	// nothing is told of them.
	Grants func(ctx context.Context, id tenant.ID) ([]UsageGrant, error)
}

// ToolUsage is what a tenant has used of one tool.
type ToolUsage struct {
	Tool  string `json:"tool"`
	Calls int64  `json:"calls"`
	Units int64  `json:"units"`
}

// UsageGrant is what is left of units that a tenant was given or has paid for.
type UsageGrant struct {
	Kind      string    `json:"kind" jsonschema:"free, or prepaid"`
	Units     int64     `json:"units" jsonschema:"how many there were"`
	Remaining int64     `json:"remaining"`
	From      time.Time `json:"from" jsonschema:"calls from then on use them"`
	To        time.Time `json:"to,omitzero" jsonschema:"when they are lost; left out: never"`
}

// usageReport is what a tenant is told.
type usageReport struct {
	Plan   string       `json:"plan"`
	From   time.Time    `json:"from" jsonschema:"begin of the billing period, or of the calendar month"`
	To     time.Time    `json:"to"`
	Units  *int64       `json:"units,omitzero" jsonschema:"units charged in this period"`
	Tools  []ToolUsage  `json:"tools,omitzero"`
	Grants []UsageGrant `json:"grants,omitzero" jsonschema:"units that are given or paid for; calls use them, in this order, before any unit is billed"`
	Limits []limitLeft  `json:"limits" jsonschema:"what is left of each limit now; empty for an unlimited plan"`
}

type limitLeft struct {
	Limit     string `json:"limit" jsonschema:"its name; a limit of one tool begins with the tool's"`
	Units     int64  `json:"units" jsonschema:"what the limit allows"`
	Remaining int64  `json:"remaining"`
	Soft      bool   `json:"soft,omitempty" jsonschema:"true for a limit that refuses nothing"`
}

// AddUsage adds a tool and a resource to the server by which the agent of a
// tenant sees where the tenant stands: what it was charged in the period, what is
// left of its grants, and of its limits. Both say the same, and nothing of another
// tenant. The tool needs an entry in Options.Tools like any other, usually
// {Free: true}. The resource is read for free, at the cost of one question to the
// limiter, and those that the options ask. It is marked private, for caches; a
// mcp.ServerOptions.SetCacheable of the server's own runs after that.
func (m *Meter) AddUsage(server *mcp.Server, opts *UsageOptions) {
	var o UsageOptions
	if opts != nil {
		o = *opts
	}
	if o.Tool == "" {
		o.Tool = "usage"
	}
	if o.URI == "" {
		o.URI = "usage://current"
	}
	const what = "what you have used in this billing period and what is left to you"
	mcp.AddTool(server, &mcp.Tool{
		Name: o.Tool, Description: "Shows " + what + ".", Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true},
	}, WithMetering(m, o.Tool, func(ctx context.Context, _ *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, usageReport, error) {
		report, err := m.report(ctx, &o)
		return nil, report, err
	}))
	server.AddResource(&mcp.Resource{
		URI: o.URI, Name: o.Tool, Description: "W" + what[1:] + ", as JSON.", MIMEType: "application/json",
	}, func(ctx context.Context, req *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		report, err := m.report(ctx, &o)
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(report)
		if err != nil {
			return nil, fmt.Errorf("metering: encode usage: %w", err)
		}
		return &mcp.ReadResourceResult{
			Contents:  []*mcp.ResourceContents{{URI: o.URI, MIMEType: "application/json", Text: string(text)}},
			Cacheable: mcp.Cacheable{CacheScope: "private"}, // or any cache may serve it to others
		}, nil
	})
}

func (m *Meter) report(ctx context.Context, o *UsageOptions) (usageReport, error) {
	t, ok := tenant.FromContext(ctx)
	if !ok {
		return usageReport{}, ErrUnauthenticated
	}
	r := usageReport{Plan: string(t.Plan), Limits: []limitLeft{}}
	r.From, r.To = Limit{Period: BillingPeriod}.periodAt(m.now(), t)
	if o.Totals != nil {
		var units int64
		used, err := o.Totals(ctx, t.ID, r.From, r.To)
		if err != nil {
			return usageReport{}, err
		}
		for _, u := range used {
			units += u.Units
		}
		r.Units, r.Tools = &units, used
	}
	if o.Grants != nil {
		var err error
		if r.Grants, err = o.Grants(ctx, t.ID); err != nil {
			return usageReport{}, err
		}
	}
	limits, err := m.Remaining(ctx)
	switch {
	case errors.Is(err, ErrUnavailable):
		m.logOutage(ctx, t.ID, o.Tool, err)
		return usageReport{}, &QuotaError{Code: CodeUnavailable, Tool: o.Tool, Plan: t.Plan, RetryAfter: breakerProbe}
	case errors.Is(err, ErrUnknownPlan):
		return usageReport{}, m.unknownPlan(ctx, t, o.Tool)
	case err != nil:
		return usageReport{}, err
	}
	for _, l := range limits {
		r.Limits = append(r.Limits, limitLeft{Limit: l.Name, Units: l.Units, Remaining: l.Remaining, Soft: l.Mode == Soft})
	}
	return r, nil
}
