package stripetest

import "time"

// finalizeAfter is how long the invoice of a period stays a draft, and takes
// usage of a meter.
const finalizeAfter = time.Hour

// roll does, in its order, whatever has fallen due until now, and reports
// whether there was anything. It needs the lock.
func (e *Emulator) roll() (changed bool) {
	now := e.now().Unix()
	for {
		due, at := e.nextDue()
		if due == nil || at > now {
			return changed
		}
		due(at)
		changed = true
	}
}

// nextDue finds what falls due first: the end of a period, the finalisation of
// a draft, the expiry of a checkout.
func (e *Emulator) nextDue() (do func(at int64), at int64) {
	consider := func(when int64, f func(int64)) {
		if when > 0 && (do == nil || when < at) {
			do, at = f, when
		}
	}
	for _, o := range e.s.Subscriptions.all() {
		switch {
		case o.Status == "incomplete":
			consider(o.Created+int64(23*time.Hour/time.Second), func(at int64) { e.giveUp(o, at) })
		case !o.ended() && o.Status != "paused":
			consider(o.PeriodEnd, func(at int64) { e.turn(o, at) })
		}
	}
	for _, inv := range e.s.Invoices.all() {
		if inv.Status == "draft" {
			consider(inv.FinalizeAt, func(at int64) { e.finalize(inv, at) })
		}
	}
	for _, s := range e.s.Sessions.all() {
		if s.Status == "open" {
			consider(s.ExpiresAt, func(int64) { e.expire(s) })
		}
	}
	return do, at
}

// turn ends a period and begins the next. The invoice takes the flat prices of
// the period that begins and the usage of the one that ends; it is a draft for
// an hour, in which meters go on counting for it and usage records don't.
func (e *Emulator) turn(o *subscription, at int64) {
	start := o.PeriodStart
	inv := e.addInvoice(o, "subscription_cycle", at)
	inv.FinalizeAt = at + int64(finalizeAfter/time.Second)
	e.close(o, inv, start, at)
	if o.CancelAtPeriodEnd {
		o.Status, o.EndedAt = "canceled", at
		e.emitInvoice("created", inv)
		e.emitSubscription("deleted", o)
		return
	}
	if o.Status == "trialing" {
		o.Status = "active"
	}
	o.PeriodStart = at
	o.PeriodEnd = e.nextPeriodEnd(o)
	e.bill(inv, o, o.PeriodStart, o.PeriodEnd)
	e.emitInvoice("created", inv)
	e.emitSubscription("updated", o)
}

// giveUp ends a subscription whose first payment never came.
func (e *Emulator) giveUp(o *subscription, at int64) {
	o.Status, o.EndedAt = "incomplete_expired", at
	e.emitSubscription("updated", o)
}

// close writes the usage of [start, end) to inv and ends that period for usage
// records.
func (e *Emulator) close(o *subscription, inv *invoice, start, end int64) {
	for _, it := range o.Items {
		p := e.s.Prices.Rows[it.Price]
		if !p.Metered {
			continue
		}
		it.Closed = append(it.Closed, closedPeriod{Start: start, End: end, Invoice: inv.ID})
		inv.Lines = append(inv.Lines, line{Price: p.ID, Item: it.ID, Meter: p.Meter, Quantity: it.recorded(start, end), Start: start, End: end})
	}
}

// bill writes the flat prices of [start, end) to inv.
func (e *Emulator) bill(inv *invoice, o *subscription, start, end int64) {
	for _, it := range o.Items {
		if p := e.s.Prices.Rows[it.Price]; !p.Metered {
			inv.Lines = append(inv.Lines, line{Price: p.ID, Item: it.ID, Quantity: it.Quantity, Amount: p.cost(it.Quantity), Start: start, End: end})
		}
	}
}

// nextPeriodEnd is the first time after PeriodStart that lies a whole number of
// intervals after the anchor. Months end on the anchor's day, or on their last
// where they have no such day.
func (e *Emulator) nextPeriodEnd(o *subscription) int64 {
	p := e.s.Prices.Rows[o.Items[0].Price]
	anchor := time.Unix(o.Anchor, 0).UTC()
	for n := 1; ; n++ {
		step := n * int(max(p.IntervalCount, 1))
		var at time.Time
		switch p.Interval {
		case "day":
			at = anchor.AddDate(0, 0, step)
		case "week":
			at = anchor.AddDate(0, 0, 7*step)
		case "year":
			at = addMonths(anchor, 12*step)
		default:
			at = addMonths(anchor, step)
		}
		if at.Unix() > o.PeriodStart {
			return at.Unix()
		}
	}
}

// addMonths keeps to the month: a month after the 31st of January is the last
// of February, not the 3rd of March as AddDate has it.
func addMonths(t time.Time, months int) time.Time {
	year, month, day := t.Date()
	first := time.Date(year, month+time.Month(months), 1, t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(day, last)-1)
}
