package stripetest

import (
	"errors"
	"fmt"
	"time"
)

// ErrNotOpen is matched when a checkout session can't be paid: it is unknown,
// expired or complete.
var ErrNotOpen = errors.New("stripetest: checkout session is not open")

// Pay completes a checkout session as a buyer with a good card does: the
// customer and the subscription come to be, the first invoice is paid, or what
// is paid once is, and their webhooks go out.
func (e *Emulator) Pay(sessionID string) error { return e.pay(sessionID, "", false) }

// PayLater completes a checkout session with a payment that takes days, like a
// bank debit: complete, but unpaid. [Emulator.Settle] ends the wait.
func (e *Emulator) PayLater(sessionID string) error { return e.pay(sessionID, "", true) }

func (e *Emulator) pay(sessionID, email string, later bool) (err error) {
	e.change(func() {
		e.roll()
		s, ok := e.s.Sessions.get(sessionID)
		if !ok || s.Status != "open" {
			err = fmt.Errorf("%w: %.80s", ErrNotOpen, sessionID)
			return
		}
		e.complete(s, email, later)
	})
	return err
}

// complete needs the lock.
func (e *Emulator) complete(s *session, email string, later bool) {
	at := e.timeOf(s.Customer).Unix()
	who := e.s.Customers.Rows[s.Customer]
	s.PaidBy = firstOf(email, s.Email, "buyer@example.com")
	if who == nil && (s.Mode != "payment" || s.MakeCustomer) {
		who = e.addCustomer(s.PaidBy, at)
		e.emit("customer.created", who.view())
	}
	if who != nil {
		s.Customer, s.PaidBy = who.ID, who.Email
	}
	s.Status, s.Decline = "complete", ""
	switch {
	case later:
		s.PaymentStatus = "unpaid"
	case e.total(s) == 0:
		s.PaymentStatus = "no_payment_required"
	default:
		s.PaymentStatus = "paid"
	}
	if s.Mode == "payment" {
		if total := e.total(s); total > 0 {
			s.Payment = e.addPayment(s.Customer, e.s.Prices.Rows[s.Items[0].Price].Currency, total, at, later).ID
		}
		e.emit("checkout.session.completed", e.sessionView(s))
		return
	}
	sub := &subscription{Customer: who.ID, Items: s.Items, Metadata: s.SubMetadata, TrialWithout: s.TrialWithout}
	e.addSubscription(sub, time.Duration(s.TrialDays)*24*time.Hour, at, later)
	s.Subscription = sub.ID
	e.emit("checkout.session.completed", e.sessionView(s))
}

// Settle ends the wait after [Emulator.PayLater].
func (e *Emulator) Settle(sessionID string, paid bool) (err error) {
	e.change(func() {
		s, ok := e.s.Sessions.get(sessionID)
		if !ok || s.Status != "complete" || s.PaymentStatus != "unpaid" || s.Failed {
			err = fmt.Errorf("stripetest: checkout session %.80s doesn't wait for a payment", sessionID)
			return
		}
		sub, at := e.s.Subscriptions.Rows[s.Subscription], e.timeOf(s.Customer).Unix()
		once := e.s.Payments.Rows[s.Payment]
		if !paid {
			s.Failed = true
			if once != nil {
				once.Status = "failed"
				e.tellPayment(once)
			}
			e.emit("checkout.session.async_payment_failed", e.sessionView(s))
			if sub != nil {
				e.end(sub, at, false)
			}
			return
		}
		if once != nil {
			once.Status = "succeeded"
			e.tellPayment(once)
		}
		s.PaymentStatus = "paid"
		if sub != nil {
			inv := e.s.Invoices.Rows[sub.LatestInvoice]
			inv.Processing = false
			e.collect(inv, at)
		}
		e.emit("checkout.session.async_payment_succeeded", e.sessionView(s))
	})
	return err
}

// Decline makes the payments of a customer fail from now on, or succeed again.
// The next invoice that is due makes its subscription past_due; [Dunning] or
// [Emulator.CollectOpen] tries again.
func (e *Emulator) Decline(customer string, declines bool) (err error) {
	e.change(func() {
		who, ok := e.s.Customers.get(customer)
		if !ok {
			err = missing("customer", customer, "")
			return
		}
		who.Declines = declines
	})
	return err
}

// CollectOpen tries to collect the open invoices of a customer again, as when a
// new card is given.
func (e *Emulator) CollectOpen(customer string) {
	e.change(func() {
		for _, inv := range e.s.Invoices.all() {
			if inv.Customer == customer && inv.Status == "open" {
				e.collect(inv, e.timeOf(customer).Unix())
			}
		}
	})
}

// SetStatus puts a subscription into a status, as Stripe does by its settings
// or by itself: "unpaid" after the last retry, "paused" after a trial without
// a card. "canceled" is for the API.
func (e *Emulator) SetStatus(subscription, status string) (err error) {
	e.change(func() {
		o, ok := e.s.Subscriptions.get(subscription)
		if !ok {
			err = missing("subscription", subscription, "")
			return
		}
		o.Status = status
		e.emitSubscription("updated", o)
	})
	return err
}

// UsageTotal is what the meter of that event name has counted of a customer,
// of all times, lag or not.
func (e *Emulator) UsageTotal(customer, eventName string) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	var total int64
	for _, m := range e.s.Meters.all() {
		if m.EventName != eventName {
			continue
		}
		for _, value := range e.s.Usage[usageKey(m.ID, customer)] {
			total += value
		}
	}
	return total
}

// RecordTotal is what usage records have put on a subscription item, of all
// periods.
func (e *Emulator) RecordTotal(subscriptionItem string) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	var total int64
	for _, o := range e.s.Subscriptions.all() {
		for _, it := range o.Items {
			if it.ID != subscriptionItem {
				continue
			}
			for _, quantity := range it.Records {
				total += quantity
			}
		}
	}
	return total
}

// Billed is the usage that a customer's finalised invoices charge for, in
// units.
func (e *Emulator) Billed(customer string) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	var total int64
	for _, inv := range e.s.Invoices.all() {
		if inv.Customer != customer || inv.Status == "draft" {
			continue
		}
		for _, l := range inv.Lines {
			if p := e.s.Prices.Rows[l.Price]; p != nil && p.Metered {
				total += l.Quantity
			}
		}
	}
	return total
}
