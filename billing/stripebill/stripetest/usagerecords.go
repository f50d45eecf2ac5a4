package stripetest

import (
	"fmt"
	"maps"
	"net/http"
)

// recorded sums the usage records in [from, to).
func (it *item) recorded(from, to int64) int64 {
	var sum int64
	for at, quantity := range it.Records {
		if at >= from && at < to {
			sum += quantity
		}
	}
	return sum
}

// item finds a subscription item and its subscription.
func (c *call) item() (*subscription, *item, error) {
	for _, o := range c.s.Subscriptions.all() {
		for _, it := range o.Items {
			if it.ID == c.id() {
				return o, it, nil
			}
		}
	}
	return nil, nil, missing("subscription_item", c.id(), "id")
}

func getItem(c *call) (any, error) {
	o, it, err := c.item()
	if err != nil {
		return nil, err
	}
	return c.itemView(o, it, c.modern), nil
}

func listItems(c *call) (any, error) {
	if err := c.p.require("subscription"); err != nil {
		return nil, err
	}
	o, err := c.subscription(c.p.str("subscription"), "subscription")
	if err != nil {
		return nil, err
	}
	return page(c, o.Items, func(it *item) string { return it.ID }, nil, func(it *item) any { return c.itemView(o, it, c.modern) })
}

// createUsageRecord takes usage of the period that is open, at a time that has
// been. A period that its invoice has closed takes no more
// (https://docs.stripe.com/billing/subscriptions/usage-based-legacy/recording-usage).
func createUsageRecord(c *call) (any, error) {
	if c.modern {
		return unknownURL(c)
	}
	o, it, err := c.item()
	if err == nil {
		err = c.p.require("quantity")
	}
	if err != nil {
		return nil, err
	}
	p := c.s.Prices.Rows[it.Price]
	switch {
	case !p.Metered:
		return nil, invalid("subscription_item", "Usage records can only be created for metered plans.")
	case !p.legacy():
		return nil, invalid("", "Cannot create a usage record for this subscription item because it is not on the legacy metered billing system. Call /v1/billing/meter_events instead.")
	case o.ended():
		return nil, &apiError{Status: http.StatusBadRequest, Message: "Cannot create the usage record with this subscription: it is canceled.", ran: true}
	}
	quantity, err := c.p.number("quantity", 0)
	if err != nil || quantity < 0 {
		return nil, invalid("quantity", "Invalid non-negative integer")
	}
	now := c.timeOf(o.Customer).Unix()
	at := now
	if c.p.str("timestamp") != "now" {
		if at, err = c.p.number("timestamp", at); err != nil {
			return nil, err
		}
	}
	switch {
	case at > now:
		return nil, &apiError{Status: http.StatusBadRequest, Param: "timestamp", Code: "timestamp_in_future",
			Message: "Cannot create the usage record with this timestamp because it is in the future."}
	case at < o.PeriodStart, at == o.PeriodStart && len(it.Closed) > 0:
		return nil, &apiError{Status: http.StatusBadRequest, Param: "timestamp", ran: true,
			Message: fmt.Sprintf("Cannot create the usage record with this timestamp because timestamps must be after the subscription's last invoice period (or current period start time): %d.", o.PeriodStart)}
	}
	changed := maps.Clone(it.Records)
	if changed == nil {
		changed = map[int64]int64{}
	}
	switch action := firstOf(c.p.str("action"), "increment"); action {
	case "set":
		if o.thresholds() {
			return nil, invalid("action", "If the subscription has billing thresholds, `increment` is the only allowed value.")
		}
		changed[at] = quantity
	case "increment":
		changed[at] += quantity
	default:
		return nil, invalid("action", "Invalid action: must be one of increment or set")
	}
	it.Records = changed
	c.reach(o.Customer)
	return object{
		"id": newID("mbur_"), "object": "usage_record", "livemode": false,
		"quantity": quantity, "subscription_item": it.ID, "timestamp": at,
	}, nil
}

// listUsageRecords has a row for each billing period, newest first.
func listUsageRecords(c *call) (any, error) {
	if c.modern {
		return unknownURL(c)
	}
	o, it, err := c.item()
	if err != nil {
		return nil, err
	}
	var periods []*closedPeriod
	for _, p := range it.Closed {
		periods = append(periods, &p)
	}
	if !o.ended() {
		periods = append(periods, &closedPeriod{Start: o.PeriodStart, End: o.PeriodEnd})
	}
	id := func(p *closedPeriod) string { return fmt.Sprintf("sis_%s_%d", it.ID, p.Start) }
	return page(c, periods, id, nil, func(p *closedPeriod) any {
		return object{
			"id": id(p), "object": "usage_record_summary", "invoice": orNull(p.Invoice), "livemode": false,
			"period":            object{"start": p.Start, "end": p.End},
			"subscription_item": it.ID, "total_usage": it.recorded(p.Start, p.End),
		}
	})
}
