package stripetest

import (
	"fmt"
	"net/http"
	"strings"
)

type invoice struct {
	ID            string            `json:"id"`
	Customer      string            `json:"customer"`
	Subscription  string            `json:"subscription,omitempty"` // empty: made by hand
	Status        string            `json:"status"`                 // draft, open, paid, void
	BillingReason string            `json:"billing_reason"`
	Description   string            `json:"description,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	Created       int64             `json:"created"`
	PeriodStart   int64             `json:"period_start"`
	PeriodEnd     int64             `json:"period_end"`
	FinalizeAt    int64             `json:"finalize_at,omitempty"`
	FinalizedAt   int64             `json:"finalized_at,omitempty"`
	PaidAt        int64             `json:"paid_at,omitempty"`
	Attempts      int               `json:"attempts,omitempty"`
	NextAttempt   int64             `json:"next_attempt,omitempty"`
	Notice        string            `json:"notice,omitempty"`     // the event that the endpoint hasn't taken yet
	Processing    bool              `json:"processing,omitempty"` // its payment takes days
	Lines         []line            `json:"lines"`
}

type line struct {
	ID          string            `json:"id"`
	Price       string            `json:"price,omitempty"`
	Item        string            `json:"item,omitempty"`         // of the subscription
	InvoiceItem string            `json:"invoice_item,omitempty"` // of the customer
	Description string            `json:"description,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"` // of the invoice item
	Meter       string            `json:"meter,omitempty"`    // the quantity is this meter's until the invoice is final
	Less        int64             `json:"less,omitempty"`     // that earlier invoices of the period have
	Proration   bool              `json:"proration,omitempty"`
	Quantity    int64             `json:"quantity"`
	Amount      int64             `json:"amount"`
	Start       int64             `json:"start"`
	End         int64             `json:"end"`
}

func (o *invoice) total() int64 {
	var sum int64
	for _, l := range o.Lines {
		sum += l.Amount
	}
	return sum
}

func (o *invoice) void() { o.Status, o.NextAttempt = "void", 0 }

// addInvoice begins an invoice with what is pending for the subscription. It
// needs the lock.
func (e *Emulator) addInvoice(sub *subscription, reason string, at int64) *invoice {
	inv := &invoice{ID: newID("in_"), Customer: sub.Customer, Subscription: sub.ID, Status: "draft",
		BillingReason: reason, Created: at, PeriodStart: sub.PeriodStart, PeriodEnd: at}
	e.s.Invoices.put(inv.ID, inv)
	sub.LatestInvoice = inv.ID
	e.takePending(inv)
	return inv
}

// measure brings the lines of usage up to date.
func (e *Emulator) measure(inv *invoice) {
	for i := range inv.Lines {
		l := &inv.Lines[i]
		p := e.s.Prices.Rows[l.Price]
		if p == nil || !p.Metered {
			continue
		}
		if l.Meter != "" {
			l.Quantity = e.metered(l.Meter, inv.Customer, l.Start, l.End) - l.Less
		}
		l.Amount = p.cost(l.Quantity)
	}
}

// finalize fixes the amounts and collects them, or fails to. It needs the
// lock.
func (e *Emulator) finalize(inv *invoice, at int64) {
	e.measure(inv)
	inv.Status, inv.FinalizedAt, inv.FinalizeAt, inv.Notice = "open", at, 0, ""
	if inv.BillingReason != "subscription_create" {
		e.emitInvoice("finalized", inv)
	}
	sub := e.s.Subscriptions.Rows[inv.Subscription]
	if sub != nil && sub.PauseBehavior != "" {
		if sub.PauseBehavior == "void" {
			inv.void()
			e.emitInvoice("voided", inv)
		}
		return
	}
	if !inv.Processing {
		e.collect(inv, at)
	}
}

// collect tries to get an open invoice paid.
func (e *Emulator) collect(inv *invoice, at int64) {
	sub := e.s.Subscriptions.Rows[inv.Subscription]
	inv.Attempts++
	inv.NextAttempt = 0
	if e.s.Customers.Rows[inv.Customer].Declines && inv.total() > 0 {
		e.dun(inv, sub, at)
		return
	}
	inv.Status, inv.PaidAt = "paid", at
	e.emitInvoice("paid", inv)
	if sub == nil {
		return
	}
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
		lines = append(lines, e.lineView(o, l, modern))
	}
	paid, remaining := int64(0), o.total()
	if o.Status == "paid" {
		paid, remaining = remaining, 0
	}
	v := object{
		"id": orNull(o.ID), "object": "invoice", "customer": o.Customer, "status": o.Status, "billing_reason": o.BillingReason,
		"created": o.Created, "period_start": o.PeriodStart, "period_end": o.PeriodEnd, "currency": "usd",
		"total": o.total(), "subtotal": o.total(), "amount_due": o.total(), "amount_paid": paid, "amount_remaining": remaining,
		"attempt_count": o.Attempts, "attempted": o.Attempts > 0, "next_payment_attempt": timeOrNull(o.NextAttempt),
		"auto_advance": o.FinalizeAt > 0, "due_date": nil, "livemode": false, "collection_method": "charge_automatically",
		"description": orNull(o.Description), "metadata": metadataOf(o.Metadata), "test_clock": e.clockOf(o.Customer),
		"lines":              listOf("/v1/invoices/"+o.ID+"/lines", lines, false),
		"status_transitions": object{"finalized_at": timeOrNull(o.FinalizedAt), "paid_at": timeOrNull(o.PaidAt), "voided_at": nil, "marked_uncollectible_at": nil},
	}
	var details, parent any
	if sub := e.s.Subscriptions.Rows[o.Subscription]; sub != nil {
		details = object{"metadata": metadataOf(sub.Metadata)}
		parent = object{"type": "subscription_details", "quote_details": nil, "subscription_details": object{
			"subscription": o.Subscription, "metadata": metadataOf(sub.Metadata)}}
	}
	if modern {
		v["parent"] = parent
	} else {
		v["subscription"], v["subscription_details"] = orNull(o.Subscription), details
		v["paid"] = o.Status == "paid"
	}
	return v
}

// lineView shows a line in the layout of the API version.
func (e *Emulator) lineView(o *invoice, l line, modern bool) object {
	v := object{
		"id": l.ID, "object": "line_item", "amount": l.Amount, "quantity": l.Quantity, "currency": "usd",
		"description": orNull(l.Description), "period": object{"start": l.Start, "end": l.End},
		"metadata": metadataOf(l.Metadata), "livemode": false,
	}
	p := e.s.Prices.Rows[l.Price]
	if !modern {
		v["price"], v["subscription"], v["subscription_item"] = nil, orNull(o.Subscription), l.Item
		v["type"], v["proration"], v["invoice_item"] = "subscription", l.Proration, l.InvoiceItem
		if p != nil {
			v["price"] = p.view(false)
		}
		if l.Item == "" {
			v["type"] = "invoiceitem"
			delete(v, "subscription_item")
		}
		if l.InvoiceItem == "" {
			delete(v, "invoice_item")
		}
		return v
	}
	v["pricing"] = nil
	if p != nil {
		v["pricing"] = object{"type": "price_details", "price_details": object{"price": p.ID, "product": p.Product}, "unit_amount_decimal": p.Decimal}
	}
	v["parent"] = object{"type": "subscription_item_details", "invoice_item_details": nil, "subscription_item_details": object{
		"subscription": o.Subscription, "subscription_item": l.Item, "proration": l.Proration, "invoice_item": orNull(l.InvoiceItem)}}
	if l.Item == "" {
		v["parent"] = object{"type": "invoice_item_details", "subscription_item_details": nil, "invoice_item_details": object{
			"invoice_item": l.InvoiceItem, "proration": l.Proration, "subscription": orNull(o.Subscription)}}
	}
	return v
}

func (c *call) invoice() (*invoice, error) {
	o, ok := c.s.Invoices.get(c.id())
	if !ok {
		return nil, missing("invoice", c.id(), "id")
	}
	return o, nil
}

func getInvoice(c *call) (any, error) {
	o, err := c.invoice()
	if err != nil {
		return nil, err
	}
	return c.invoiceView(o, c.modern), nil
}

func listLines(c *call) (any, error) {
	o, err := c.invoice()
	if err != nil {
		return nil, err
	}
	if o.Status == "draft" {
		c.measure(o)
	}
	var lines []*line
	for _, l := range o.Lines {
		lines = append(lines, &l)
	}
	return page(c, lines, func(l *line) string { return l.ID }, nil, func(l *line) any { return c.lineView(o, *l, c.modern) })
}

// finalizeInvoice ends a draft before its time.
func finalizeInvoice(c *call) (any, error) {
	return c.act("finalized", "draft", func(o *invoice, at int64) { c.finalize(o, at) })
}

// payInvoice tries to collect. A declined card is a 402, and the invoice stays
// open.
func payInvoice(c *call) (any, error) {
	var declined error
	v, err := c.act("paid", "open", func(o *invoice, at int64) {
		if c.collect(o, at); o.Status != "paid" {
			declined = &apiError{Status: http.StatusPaymentRequired, Type: "card_error", Code: "card_declined", Message: "Your card was declined.", ran: true}
		}
	})
	if err == nil {
		err = declined
	}
	return v, err
}

func voidInvoice(c *call) (any, error) {
	return c.act("voided", "open", func(o *invoice, _ int64) {
		o.void()
		c.emitInvoice("voided", o)
	})
}

// act does something to an invoice that has the status for it.
func (c *call) act(done, status string, do func(o *invoice, at int64)) (any, error) {
	o, err := c.invoice()
	if err != nil {
		return nil, err
	}
	if o.Status != status {
		return nil, &apiError{Status: http.StatusBadRequest, ran: true,
			Message: fmt.Sprintf("This invoice can't be %s, because its status is %s.", done, o.Status)}
	}
	do(o, c.timeOf(o.Customer).Unix())
	return c.invoiceView(o, c.modern), nil
}

func listInvoices(c *call) (any, error) {
	return page(c, c.s.Invoices.all(), func(o *invoice) string { return o.ID }, func(o *invoice) bool {
		return (c.p.has("customer") || c.p.has("subscription") || c.clockOf(o.Customer) == nil) &&
			(!c.p.has("customer") || o.Customer == c.p.str("customer")) &&
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
	for _, it := range c.pending(inv) {
		inv.Lines = append(inv.Lines, it.line())
	}
	c.close(&copied, inv, sub.PeriodStart, sub.PeriodEnd)
	if !sub.CancelAtPeriodEnd {
		copied.PeriodStart = sub.PeriodEnd
		c.bill(inv, &copied, sub.PeriodEnd, c.nextPeriodEnd(&copied))
	}
	return c.invoiceView(inv, c.modern), nil
}
