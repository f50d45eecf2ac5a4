package stripetest

import "strings"

type invoice struct {
	ID            string `json:"id"`
	Customer      string `json:"customer"`
	Subscription  string `json:"subscription"`
	Status        string `json:"status"` // draft, open, paid
	BillingReason string `json:"billing_reason"`
	Created       int64  `json:"created"`
	PeriodStart   int64  `json:"period_start"`
	PeriodEnd     int64  `json:"period_end"`
	FinalizeAt    int64  `json:"finalize_at,omitempty"`
	FinalizedAt   int64  `json:"finalized_at,omitempty"`
	PaidAt        int64  `json:"paid_at,omitempty"`
	Attempts      int    `json:"attempts,omitempty"`
	Processing    bool   `json:"processing,omitempty"` // its payment takes days
	Lines         []line `json:"lines"`
}

type line struct {
	Price    string `json:"price"`
	Item     string `json:"item"`
	Meter    string `json:"meter,omitempty"` // the quantity is this meter's until the invoice is final
	Quantity int64  `json:"quantity"`
	Amount   int64  `json:"amount"`
	Start    int64  `json:"start"`
	End      int64  `json:"end"`
}

func (o *invoice) total() int64 {
	var sum int64
	for _, l := range o.Lines {
		sum += l.Amount
	}
	return sum
}

// addInvoice needs the lock.
func (e *Emulator) addInvoice(sub *subscription, reason string, at int64) *invoice {
	inv := &invoice{ID: newID("in_"), Customer: sub.Customer, Subscription: sub.ID, Status: "draft",
		BillingReason: reason, Created: at, PeriodStart: sub.PeriodStart, PeriodEnd: at}
	e.s.Invoices.put(inv.ID, inv)
	sub.LatestInvoice = inv.ID
	return inv
}

// measure brings the lines of usage up to date.
func (e *Emulator) measure(inv *invoice) {
	for i := range inv.Lines {
		l := &inv.Lines[i]
		p := e.s.Prices.Rows[l.Price]
		if !p.Metered {
			continue
		}
		if l.Meter != "" {
			l.Quantity = e.metered(l.Meter, inv.Customer, l.Start, l.End)
		}
		l.Amount = p.cost(l.Quantity)
	}
}

// finalize fixes the amounts and collects them, or fails to. It needs the
// lock.
func (e *Emulator) finalize(inv *invoice, at int64) {
	sub := e.s.Subscriptions.Rows[inv.Subscription]
	e.measure(inv)
	inv.Status, inv.FinalizedAt, inv.FinalizeAt = "open", at, 0
	if inv.BillingReason != "subscription_create" {
		e.emitInvoice("finalized", inv)
	}
	if sub.PauseBehavior != "" || inv.Processing {
		return
	}
	e.collect(inv, sub, at)
}

// collect tries to get an open invoice paid.
func (e *Emulator) collect(inv *invoice, sub *subscription, at int64) {
	inv.Attempts++
	if e.s.Customers.Rows[inv.Customer].Declines && inv.total() > 0 {
		e.emitInvoice("payment_failed", inv)
		if sub.Status == "active" {
			sub.Status = "past_due"
			e.emitSubscription("updated", sub)
		}
		return
	}
	inv.Status, inv.PaidAt = "paid", at
	e.emitInvoice("paid", inv)
	if sub.Status == "past_due" || sub.Status == "incomplete" || sub.Status == "unpaid" {
		sub.Status = "active"
		e.emitSubscription("updated", sub)
	}
}

// invoiceView shows o in the layout of the API version.
func (e *Emulator) invoiceView(o *invoice, modern bool) any {
	if o.Status == "draft" {
		e.measure(o)
	}
	lines := []any{}
	for _, l := range o.Lines {
		v := object{
			"object": "line_item", "amount": l.Amount, "quantity": l.Quantity, "currency": "usd",
			"period": object{"start": l.Start, "end": l.End},
		}
		if modern {
			v["pricing"] = object{"type": "price_details", "price_details": object{"price": l.Price}}
			v["parent"] = object{"type": "subscription_item_details", "subscription_item_details": object{
				"subscription": o.Subscription, "subscription_item": l.Item}}
		} else {
			v["price"] = e.s.Prices.Rows[l.Price].view()
			v["subscription"], v["subscription_item"], v["type"] = o.Subscription, l.Item, "subscription"
		}
		lines = append(lines, v)
	}
	paid, remaining := int64(0), o.total()
	if o.Status == "paid" {
		paid, remaining = remaining, 0
	}
	sub := e.s.Subscriptions.Rows[o.Subscription]
	v := object{
		"id": orNull(o.ID), "object": "invoice", "customer": o.Customer, "status": o.Status, "billing_reason": o.BillingReason,
		"created": o.Created, "period_start": o.PeriodStart, "period_end": o.PeriodEnd, "currency": "usd",
		"total": o.total(), "amount_due": o.total(), "amount_paid": paid, "amount_remaining": remaining,
		"attempt_count": o.Attempts, "auto_advance": o.Status == "draft", "due_date": nil, "livemode": false,
		"metadata": object{}, "lines": listOf("/v1/invoices/"+o.ID+"/lines", lines, false),
		"status_transitions": object{"finalized_at": timeOrNull(o.FinalizedAt), "paid_at": timeOrNull(o.PaidAt)},
	}
	if modern {
		v["parent"] = object{"type": "subscription_details", "subscription_details": object{
			"subscription": o.Subscription, "metadata": metadataOf(sub.Metadata)}}
	} else {
		v["subscription"] = o.Subscription
		v["subscription_details"] = object{"metadata": metadataOf(sub.Metadata)}
		v["paid"] = o.Status == "paid"
	}
	return v
}

func getInvoice(c *call) (any, error) {
	o, ok := c.s.Invoices.get(c.id())
	if !ok {
		return nil, missing("invoice", c.id(), "id")
	}
	return c.invoiceView(o, c.modern), nil
}

func listInvoices(c *call) (any, error) {
	return page(c, c.s.Invoices.all(), func(o *invoice) string { return o.ID }, func(o *invoice) bool {
		return (!c.p.has("customer") || o.Customer == c.p.str("customer")) &&
			(!c.p.has("subscription") || o.Subscription == c.p.str("subscription")) &&
			(!c.p.has("status") || o.Status == c.p.str("status")) && c.since(o.Created)
	}, func(o *invoice) any { return c.invoiceView(o, c.modern) })
}

// upcomingInvoice previews the invoice of the end of the current period.
func upcomingInvoice(c *call) (any, error) {
	if c.modern != strings.HasSuffix(c.r.URL.Path, "create_preview") {
		return unknownURL(c)
	}
	var sub *subscription
	for _, o := range c.s.Subscriptions.all() {
		if !o.ended() && (c.p.has("subscription") && o.ID == c.p.str("subscription") ||
			!c.p.has("subscription") && o.Customer == c.p.str("customer")) {
			sub = o
		}
	}
	if sub == nil {
		return nil, &apiError{Status: 404, Code: "invoice_upcoming_none", Message: "No upcoming invoices for customer: '" + c.p.str("customer") + "'"}
	}
	// The preview is made on copies: it must not close the period.
	copied := *sub
	copied.Items = nil
	for _, it := range sub.Items {
		i := *it
		i.Closed = nil
		copied.Items = append(copied.Items, &i)
	}
	inv := &invoice{Customer: sub.Customer, Subscription: sub.ID, Status: "draft", BillingReason: "upcoming",
		Created: sub.PeriodEnd, PeriodStart: sub.PeriodStart, PeriodEnd: sub.PeriodEnd}
	c.close(&copied, inv, sub.PeriodStart, sub.PeriodEnd)
	if !sub.CancelAtPeriodEnd {
		copied.PeriodStart = sub.PeriodEnd
		c.bill(inv, &copied, sub.PeriodEnd, c.nextPeriodEnd(&copied))
	}
	return c.invoiceView(inv, c.modern), nil
}
