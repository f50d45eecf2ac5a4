// Package stripetest is a Stripe to test your billing on: a stateful emulator
// of the part of the API that subscriptions, metered usage, checkout and
// webhooks need.
//
//	stripe := stripetest.NewServer(nil)
//	defer stripe.Close()
//	client, err := stripebill.New(stripe.SecretKey, &stripebill.Options{APIBase: stripe.URL})
//	...
//	err = stripe.Pay(checkout.ID)   // or POST the form of the page at checkout.URL
//
// Any client of Stripe can be pointed at it; it uses the standard library
// alone. A parameter that an endpoint doesn't know is refused, as by Stripe, so
// that a misspelling shows. The layouts of both 2023-10-16 and 2025-03-31 are
// spoken, by the request's Stripe-Version, whatever its version in between or
// later. Its answers are compared with those of stripe-mock (make e2e).
//
// # Endpoints
//
// Each is /v1/ and the name; "all" is to create, list, read and update.
//
//	account balance                                  GET
//	customers customers/{id}                         all, DELETE
//	products products/{id}                           all
//	products/{id}/features                           POST, GET; DELETE products/{id}/features/{feature}
//	prices prices/{id}                               all
//	entitlements/features entitlements/features/{id} all
//	entitlements/active_entitlements                 GET
//	billing/meters billing/meters/{id}               all; POST billing/meters/{id}/deactivate, .../reactivate
//	billing/meters/{id}/event_summaries              GET
//	billing/meter_events                             POST
//	billing/meter_event_adjustments                  POST
//	checkout/sessions checkout/sessions/{id}         POST, GET; POST checkout/sessions/{id}/expire
//	billing_portal/sessions                          POST
//	billing_portal/configurations .../{id}           all
//	subscriptions subscriptions/{id}                 all, DELETE; POST subscriptions/{id}/resume
//	subscription_items subscription_items/{id}       GET
//	subscription_items/{id}/usage_records            POST; GET .../usage_record_summaries (until 2025-03-31)
//	invoiceitems invoiceitems/{id}                   POST, GET, DELETE
//	invoices invoices/{id} invoices/{id}/lines       POST, GET; POST invoices/{id}/finalize, .../pay, .../void
//	invoices/upcoming (until 2025-03-31)             GET; POST invoices/create_preview (since)
//	payment_intents/{id} charges charges/{id}        GET
//	refunds refunds/{id}                             POST, GET
//	test_helpers/test_clocks .../{id}                POST, GET, DELETE; POST test_helpers/test_clocks/{id}/advance
//	events events/{id}                               GET; also /v2/core/events and /v2/core/events/{id}
//
// # Rules
//
// Idempotency keys are remembered for 24 hours with their parameters and
// answers, failures included. A meter event's identifier is refused for 24
// hours, in which it can be canceled; its time at 35 days in the past and 5
// minutes ahead; one call at a time per customer and meter. Usage records are
// set or added within the item's open period only, and only added where there
// are billing thresholds. A draft invoice takes a meter's usage until it is
// finalised: an hour after the endpoint has taken invoice.created, three days
// if it never does. [Options.RateLimits] and [Options.Dunning] are the
// account's. Usage that reaches a billing threshold is invoiced at once, not on
// trial nor a day before the period ends. Test clocks move their customers alone,
// two intervals at once.
//
// # Making things go wrong
//
// [Emulator.Inject] cuts connections before or after a request is applied,
// saves a 500, truncates an answer, refuses with 401, 409, 429, or takes usage
// and never counts it: at one endpoint, from the n-th request on, as often as
// you say. Webhooks can be
// lost, doubled, late ([Emulator.DisturbWebhooks]), held back and delivered in
// any order ([Emulator.HoldWebhooks], [Emulator.Deliver]), thin, and signed
// with two secrets ([Emulator.RollWebhookSecret]). [Emulator.Advance] moves
// the clock over the ends of periods and of memories.
// [Emulator.SetSummaryLag] delays totals. [Emulator.Decline] makes cards fail.
//
// What it leaves out: tax, discounts, tiers, refunds of invoices, cards, Connect,
// several webhook endpoints, and everything that isn't about subscriptions. It is
// no proof that Stripe does the same; it is built from Stripe's documentation.
package stripetest
