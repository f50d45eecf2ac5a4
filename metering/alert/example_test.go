package alert_test

import (
	"context"
	"fmt"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/alert"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func Example() {
	endpoints := alert.EndpointsFunc(func(context.Context, tenant.ID) (alert.Endpoint, error) {
		// From your own tables, beside the tenant.
		return alert.Endpoint{URL: "https://hooks.example.com/usage", Secrets: []string{alert.NewSecret()}}, nil
	})
	sender, err := alert.NewSender(endpoints, nil)
	if err != nil {
		panic(err)
	}
	_ = &metering.AlertOptions{Tell: func(ctx context.Context, a metering.Alert) error {
		if a.Mode == metering.Shadow {
			return nil // not for the tenant
		}
		return sender.Send(ctx, a.Tenant, alert.Message{ID: a.ID, Type: "usage.threshold_reached", Time: a.Time, Data: a})
	}}

	fmt.Println(sender.CheckURL("https://169.254.169.254/latest/meta-data/"))
	// Output: alert: endpoint refused: its address is not one of the public internet
}
