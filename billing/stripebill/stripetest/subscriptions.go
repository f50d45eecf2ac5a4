package stripetest

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

type subscription struct {
	ID                string            `json:"id"`
	Customer          string            `json:"customer"`
	Status            string            `json:"status"`
	Description       string            `json:"description,omitempty"`
	Metadata          map[string]string `json:"metadata,omitempty"`
	Created           int64             `json:"created"`
	Anchor            int64             `json:"anchor"` // all periods end at its day and time
	PeriodStart       int64             `json:"period_start"`
	PeriodEnd         int64             `json:"period_end"`
	TrialEnd          int64             `json:"trial_end,omitempty"`
	CancelAtPeriodEnd bool              `json:"cancel_at_period_end,omitempty"`
	CancelAt          int64             `json:"cancel_at,omitempty"`
	CanceledAt        int64             `json:"canceled_at,omitempty"`
	EndedAt           int64             `json:"ended_at,omitempty"`
	PauseBehavior     string            `json:"pause_behavior,omitempty"`
	TrialWithout      string            `json:"trial_without,omitempty"` // "pause" or "cancel" when no card was given
	Warned            bool              `json:"warned,omitempty"`        // of the end of the trial
	AmountThreshold   int64             `json:"amount_threshold,omitempty"`
	ResetAnchor       bool              `json:"reset_anchor,omitempty"` // at a threshold
	LatestInvoice     string            `json:"latest_invoice,omitempty"`
	Items             []*item           `json:"items"`
}

// item is one price that is subscribed to.
type item struct {
	ID       string            `json:"id"`
	Price    string            `json:"price"`
	Quantity int64             `json:"quantity"` // 0 for a metered price
	Metadata map[string]string `json:"metadata,omitempty"`
	Created  int64             `json:"created"`
	Records  map[int64]int64   `json:"records,omitempty"` // legacy usage: timestamp -> quantity
	Closed   []closedPeriod    `json:"closed,omitempty"`  // oldest first

	UsageThreshold int64 `json:"usage_threshold,omitempty"`
	Invoiced       int64 `json:"invoiced,omitempty"` // usage of the open period, at thresholds
}

// closedPeriod is a billing period that its invoice has taken in.
type closedPeriod struct {
	Start   int64  `json:"start"`
	End     int64  `json:"end"`
	Invoice string `json:"invoice"`
}

// thresholds reports whether o, or an item of it, has billing thresholds.
func (o *subscription) thresholds() bool {
	return o.AmountThreshold > 0 || slices.ContainsFunc(o.Items, func(it *item) bool { return it.UsageThreshold > 0 })
}

// nextEnd is when the open period ends, or all of it.
func (o *subscription) nextEnd() int64 {
	if o.CancelAt > 0 {
		return min(o.CancelAt, o.PeriodEnd)
	}
	return o.PeriodEnd
}

// leaves reports whether o ends with the period that ends at that time.
func (o *subscription) leaves(at int64) bool {
	return o.CancelAtPeriodEnd || o.CancelAt > 0 && o.CancelAt <= at
}

func (o *subscription) ended() bool {
	return o.Status == "canceled" || o.Status == "incomplete_expired"
}

// subscriptionView shows o in the layout of the API version.
func (e *Emulator) subscriptionView(o *subscription, modern bool) any {
	items := []any{}
	for _, it := range o.Items {
		items = append(items, e.itemView(o, it, modern))
	}
	var pause, thresholds any
	if o.PauseBehavior != "" {
		pause = object{"behavior": o.PauseBehavior, "resumes_at": nil}
	}
	if o.AmountThreshold > 0 {
		thresholds = object{"amount_gte": o.AmountThreshold, "reset_billing_cycle_anchor": o.ResetAnchor}
	}
	v := object{
		"id": o.ID, "object": "subscription", "customer": o.Customer, "status": o.Status, "created": o.Created,
		"start_date": o.Created, "billing_cycle_anchor": o.Anchor, "cancel_at_period_end": o.CancelAtPeriodEnd,
		"canceled_at": timeOrNull(o.CanceledAt), "ended_at": timeOrNull(o.EndedAt), "trial_end": timeOrNull(o.TrialEnd),
		"cancel_at": timeOrNull(o.CancelAt), "billing_thresholds": thresholds, "test_clock": e.clockOf(o.Customer),
		"pause_collection": pause, "latest_invoice": orNull(o.LatestInvoice), "metadata": metadataOf(o.Metadata),
		"description": orNull(o.Description), "collection_method": "charge_automatically", "currency": "usd", "livemode": false,
		"items": listOf("/v1/subscription_items?subscription="+o.ID, items, false),
	}
	if o.CancelAtPeriodEnd && o.CancelAt == 0 {
		v["cancel_at"] = o.PeriodEnd
	}
	if !modern {
		v["current_period_start"], v["current_period_end"] = o.PeriodStart, o.PeriodEnd
	}
	return v
}

func (e *Emulator) itemView(o *subscription, it *item, modern bool) object {
	p := e.s.Prices.Rows[it.Price]
	var thresholds any
	if it.UsageThreshold > 0 {
		thresholds = object{"usage_gte": it.UsageThreshold}
	}
	v := object{
		"billing_thresholds": thresholds,
		"id":                 it.ID, "object": "subscription_item", "subscription": o.ID, "created": it.Created,
		"metadata": metadataOf(it.Metadata), "price": p.view(modern),
	}
	if !p.Metered {
		v["quantity"] = it.Quantity
	}
	if modern {
		v["current_period_start"], v["current_period_end"] = o.PeriodStart, o.PeriodEnd
	}
	return v
}

// addSubscription starts o, which has its customer and its items, and makes
// its first invoice. It needs the lock.
func (e *Emulator) addSubscription(o *subscription, trial time.Duration, at int64, later bool) {
	o.ID, o.Status, o.Created, o.Anchor, o.PeriodStart = newID("sub_"), "active", at, at, at
	for _, it := range o.Items {
		it.Created = at
	}
	if trial > 0 {
		o.Status, o.TrialEnd = "trialing", at+int64(trial/time.Second)
		o.Anchor, o.PeriodEnd = o.TrialEnd, o.TrialEnd
	} else {
		o.PeriodEnd = e.nextPeriodEnd(o)
	}
	e.s.Subscriptions.put(o.ID, o)
	inv := e.addInvoice(o, "subscription_create", at)
	inv.Processing = later
	if trial == 0 {
		e.bill(inv, o, o.PeriodStart, o.PeriodEnd)
	}
	if e.s.Customers.Rows[o.Customer].Declines && inv.total() > 0 {
		o.Status = "incomplete"
	}
	e.emitSubscription("created", o)
	e.emitInvoice("created", inv)
	e.finalize(inv, at)
	if e.dueAt = min(e.dueAt, o.nextEnd()); o.Status != "active" {
		e.dueAt = 0
	}
}

// checkItems makes items of what a request lists: price and quantity. Their
// prices are all recurring, or all paid once.
func (c *call) checkItems(param string, lines []params, oneTime bool) ([]*item, error) {
	if len(lines) == 0 {
		return nil, c.p.require(param)
	}
	var out []*item
	for i, line := range lines {
		at := param + "[" + strconv.Itoa(i) + "]"
		p, ok := c.s.Prices.get(line.str("price"))
		if !ok {
			return nil, missing("price", line.str("price"), at+"[price]")
		}
		if !p.Active {
			return nil, invalid(at+"[price]", "The price specified is inactive. This field only accepts active prices.")
		}
		switch {
		case oneTime && !p.oneTime():
			return nil, invalid("mode", "You specified `payment` mode but passed a recurring price. Either switch to `subscription` mode or use only one-time prices.")
		case !oneTime && p.oneTime():
			return nil, invalid(at+"[price]", "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.")
		}
		if p.Metered && line.has("quantity") {
			return nil, invalid(at+"[quantity]", "Quantity should not be specified where usage_type is `metered`. Remove quantity from `"+at+"`")
		}
		def := int64(1)
		if p.Metered {
			def = 0
		}
		quantity, err := line.number("quantity", def)
		if err != nil || quantity < 0 || quantity == 0 && !p.Metered && param == "line_items" {
			return nil, invalid(at+"[quantity]", "Invalid quantity.")
		}
		if slices.ContainsFunc(out, func(it *item) bool { return it.Price == p.ID }) {
			return nil, invalid(at+"[price]", "The same price is listed twice.")
		}
		usage, err := line.number("billing_thresholds[usage_gte]", 0)
		if err != nil {
			return nil, err
		}
		out = append(out, &item{ID: newID("si_"), Price: p.ID, Quantity: quantity, Metadata: line.object("metadata"), UsageThreshold: usage})
	}
	return out, nil
}

func createSubscription(c *call) (any, error) {
	if err := c.p.require("customer", "items"); err != nil {
		return nil, err
	}
	who, err := c.customer(c.p.str("customer"), "customer")
	if err != nil {
		return nil, err
	}
	items, err := c.checkItems("items", c.p.list("items"), false)
	if err != nil {
		return nil, err
	}
	days, err := c.p.number("trial_period_days", 0)
	if err != nil {
		return nil, err
	}
	end, err := c.p.number("trial_end", 0)
	if err != nil {
		return nil, err
	}
	at := c.timeOf(who.ID).Truncate(time.Second)
	trial := time.Duration(days) * 24 * time.Hour
	if end > 0 {
		trial = time.Unix(end, 0).Sub(at)
	}
	if trial < 0 {
		return nil, invalid("trial_end", "The trial must end in the future.")
	}
	o := &subscription{Customer: who.ID, Items: items, Metadata: c.p.object("metadata"), Description: c.p.str("description")}
	if o.CancelAtPeriodEnd, _, err = c.p.boolean("cancel_at_period_end"); err != nil {
		return nil, err
	}
	if o.AmountThreshold, err = c.p.number("billing_thresholds[amount_gte]", 0); err != nil {
		return nil, err
	}
	if err := c.readCancelAt(o, at.Unix()); err != nil {
		return nil, err
	}
	if o.ResetAnchor, _, err = c.p.boolean("billing_thresholds[reset_billing_cycle_anchor]"); err != nil {
		return nil, err
	}
	// Customers of the emulator have a card, unless the request says what to do
	// without one and gives none.
	if !c.p.has("default_payment_method") {
		if o.TrialWithout, err = trialEnd(c.p.str("trial_settings[end_behavior][missing_payment_method]")); err != nil {
			return nil, err
		}
	}
	c.addSubscription(o, trial, at.Unix(), false)
	return c.subscriptionView(o, c.modern), nil
}

// trialEnd reads what a trial without a card ends in: empty for a bill.
func trialEnd(behavior string) (string, error) {
	switch behavior {
	case "", "create_invoice":
		return "", nil
	case "pause", "cancel":
		return behavior, nil
	}
	return "", invalid("trial_settings[end_behavior][missing_payment_method]", "Invalid value: must be one of cancel, create_invoice, or pause")
}

func (c *call) subscription(id, param string) (*subscription, error) {
	o, ok := c.s.Subscriptions.get(id)
	if !ok {
		return nil, missing("subscription", id, param)
	}
	return o, nil
}

func getSubscription(c *call) (any, error) {
	o, err := c.subscription(c.id(), "id")
	if err != nil {
		return nil, err
	}
	return c.subscriptionView(o, c.modern), nil
}

func updateSubscription(c *call) (any, error) {
	o, err := c.subscription(c.id(), "id")
	if err != nil {
		return nil, err
	}
	if o.ended() {
		return nil, &apiError{Status: http.StatusBadRequest, Message: "A canceled subscription can only update its cancellation_details and metadata."}
	}
	cancel, set, err := c.p.boolean("cancel_at_period_end")
	if err != nil {
		return nil, err
	}
	if behavior := c.p.str("pause_collection[behavior]"); behavior != "" && behavior != "void" && behavior != "keep_as_draft" && behavior != "mark_uncollectible" {
		return nil, invalid("pause_collection[behavior]", "Invalid pause_collection[behavior]: must be one of keep_as_draft, mark_uncollectible, or void")
	}
	threshold, err := c.p.number("billing_thresholds[amount_gte]", 0)
	if err != nil {
		return nil, err
	}
	reset, _, err := c.p.boolean("billing_thresholds[reset_billing_cycle_anchor]")
	if err != nil {
		return nil, err
	}
	endTrial := c.p.str("trial_end") == "now"
	if c.p.has("trial_end") && !endTrial {
		return nil, invalid("trial_end", "The emulator ends trials now, or as they began.")
	}
	if c.p.has("items") {
		if err := c.changeItems(o); err != nil {
			return nil, err
		}
	}
	at := c.timeOf(o.Customer).Unix()
	if err := c.readCancelAt(o, at); err != nil {
		return nil, err
	}
	if c.p.has("billing_thresholds") {
		o.AmountThreshold, o.ResetAnchor = threshold, reset
	}
	if set {
		o.CancelAtPeriodEnd, o.CanceledAt = cancel, 0
		if cancel {
			o.CanceledAt = at
		}
	}
	if c.p.has("pause_collection") {
		o.PauseBehavior = c.p.str("pause_collection[behavior]")
	}
	o.Description = firstOf(c.p.str("description"), o.Description)
	o.Metadata = mergeMetadata(o.Metadata, c.p.object("metadata"))
	if endTrial && o.Status == "trialing" {
		o.TrialEnd, o.Anchor, o.PeriodEnd = at, at, at
		c.turn(o, at, "subscription_cycle") // tells of the update
	} else {
		c.emitSubscription("updated", o)
	}
	return c.subscriptionView(o, c.modern), nil
}

// readCancelAt sets the time at which a subscription is to end; empty unsets it.
func (c *call) readCancelAt(o *subscription, now int64) error {
	if !c.p.has("cancel_at") {
		return nil
	}
	at, err := c.p.number("cancel_at", 0)
	switch {
	case err != nil:
		return err
	case c.p.str("cancel_at_period_end") == "true":
		return invalid("cancel_at", "You can only set one of `cancel_at_period_end` and `cancel_at`.")
	case at > 0 && at <= now:
		return invalid("cancel_at", "`cancel_at` must be in the future.")
	}
	o.CancelAt, o.CancelAtPeriodEnd, o.CanceledAt = at, false, 0
	if at > 0 {
		o.CanceledAt = now
	}
	return nil
}

// resumeSubscription ends a pause that a trial without a card ended in. A new
// period begins, and is billed.
func resumeSubscription(c *call) (any, error) {
	o, err := c.subscription(c.id(), "id")
	if err != nil {
		return nil, err
	}
	if o.Status != "paused" {
		return nil, &apiError{Status: http.StatusBadRequest, ran: true, Message: "Only a paused subscription can be resumed; this one is " + o.Status + "."}
	}
	at := c.timeOf(o.Customer).Unix()
	o.Status, o.TrialWithout = "active", ""
	if c.p.str("billing_cycle_anchor") != "unchanged" {
		o.Anchor = at
	}
	o.PeriodStart = at
	o.PeriodEnd = c.nextPeriodEnd(o)
	inv := c.addInvoice(o, "subscription_update", at)
	c.bill(inv, o, o.PeriodStart, o.PeriodEnd)
	c.emitSubscription("resumed", o)
	c.emitSubscription("updated", o)
	c.emitInvoice("created", inv)
	c.finalize(inv, at)
	return c.subscriptionView(o, c.modern), nil
}

// cancelSubscription answers for an ended subscription as if there were none,
// as Stripe does.
func cancelSubscription(c *call) (any, error) {
	o, err := c.subscription(c.id(), "id")
	if err == nil && o.ended() {
		err = missing("subscription", o.ID, "id")
	}
	if err != nil {
		return nil, err
	}
	now, _, err := c.p.boolean("invoice_now")
	if err != nil {
		return nil, err
	}
	c.end(o, c.timeOf(o.Customer).Unix(), now)
	return c.subscriptionView(o, c.modern), nil
}

// end cancels o at once, with a last invoice for its usage if asked for. It
// needs the lock.
func (e *Emulator) end(o *subscription, at int64, bill bool) {
	o.Status, o.EndedAt = "canceled", at
	if o.CanceledAt == 0 {
		o.CanceledAt = at
	}
	if bill {
		inv := e.addInvoice(o, "manual", at)
		e.close(o, inv, o.PeriodStart, at)
		e.finalize(inv, at)
	}
	e.emitSubscription("deleted", o)
}

func listSubscriptions(c *call) (any, error) {
	status := c.p.str("status")
	return page(c, c.s.Subscriptions.all(), func(o *subscription) string { return o.ID }, func(o *subscription) bool {
		if c.p.has("customer") && o.Customer != c.p.str("customer") || !c.since(o.Created) {
			return false
		}
		if clock := c.clockOf(o.Customer); c.p.has("test_clock") && clock != c.p.str("test_clock") ||
			!c.p.has("test_clock") && !c.p.has("customer") && clock != nil {
			return false
		}
		if c.p.has("price") && !slices.ContainsFunc(o.Items, func(it *item) bool { return it.Price == c.p.str("price") }) {
			return false
		}
		switch status {
		case "all":
			return true
		case "":
			return o.Status != "canceled"
		case "ended":
			return o.ended()
		default:
			return o.Status == status
		}
	}, func(o *subscription) any { return c.subscriptionView(o, c.modern) })
}
