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
// alone.
//
// # What it has
//
// Customers, products, prices with lookup keys, billing meters and their
// events and summaries, checkout sessions with a page to pay on, a customer
// portal page, subscriptions and their items, legacy usage records, invoices
// and previews, the event list, and signed webhooks that are retried. Lists
// page as Stripe's do. The layouts of both 2023-10-16 and 2025-03-31 are
// spoken, by the request's Stripe-Version. A parameter that an endpoint doesn't
// know is refused, as by Stripe, so that a misspelling shows.
//
// It has the rules that exactly-once billing rests on: idempotency keys are
// remembered for 24 hours with their parameters and answers, failures
// included; a meter event's identifier is refused for 24 hours, its time at 35
// days in the past and 5 minutes ahead; one call at a time per customer and
// meter; usage records are set or added within the item's open period only; a
// draft invoice takes a meter's usage until it is finalised after an hour.
//
// # Making things go wrong
//
// [Emulator.Inject] cuts connections before or after a request is applied,
// saves a 500, truncates an answer, or refuses with 401, 409, 429. Webhooks can
// be held back, delivered twice and in any order ([Emulator.HoldWebhooks],
// [Emulator.Deliver]). [Emulator.Advance] moves the clock over the ends of
// periods and of memories. [Options.SummaryLag] delays totals.
//
// What it leaves out: tax, discounts, tiers, proration, cards, Connect, and
// everything that isn't about subscriptions. It is no proof that Stripe does
// the same; it is built from Stripe's documentation.
package stripetest
