package stripetest

import (
	"math"
	"time"
)

const (
	// finalizeAfter is how long the invoice of a period stays a draft, and
	// takes usage of a meter, after the endpoint has heard of it.
	finalizeAfter = int64(time.Hour / time.Second)
	// finalizeUnheard is how long if the endpoint doesn't take invoice.created.
	finalizeUnheard = int64(72 * time.Hour / time.Second)
	// giveUpAfter is how long a subscription waits for its first payment.
	giveUpAfter = int64(23 * time.Hour / time.Second)
	// warnBefore is when the end of a trial is announced.
	warnBefore = int64(3 * 24 * time.Hour / time.Second)
)

// undue are the endpoints after which nothing falls due earlier than before, or
// which note it themselves. They come by the thousand.
var undue = []string{meterEvents, "POST /v1/customers", "POST /v1/subscriptions"}

// roll does, in its order, whatever has fallen due until now, and reports
// whether there was anything. It needs the lock.
func (e *Emulator) roll() (changed bool) {
	if e.dueAt > e.now().Unix() {
		return false
	}
	for {
		due, at := e.nextDue()
		if due == nil {
			return changed
		}
		due(at)
		changed = true
	}
}

// nextDue finds what fell due first: the end of a period, a trial or the wait
// for a payment, the finalisation of a draft, another try to collect, the
// expiry of a checkout. It notes when to look again if nothing did.
func (e *Emulator) nextDue() (do func(at int64), at int64) {
	e.dueAt = math.MaxInt64
	now, clocks := e.now().Unix(), len(e.s.Clocks.Order) > 0
	consider := func(customer string, when int64, f func(int64)) {
		clock := now
		if clocks && e.clockOf(customer) != nil {
			clock = e.timeOf(customer).Unix() // moved by a request alone
		} else if when > 0 {
			e.dueAt = min(e.dueAt, when)
		}
		if when > 0 && when <= clock && (do == nil || when < at) {
			do, at = f, when
		}
	}
	for _, o := range e.s.Subscriptions.all() {
		switch {
		case o.Status == "incomplete":
			consider(o.Customer, o.Created+giveUpAfter, func(at int64) { e.giveUp(o, at) })
		case !o.ended() && o.Status != "paused":
			consider(o.Customer, o.nextEnd(), func(at int64) { e.turn(o, at, "subscription_cycle") })
		}
		if o.Status == "trialing" && !o.Warned {
			consider(o.Customer, max(o.TrialEnd-warnBefore, o.Created), func(int64) { e.warn(o) })
		}
	}
	for _, inv := range e.s.Invoices.all() {
		switch inv.Status {
		case "draft":
			consider(inv.Customer, inv.FinalizeAt, func(at int64) { e.finalize(inv, at) })
		case "open":
			consider(inv.Customer, inv.NextAttempt, func(at int64) { e.collect(inv, at) })
		}
	}
	for _, s := range e.s.Sessions.all() {
		if s.Status == "open" {
			consider(s.Customer, s.ExpiresAt, func(int64) { e.expire(s) })
		}
	}
	return do, at
}

// turn ends a period and begins the next. The invoice takes the flat prices of
// the period that begins and the usage of the one that ends; it is a draft for
// an hour or more, in which meters go on counting for it and usage records
// don't.
func (e *Emulator) turn(o *subscription, at int64, reason string) {
	if o.Status == "trialing" && o.TrialWithout != "" && !o.leaves(at) {
		if o.TrialWithout == "pause" {
			o.Status = "paused"
			e.emitSubscription("paused", o)
			e.emitSubscription("updated", o)
		} else {
			e.end(o, at, false)
		}
		return
	}
	start := o.PeriodStart
	inv := e.addInvoice(o, reason, at)
	if o.Status != "unpaid" { // the invoices of that status stay drafts
		inv.FinalizeAt = at + finalizeAfter
	}
	e.close(o, inv, start, at)
	if o.leaves(at) {
		o.Status, o.EndedAt = "canceled", at
		e.announce(inv, at)
		e.emitSubscription("deleted", o)
		return
	}
	if o.Status == "trialing" {
		o.Status = "active"
	}
	o.PeriodStart = at
	o.PeriodEnd = e.nextPeriodEnd(o)
	e.bill(inv, o, o.PeriodStart, o.PeriodEnd)
	e.announce(inv, at)
	e.emitSubscription("updated", o)
}

// announce tells of a draft. While the endpoint hasn't taken that, the invoice
// isn't finalised, for up to three days
// (https://docs.stripe.com/invoicing/integration/workflow-transitions).
func (e *Emulator) announce(inv *invoice, at int64) {
	o := e.emitInvoice("created", inv)
	if o.Pending && inv.FinalizeAt > 0 {
		inv.Notice, inv.FinalizeAt = o.ID, at+finalizeUnheard
	}
}

// heard begins the hour of the draft that an event was about. It needs the
// lock.
func (e *Emulator) heard(o *event) {
	if o.Type != "invoice.created" {
		return
	}
	for _, inv := range e.s.Invoices.all() {
		if inv.Notice == o.ID && inv.Status == "draft" {
			inv.Notice, inv.FinalizeAt = "", min(inv.FinalizeAt, e.timeOf(inv.Customer).Unix()+finalizeAfter)
		}
	}
}

// giveUp ends a subscription whose first payment never came.
func (e *Emulator) giveUp(o *subscription, at int64) {
	o.Status, o.EndedAt = "incomplete_expired", at
	if inv := e.s.Invoices.Rows[o.LatestInvoice]; inv != nil && inv.Status == "open" {
		inv.void()
		e.emitInvoice("voided", inv)
	}
	e.emitSubscription("updated", o)
}

func (e *Emulator) warn(o *subscription) {
	o.Warned = true
	e.emitSubscription("trial_will_end", o)
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
		inv.Lines = append(inv.Lines, line{ID: newID("il_"), Price: p.ID, Item: it.ID, Meter: p.Meter, Less: it.Invoiced,
			Quantity: it.recorded(start, end) - it.Invoiced, Start: start, End: end})
		it.Invoiced = 0
	}
}

// bill writes the flat prices of [start, end) to inv.
func (e *Emulator) bill(inv *invoice, o *subscription, start, end int64) {
	for _, it := range o.Items {
		if p := e.s.Prices.Rows[it.Price]; !p.Metered {
			inv.Lines = append(inv.Lines, line{ID: newID("il_"), Price: p.ID, Item: it.ID, Quantity: it.Quantity, Amount: p.cost(it.Quantity), Start: start, End: end})
		}
	}
}

// nextPeriodEnd is the first time after PeriodStart that lies a whole number of
// intervals after the anchor.
func (e *Emulator) nextPeriodEnd(o *subscription) int64 {
	p := e.s.Prices.Rows[o.Items[0].Price]
	anchor := time.Unix(o.Anchor, 0).UTC()
	for n := 1; ; n++ {
		if at := p.after(anchor, n).Unix(); at > o.PeriodStart {
			return at
		}
	}
}

// after is n intervals later. Months end on t's day, or on their last where
// they have no such day.
func (p *price) after(t time.Time, n int) time.Time {
	step := n * int(max(p.IntervalCount, 1))
	switch p.Interval {
	case "day":
		return t.AddDate(0, 0, step)
	case "week":
		return t.AddDate(0, 0, 7*step)
	case "year":
		return addMonths(t, 12*step)
	default:
		return addMonths(t, step)
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
