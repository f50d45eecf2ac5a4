package stripetest

// thresholdRest is the time before the end of a period in which thresholds are not
// looked at.
const thresholdRest = int64(24 * 60 * 60)

// reach draws up invoices for the usage of a customer that has reached a threshold:
// the units of an item, or the amount of all usage that no invoice has yet. With
// reset_billing_cycle_anchor a period begins with it
// (https://docs.stripe.com/billing/subscriptions/usage-based/thresholds). It needs
// the lock.
func (e *Emulator) reach(customer string) {
	at := e.timeOf(customer).Unix()
	for _, o := range e.s.Subscriptions.all() {
		if o.Customer != customer || o.ended() || o.Status == "trialing" || o.Status == "paused" || o.PeriodEnd-at <= thresholdRest {
			continue
		}
		reached, amount := false, int64(0)
		for _, it := range o.Items {
			fresh := e.fresh(o, it)
			amount += e.s.Prices.Rows[it.Price].cost(fresh)
			reached = reached || it.UsageThreshold > 0 && fresh >= it.UsageThreshold
		}
		if !reached && (o.AmountThreshold == 0 || amount < o.AmountThreshold) {
			continue
		}
		e.dueAt = 0
		if o.ResetAnchor {
			end := at + 1 // so that what was counted just now is in it
			o.Anchor, o.PeriodEnd = end, end
			e.turn(o, end, "subscription_threshold")
			continue
		}
		inv := e.addInvoice(o, "subscription_threshold", at)
		inv.FinalizeAt = at + finalizeAfter
		for _, it := range o.Items {
			if fresh := e.fresh(o, it); fresh > 0 {
				it.Invoiced += fresh
				p := e.s.Prices.Rows[it.Price]
				inv.Lines = append(inv.Lines, line{ID: newID("il_"), Price: p.ID, Item: it.ID, Quantity: fresh, Amount: p.cost(fresh), Start: o.PeriodStart, End: at})
			}
		}
		e.announce(inv, at)
		e.emitSubscription("updated", o)
	}
}

// fresh is the usage of the open period that no invoice has yet.
func (e *Emulator) fresh(o *subscription, it *item) int64 {
	p := e.s.Prices.Rows[it.Price]
	switch {
	case !p.Metered:
		return 0
	case p.Meter != "":
		return e.metered(p.Meter, o.Customer, o.PeriodStart, o.PeriodEnd) - it.Invoiced
	}
	return it.recorded(o.PeriodStart, o.PeriodEnd) - it.Invoiced
}
