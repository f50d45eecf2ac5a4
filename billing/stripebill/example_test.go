package stripebill_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// From a price list to billed usage, on the emulator.
func Example() {
	ctx := context.Background()
	stripe := stripetest.NewServer(nil)
	defer stripe.Close()
	client, err := stripebill.New(stripe.SecretKey, &stripebill.Options{APIBase: stripe.URL})
	if err != nil {
		log.Fatal(err)
	}
	changes, err := client.EnsureCatalog(ctx, stripebill.Catalog{Plans: []stripebill.CatalogPlan{
		{Plan: "pro", Name: "Pro", Amount: 4900, Unit: "0.1"},
	}})
	if err != nil {
		log.Fatal(err)
	}
	for _, change := range changes {
		fmt.Println(change)
	}

	checkout, err := client.CreateCheckout(ctx, stripebill.CheckoutRequest{
		Tenant: tenant.NewID(), Plan: "pro",
		SuccessURL: "https://shop.example/welcome?session_id={CHECKOUT_SESSION_ID}",
		CancelURL:  "https://shop.example/pricing",
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := stripe.Pay(checkout.ID); err != nil { // the buyer, at checkout.URL
		log.Fatal(err)
	}

	// The webhook's notice says what has changed; the source says how it is.
	change, err := stripebill.NewSource(client, nil).Fetch(ctx, billing.Notice{Type: "checkout.session.completed", ObjectID: checkout.ID})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(change.Subscription.Plan, change.Subscription.Status)

	reporter := stripebill.NewReporter(client, nil)
	delivery := billing.Delivery{
		ID: "0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5b", Target: change.Subscription.Targets[0],
		Quantity: 42, Slot: time.Now(), IdempotencyKey: "mcpsaas:0190a2b4:0",
	}
	for range 2 {
		receipt, err := reporter.Report(ctx, delivery)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(receipt.Result == billing.Accepted, stripe.UsageTotal(change.Customer, "mcpsaas_units"))
	}
	// Output:
	// create meter mcpsaas_units
	// create product mcpsaas_pro
	// create price mcpsaas:pro
	// create price mcpsaas:pro:usage
	// pro active
	// true 42
	// false 42
}
