package stripetest

import (
	"errors"
	"fmt"
	"time"
)

// Dunning is what follows when an invoice of a subscription can't be collected:
// the account's settings for failed payments
// (https://docs.stripe.com/billing/revenue-recovery/smart-retries).
type Dunning struct {
	// Retries are the waits before each further attempt. Defaults to none.
	Retries []time.Duration
	// Then is the subscription's status after the last attempt: "canceled",
	// "unpaid" or "past_due". Defaults to "past_due".
	Then string
}

func (d Dunning) check() error {
	for _, wait := range d.Retries {
		if wait <= 0 {
			return errors.New("stripetest: Dunning.Retries: a wait is not positive")
		}
	}
	switch d.Then {
	case "", "past_due", "canceled", "unpaid":
		return nil
	}
	return fmt.Errorf("stripetest: Dunning.Then %.20q: want canceled, unpaid or past_due", d.Then)
}

// dun notes that an attempt failed. It needs the lock.
func (e *Emulator) dun(inv *invoice, sub *subscription, at int64) {
	failed := inv.Attempts
	retries := e.opts.Dunning.Retries
	first := inv.BillingReason == "subscription_create"
	if failed <= len(retries) && !first { // the first payment is the customer's to repeat
		inv.NextAttempt = at + int64(retries[failed-1]/time.Second)
	}
	e.emitInvoice("payment_failed", inv)
	if sub == nil || sub.ended() || first {
		return
	}
	if sub.Status == "active" {
		sub.Status = "past_due"
		e.emitSubscription("updated", sub)
	}
	if inv.NextAttempt > 0 || failed != len(retries)+1 || sub.Status != "past_due" {
		return
	}
	switch e.opts.Dunning.Then {
	case "canceled":
		e.end(sub, at, false)
	case "unpaid":
		sub.Status = "unpaid"
		e.emitSubscription("updated", sub)
	}
}
