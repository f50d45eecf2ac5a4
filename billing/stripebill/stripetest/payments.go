package stripetest

import (
	"fmt"
	"net/http"
)

// payment is a payment intent and its charge: one attempt, which ends it. Those
// of invoices are not kept.
type payment struct {
	ID       string `json:"id"`
	Charge   string `json:"charge"` // its id
	Customer string `json:"customer,omitempty"`
	Currency string `json:"currency"`
	Amount   int64  `json:"amount"`
	Refunded int64  `json:"refunded,omitempty"`
	Status   string `json:"status"` // of the charge: pending, succeeded, failed
	Created  int64  `json:"created"`
}

type refund struct {
	ID       string            `json:"id"`
	Payment  string            `json:"payment"`
	Amount   int64             `json:"amount"`
	Reason   string            `json:"reason,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Created  int64             `json:"created"`
}

// addPayment needs the lock.
func (e *Emulator) addPayment(customer, currency string, amount, at int64, later bool) *payment {
	o := &payment{ID: newID("pi_"), Charge: newID("ch_"), Customer: customer, Currency: currency, Amount: amount, Status: "succeeded", Created: at}
	if later {
		o.Status = "pending"
		e.emit("payment_intent.processing", o.view())
	}
	e.s.Payments.put(o.ID, o)
	e.tellPayment(o)
	return o
}

// tellPayment tells how a payment stands.
func (e *Emulator) tellPayment(o *payment) {
	e.emit("charge."+o.Status, o.charge())
	switch o.Status {
	case "succeeded":
		e.emit("payment_intent.succeeded", o.view())
	case "failed":
		e.emit("payment_intent.payment_failed", o.view())
	}
}

func (o *payment) view() any {
	status, received := "succeeded", o.Amount
	switch o.Status {
	case "pending":
		status, received = "processing", 0
	case "failed":
		status, received = "requires_payment_method", 0
	}
	return object{
		"id": o.ID, "object": "payment_intent", "amount": o.Amount, "amount_received": received, "currency": o.Currency,
		"customer": orNull(o.Customer), "status": status, "latest_charge": o.Charge, "created": o.Created,
		"metadata": object{}, "livemode": false,
	}
}

func (o *payment) charge() any {
	return object{
		"id": o.Charge, "object": "charge", "amount": o.Amount, "amount_captured": o.Amount, "amount_refunded": o.Refunded,
		"captured": o.Status != "failed", "currency": o.Currency, "customer": orNull(o.Customer), "created": o.Created, "disputed": false,
		"paid": o.Status != "failed", "payment_intent": o.ID, "refunded": o.Refunded == o.Amount, "status": o.Status,
		"metadata": object{}, "livemode": false,
	}
}

func (o *refund) view(p *payment) any {
	return object{
		"id": o.ID, "object": "refund", "amount": o.Amount, "charge": p.Charge, "payment_intent": p.ID, "currency": p.Currency,
		"reason": orNull(o.Reason), "status": "succeeded", "created": o.Created, "metadata": metadataOf(o.Metadata),
	}
}

// chargeOf finds the payment of a charge.
func (c *call) chargeOf(id, param string) (*payment, error) {
	for _, o := range c.s.Payments.all() {
		if o.Charge == id {
			return o, nil
		}
	}
	return nil, missing("charge", id, param)
}

func (c *call) payment(id, param string) (*payment, error) {
	o, ok := c.s.Payments.get(id)
	if !ok {
		return nil, missing("payment_intent", id, param)
	}
	return o, nil
}

func getPayment(c *call) (any, error) {
	o, err := c.payment(c.id(), "id")
	if err != nil {
		return nil, err
	}
	return o.view(), nil
}

func getCharge(c *call) (any, error) {
	o, err := c.chargeOf(c.id(), "id")
	if err != nil {
		return nil, err
	}
	return o.charge(), nil
}

func listCharges(c *call) (any, error) {
	return page(c, c.s.Payments.all(), func(o *payment) string { return o.Charge }, func(o *payment) bool {
		return (!c.p.has("customer") || o.Customer == c.p.str("customer")) &&
			(!c.p.has("payment_intent") || o.ID == c.p.str("payment_intent")) && c.since(o.Created)
	}, func(o *payment) any { return o.charge() })
}

// createRefund gives a payment back, or a part of it; what a payment was for
// doesn't change by it (https://docs.stripe.com/api/refunds/create).
func createRefund(c *call) (any, error) {
	var p *payment
	var err error
	switch {
	case c.p.has("charge"):
		p, err = c.chargeOf(c.p.str("charge"), "charge")
	case c.p.has("payment_intent"):
		p, err = c.payment(c.p.str("payment_intent"), "payment_intent")
	default:
		err = invalid("", "One of the following params should be provided for this request: payment_intent or charge.")
	}
	if err != nil {
		return nil, err
	}
	if p.Status != "succeeded" {
		return nil, invalid("", "This PaymentIntent ("+p.ID+") does not have a successful charge to refund.")
	}
	left := p.Amount - p.Refunded
	amount, err := c.p.number("amount", left)
	switch {
	case err != nil:
		return nil, err
	case left == 0:
		return nil, &apiError{Status: http.StatusBadRequest, Code: "charge_already_refunded", ran: true, Message: "Charge " + p.Charge + " has already been refunded."}
	case amount < 1:
		return nil, invalid("amount", "Invalid positive integer")
	case amount > left:
		return nil, invalid("amount", fmt.Sprintf("Refund amount (%d) is greater than unrefunded amount on charge (%d)", amount, left))
	}
	reason := c.p.str("reason")
	switch reason {
	case "", "duplicate", "fraudulent", "requested_by_customer":
	default:
		return nil, invalid("reason", "Invalid reason: must be one of duplicate, fraudulent, or requested_by_customer")
	}
	o := &refund{ID: newID("re_"), Payment: p.ID, Amount: amount, Reason: reason, Metadata: c.p.object("metadata"), Created: c.timeOf(p.Customer).Unix()}
	c.s.Refunds.put(o.ID, o)
	p.Refunded += amount
	c.emit("refund.created", o.view(p))
	c.emit("charge.refunded", p.charge())
	return o.view(p), nil
}

func getRefund(c *call) (any, error) {
	o, ok := c.s.Refunds.get(c.id())
	if !ok {
		return nil, missing("refund", c.id(), "id")
	}
	return o.view(c.s.Payments.Rows[o.Payment]), nil
}

func listRefunds(c *call) (any, error) {
	return page(c, c.s.Refunds.all(), func(o *refund) string { return o.ID }, func(o *refund) bool {
		p := c.s.Payments.Rows[o.Payment]
		return (!c.p.has("charge") || p.Charge == c.p.str("charge")) &&
			(!c.p.has("payment_intent") || p.ID == c.p.str("payment_intent")) && c.since(o.Created)
	}, func(o *refund) any { return o.view(c.s.Payments.Rows[o.Payment]) })
}
