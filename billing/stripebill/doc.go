// Package stripebill connects package billing to Stripe.
//
//	client, err := stripebill.New(secretKey, nil)
//	changes, err := client.EnsureCatalog(ctx, catalog)              // products, prices, meter: as code
//	checkout, err := client.CreateCheckout(ctx, stripebill.CheckoutRequest{Tenant: id, Plan: "pro", ...})
//
//	webhook, err := stripebill.NewWebhook(inbox, secrets, nil)      // verifies, stores, answers
//	source := stripebill.NewSource(client, nil)                     // what a webhook means, asked of Stripe
//	reporter := stripebill.NewReporter(client, nil)                 // usage, exactly once
//
// # Usage
//
// The [Reporter] sends each sealed batch so that sending it again counts
// nothing twice: to a meter as an event whose identifier is the batch's id, to
// a legacy metered price as a usage record that is set, not added, at the
// batch's own second. Whatever isn't proved by Stripe's own words is reported
// as unknown; the worker in package billing then verifies against Stripe's
// totals rather than guess: the sum of a minute for a meter, of the billing
// period for usage records.
//
// A subscription with billing thresholds lets usage records only be added. There
// the idempotency key alone keeps a repetition from counting twice: while Stripe
// remembers it, a day, a batch in doubt is sent again under it, never under
// another; after that, or after a failure that Stripe has saved under it, the
// totals decide, or a person does. Such a record can't be taken back.
//
// Late usage may become an item of the next invoice ([InvoiceItem]): known by its
// key for a day, then by the batch's id in its metadata.
//
// Meters and usage records take timestamps in seconds, so that a target can have a batch each
// second. A meter's sums are of whole minutes, and to which of two periods
// Stripe counts the minute in which one ends is not documented: batches of a
// meter keep out of it.
//
// # Webhooks
//
// A webhook is a hint. The [Webhook] handler checks its signature and stores
// it; the [Source] then reads the subscription itself, from the layouts of any
// API version since 2023-10-16. So repeated, late and reordered webhooks end in
// the same state.
//
// # Testing
//
// Package stripetest is a Stripe that runs inside a test: give its URL as
// [Options.APIBase].
//
// Only gateway.go imports stripe-go. The client never retries, sends no
// telemetry and logs no bodies; errors hold no key, no address and no body.
package stripebill
