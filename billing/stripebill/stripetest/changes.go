package stripetest

import (
	"math/big"
	"slices"
	"strconv"
)

// changeItems applies items[...] of an update: with an id it changes or deletes
// that item, without it adds one. What is flat is prorated
// (https://docs.stripe.com/billing/subscriptions/prorations); the usage of a
// meter is billed at the price that the period ends with.
func (c *call) changeItems(o *subscription) error {
	prorate := firstOf(c.p.str("proration_behavior"), "create_prorations")
	if prorate != "create_prorations" && prorate != "always_invoice" && prorate != "none" {
		return invalid("proration_behavior", "Invalid proration_behavior: must be one of always_invoice, create_prorations, or none")
	}
	before := o.Items
	after, err := c.changedItems(o)
	if err != nil {
		return err
	}
	at := c.timeOf(o.Customer).Unix()
	old, fresh := c.s.Prices.Rows[before[0].Price], c.s.Prices.Rows[after[0].Price]
	moved := (old.Interval != fresh.Interval || old.IntervalCount != fresh.IntervalCount) && o.Status != "trialing"
	switch {
	case prorate == "none" || o.Status == "trialing":
	case moved:
		c.prorate(o, before, nil, at, -1)
	default:
		c.prorate(o, before, after, at, -1)
		c.prorate(o, after, before, at, 1)
	}
	start := o.PeriodStart
	o.Items = after
	switch {
	case moved: // another interval begins a period, and is billed at once
		inv := c.addInvoice(o, "subscription_update", at)
		c.close(o, inv, start, at)
		o.Anchor, o.PeriodStart = at, at
		o.PeriodEnd = c.nextPeriodEnd(o)
		c.bill(inv, o, o.PeriodStart, o.PeriodEnd)
		c.emitInvoice("created", inv)
		c.finalize(inv, at)
	case prorate == "always_invoice":
		inv := c.addInvoice(o, "subscription_update", at)
		c.emitInvoice("created", inv)
		c.finalize(inv, at)
	}
	return nil
}

// prorate makes a pending item of what each flat price costs for the rest of
// the period: to be paid, or with sign -1 to be given back. What is the same on
// the other side of the change stays as it is.
func (c *call) prorate(o *subscription, items, other []*item, at, sign int64) {
	for _, it := range items {
		p := c.s.Prices.Rows[it.Price]
		whole := p.cost(it.Quantity)
		if p.Metered || whole == 0 || slices.ContainsFunc(other, it.same) {
			continue
		}
		part := &price{Decimal: big.NewRat(whole*(o.PeriodEnd-at), o.PeriodEnd-o.PeriodStart).FloatString(12)}
		ii := &invoiceItem{ID: newID("ii_"), Customer: o.Customer, Subscription: o.ID, Item: it.ID, Price: p.ID, Quantity: it.Quantity,
			Amount: sign * part.cost(1), Description: "Remaining time", Proration: true, Start: at, End: o.PeriodEnd, Created: at}
		if sign < 0 {
			ii.Description = "Unused time"
		}
		c.s.InvoiceItems.put(ii.ID, ii)
		c.emit("invoiceitem.created", c.invoiceItemView(ii, isModern(c.version)))
	}
}

func (it *item) same(other *item) bool {
	return other.ID == it.ID && other.Price == it.Price && other.Quantity == it.Quantity
}

func (c *call) changedItems(o *subscription) ([]*item, error) {
	out := make([]*item, 0, len(o.Items))
	for _, it := range o.Items {
		changed := *it
		out = append(out, &changed)
	}
	for i, line := range c.p.list("items") {
		if !line.has("id") {
			added, err := c.checkItems("items", []params{line}, false)
			if err != nil {
				return nil, err
			}
			added[0].Created = c.timeOf(o.Customer).Unix()
			out = append(out, added[0])
			continue
		}
		name := "items[" + strconv.Itoa(i) + "]"
		at := slices.IndexFunc(out, func(it *item) bool { return it.ID == line.str("id") })
		if at < 0 {
			return nil, missing("subscription_item", line.str("id"), name+"[id]")
		}
		if line.str("deleted") == "true" {
			it := out[at]
			if c.s.Prices.Rows[it.Price].legacy() && it.recorded(o.PeriodStart, o.PeriodEnd) > 0 && line.str("clear_usage") != "true" {
				return nil, invalid(name+"[deleted]", "The item has usage of the current period; it is lost unless the period ends first. Set clear_usage to lose it.")
			}
			out = slices.Delete(out, at, at+1)
			continue
		}
		if line.has("price") {
			checked, err := c.checkItems("items", []params{line}, false)
			if err != nil {
				return nil, err
			}
			out[at].Price, out[at].Quantity = checked[0].Price, checked[0].Quantity
		} else if line.has("quantity") {
			quantity, err := line.number("quantity", 0)
			if err != nil || quantity < 0 || c.s.Prices.Rows[out[at].Price].Metered {
				return nil, invalid(name+"[quantity]", "Invalid quantity.")
			}
			out[at].Quantity = quantity
		}
	}
	if len(out) == 0 {
		return nil, invalid("items", "A subscription must have at least one active plan.")
	}
	return out, nil
}
