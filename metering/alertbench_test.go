package metering_test

import (
	"context"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

type noSink struct{}

func (noSink) Record(context.Context, usage.Event) error { return nil }

// What a call costs with nobody to tell, with somebody to tell, and with limits of
// the tenant's own besides.
func BenchmarkCall(b *testing.B) {
	for _, test := range []struct {
		name   string
		alerts bool
		own    []tenant.Limit
	}{
		{"plain", false, nil},
		{"alerts", true, nil},
		{"alerts, own limits", true, []tenant.Limit{{Name: "spend", Units: 1 << 39, Per: "billing", Mode: "soft"}}},
	} {
		b.Run(test.name, func(b *testing.B) {
			opts := &metering.Options{
				Budget: time.Minute, // a busy machine is no outage
				Tools:  map[string]metering.Tool{"search": {Units: 1}},
				Plans:  map[tenant.Plan]metering.Plan{tenant.Pro: {Limits: []metering.Limit{metering.PerDay(1 << 39)}}},
			}
			if test.alerts {
				opts.Alerts = &metering.AlertOptions{Tell: func(context.Context, metering.Alert) error { return nil }}
			}
			meter, err := metering.New(metering.NewMemory(nil), noSink{}, opts)
			require.NoError(b, err)
			h := metering.WithMetering(meter, "search", ok)
			owner := newTenant(tenant.Pro)
			owner.Limits = test.own
			ctx, req := tenant.NewContext(b.Context(), owner), &mcp.CallToolRequest{Params: &mcp.CallToolParamsRaw{Name: "search"}}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := h(ctx, req, noArgs{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
