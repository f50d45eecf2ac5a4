package billingtest_test

import (
	"context"
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// A provider loses its answer: the usage is there, the caller can't know.
// Repeating the delivery under its identifier is recognised.
func ExampleProvider() {
	clock := billingtest.NewClock(time.Date(2026, 3, 10, 9, 0, 0, 0, time.UTC))
	provider := billingtest.NewProvider(billing.ModeMeter, clock.Now)
	provider.Fail(billingtest.DropAfter)
	delivery := billing.Delivery{
		ID: tenant.NewID().String(), Quantity: 20, Slot: clock.Now(),
		Target: billing.Target{Mode: billing.ModeMeter, Customer: "cus_1", Meter: "calls"},
	}
	for epoch := range 2 {
		delivery.IdempotencyKey = fmt.Sprint("key:", epoch)
		receipt, err := provider.Report(context.Background(), delivery)
		if err != nil {
			panic(err)
		}
		fmt.Println(receipt.Result == billing.Unknown, receipt.Result == billing.AlreadyAccepted)
	}
	fmt.Println(provider.Total(delivery.Target, clock.Now(), clock.Now().Add(time.Minute)))
	// Output:
	// true false
	// false true
	// 20
}
