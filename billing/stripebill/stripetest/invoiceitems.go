package stripetest

import "slices"

// invoiceItem is a charge, or a credit, that the next invoice of its customer
// or subscription takes.
type invoiceItem struct {
	ID           string            `json:"id"`
	Customer     string            `json:"customer"`
	Subscription string            `json:"subscription,omitempty"`
	Item         string            `json:"item,omitempty"` // of the subscription, of a proration
	Price        string            `json:"price,omitempty"`
	Description  string            `json:"description,omitempty"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	Quantity     int64             `json:"quantity"`
	Amount       int64             `json:"amount"`
	Decimal      string            `json:"unit_amount_decimal,omitempty"`
	Proration    bool              `json:"proration,omitempty"`
	Start        int64             `json:"start"`
	End          int64             `json:"end"`
	Created      int64             `json:"created"`
	Invoice      string            `json:"invoice,omitempty"` // that has taken it
}

func (e *Emulator) invoiceItemView(o *invoiceItem, modern bool) any {
	v := object{
		"id": o.ID, "object": "invoiceitem", "customer": o.Customer, "description": orNull(o.Description),
		"amount": o.Amount, "currency": "usd", "quantity": o.Quantity, "proration": o.Proration,
		"period": object{"start": o.Start, "end": o.End}, "date": o.Created, "invoice": orNull(o.Invoice),
		"metadata": metadataOf(o.Metadata), "livemode": false, "test_clock": e.clockOf(o.Customer),
	}
	if !modern {
		v["subscription"], v["unit_amount_decimal"] = orNull(o.Subscription), orNull(o.Decimal)
	} else if o.Subscription != "" {
		v["parent"] = object{"type": "subscription_details", "subscription_details": object{"subscription": o.Subscription}}
	}
	return v
}

func (o *invoiceItem) line() line {
	return line{ID: newID("il_"), Price: o.Price, Item: o.Item, InvoiceItem: o.ID, Description: o.Description, Metadata: o.Metadata,
		Proration: o.Proration, Quantity: o.Quantity, Amount: o.Amount, Start: o.Start, End: o.End}
}

// pending are the items that inv would take. It needs the lock.
func (e *Emulator) pending(inv *invoice) []*invoiceItem {
	return slices.DeleteFunc(slices.Clone(e.s.InvoiceItems.all()), func(o *invoiceItem) bool {
		return o.Invoice != "" || o.Customer != inv.Customer || o.Subscription != "" && o.Subscription != inv.Subscription
	})
}

func (e *Emulator) takePending(inv *invoice) {
	for _, o := range e.pending(inv) {
		o.Invoice = inv.ID
		inv.Lines = append(inv.Lines, o.line())
	}
}

func createInvoiceItem(c *call) (any, error) {
	if err := c.p.require("customer"); err != nil {
		return nil, err
	}
	who, err := c.customer(c.p.str("customer"), "customer")
	if err != nil {
		return nil, err
	}
	at := c.timeOf(who.ID).Unix()
	o := &invoiceItem{
		ID: newID("ii_"), Customer: who.ID, Subscription: c.p.str("subscription"), Description: c.p.str("description"),
		Metadata: c.p.object("metadata"), Created: at,
	}
	if o.Subscription != "" {
		if sub, err := c.subscription(o.Subscription, "subscription"); err != nil || sub.Customer != who.ID {
			return nil, missing("subscription", o.Subscription, "subscription")
		}
	}
	for name, field := range map[string]*int64{"quantity": &o.Quantity, "amount": &o.Amount, "period[start]": &o.Start, "period[end]": &o.End} {
		def := map[string]int64{"quantity": 1, "period[start]": at, "period[end]": at}[name]
		if *field, err = c.p.number(name, def); err != nil {
			return nil, err
		}
	}
	switch {
	case c.p.has("amount"):
	case c.p.has("unit_amount_decimal") || c.p.has("unit_amount"):
		each := &price{}
		if each.Decimal, err = c.decimal(); err != nil {
			return nil, err
		}
		o.Decimal, o.Amount = each.Decimal, each.cost(o.Quantity)
	default:
		return nil, c.p.require("amount")
	}
	if id := c.p.str("invoice"); id != "" {
		inv, ok := c.s.Invoices.get(id)
		if !ok || inv.Customer != who.ID {
			return nil, missing("invoice", id, "invoice")
		}
		if inv.Status != "draft" {
			return nil, invalid("invoice", "The invoice "+id+" is no longer a draft.")
		}
		o.Invoice = id
		inv.Lines = append(inv.Lines, o.line())
	}
	c.s.InvoiceItems.put(o.ID, o)
	v := c.invoiceItemView(o, c.modern)
	c.emit("invoiceitem.created", v)
	return v, nil
}

func getInvoiceItem(c *call) (any, error) {
	o, ok := c.s.InvoiceItems.get(c.id())
	if !ok {
		return nil, missing("invoiceitem", c.id(), "id")
	}
	return c.invoiceItemView(o, c.modern), nil
}

// deleteInvoiceItem takes one back that no invoice has taken, or one that is still
// a draft.
func deleteInvoiceItem(c *call) (any, error) {
	o, ok := c.s.InvoiceItems.get(c.id())
	if !ok {
		return nil, missing("invoiceitem", c.id(), "id")
	}
	if inv := c.s.Invoices.Rows[o.Invoice]; inv != nil {
		if inv.Status != "draft" {
			return nil, invalid("", "The invoice item "+o.ID+" is on an invoice that is no longer a draft.")
		}
		inv.Lines = slices.DeleteFunc(inv.Lines, func(l line) bool { return l.InvoiceItem == o.ID })
	}
	c.s.InvoiceItems.remove(func(i *invoiceItem) bool { return i == o })
	c.emit("invoiceitem.deleted", c.invoiceItemView(o, c.modern))
	return object{"id": o.ID, "object": "invoiceitem", "deleted": true}, nil
}

func listInvoiceItems(c *call) (any, error) {
	pending, set, err := c.p.boolean("pending")
	if err != nil {
		return nil, err
	}
	return page(c, c.s.InvoiceItems.all(), func(o *invoiceItem) string { return o.ID }, func(o *invoiceItem) bool {
		return (!c.p.has("customer") || o.Customer == c.p.str("customer")) &&
			(!c.p.has("invoice") || o.Invoice == c.p.str("invoice")) &&
			(!set || pending == (o.Invoice == "")) && c.since(o.Created)
	}, func(o *invoiceItem) any { return c.invoiceItemView(o, c.modern) })
}

// createInvoice makes one by hand, of what is pending. It stays a draft until
// it is finalised, by itself with auto_advance.
func createInvoice(c *call) (any, error) {
	if err := c.p.require("customer"); err != nil {
		return nil, err
	}
	who, err := c.customer(c.p.str("customer"), "customer")
	if err != nil {
		return nil, err
	}
	advance, _, err := c.p.boolean("auto_advance")
	if err != nil {
		return nil, err
	}
	at := c.timeOf(who.ID).Unix()
	o := &invoice{ID: newID("in_"), Customer: who.ID, Status: "draft", BillingReason: "manual", Created: at, PeriodStart: at, PeriodEnd: at,
		Description: c.p.str("description"), Metadata: c.p.object("metadata")}
	if id := c.p.str("subscription"); id != "" {
		sub, err := c.subscription(id, "subscription")
		if err != nil || sub.Customer != who.ID {
			return nil, missing("subscription", id, "subscription")
		}
		o.Subscription = id
	}
	if advance {
		o.FinalizeAt = at + finalizeAfter
	}
	// Before 2022-08-01 they were included without asking.
	if c.p.str("pending_invoice_items_behavior") == "include" {
		c.takePending(o)
	}
	c.s.Invoices.put(o.ID, o)
	c.announce(o, at)
	return c.invoiceView(o, c.modern), nil
}
