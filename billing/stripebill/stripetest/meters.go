package stripetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

type meter struct {
	ID          string `json:"id"`
	DisplayName string `json:"display_name"`
	EventName   string `json:"event_name"`
	Formula     string `json:"formula"`
	Window      string `json:"window,omitempty"` // of which an event is the whole: hour, day
	CustomerKey string `json:"customer_key"`     // of the payload
	ValueKey    string `json:"value_key"`        // of the payload
	Active      bool   `json:"active"`
	Deactivated int64  `json:"deactivated,omitempty"`
	Created     int64  `json:"created"`
	Updated     int64  `json:"updated"`
}

// received is a meter event that was taken.
type received struct {
	Meter    string `json:"meter"`
	Customer string `json:"customer"`
	Minute   int64  `json:"minute"`
	Value    int64  `json:"value"`
	At       int64  `json:"at"` // when, by the emulator's clock
	Canceled bool   `json:"canceled,omitempty"`
}

// arrival is what summaries don't show yet of a minute.
type arrival struct {
	Key    string `json:"key"`
	Minute int64  `json:"minute"`
	Value  int64  `json:"value"`
	Until  int64  `json:"until"` // by the customer's clock
}

func (o *meter) view() any {
	status := "inactive"
	if o.Active {
		status = "active"
	}
	return object{
		"id": o.ID, "object": "billing.meter", "display_name": o.DisplayName, "event_name": o.EventName,
		"event_time_window": orNull(o.Window), "status": status, "created": o.Created, "updated": o.Updated, "livemode": false,
		"default_aggregation": object{"formula": o.Formula},
		"customer_mapping":    object{"type": "by_id", "event_payload_key": o.CustomerKey},
		"value_settings":      object{"event_payload_key": o.ValueKey},
		"status_transitions":  object{"deactivated_at": timeOrNull(o.Deactivated)},
	}
}

func createMeter(c *call) (any, error) {
	if err := c.p.require("display_name", "event_name", "default_aggregation"); err != nil {
		return nil, err
	}
	o := &meter{
		ID: newID("mtr_test_"), DisplayName: c.p.str("display_name"), EventName: c.p.str("event_name"),
		Formula: c.p.str("default_aggregation[formula]"), Active: true, Created: c.at.Unix(), Updated: c.at.Unix(),
		CustomerKey: firstOf(c.p.str("customer_mapping[event_payload_key]"), "stripe_customer_id"),
		Window:      c.p.str("event_time_window"),
		ValueKey:    firstOf(c.p.str("value_settings[event_payload_key]"), "value"),
	}
	if o.Formula != "sum" && o.Formula != "count" && o.Formula != "last" {
		return nil, invalid("default_aggregation[formula]", "Invalid default_aggregation[formula]: must be one of count, last, or sum")
	}
	if _, err := summaryWindow(o.Window); err != nil {
		return nil, invalid("event_time_window", "Invalid event_time_window: must be one of day or hour")
	}
	if err := c.freeEventName(o.EventName); err != nil {
		return nil, err
	}
	c.s.Meters.put(o.ID, o)
	c.emit("billing.meter.created", o.view())
	return o.view(), nil
}

func (c *call) freeEventName(name string) error {
	if c.activeMeter(name) != nil {
		return invalid("event_name", "There is already an active meter with event_name "+name+".")
	}
	return nil
}

// activeMeter needs the lock.
func (e *Emulator) activeMeter(eventName string) *meter {
	for _, m := range e.s.Meters.all() {
		if m.Active && m.EventName == eventName {
			return m
		}
	}
	return nil
}

func (c *call) meter() (*meter, error) {
	o, ok := c.s.Meters.get(c.id())
	if !ok {
		return nil, missing("billing.meter", c.id(), "id")
	}
	return o, nil
}

func getMeter(c *call) (any, error) {
	o, err := c.meter()
	if err != nil {
		return nil, err
	}
	return o.view(), nil
}

func updateMeter(c *call) (any, error) {
	o, err := c.meter()
	if err != nil {
		return nil, err
	}
	o.DisplayName, o.Updated = firstOf(c.p.str("display_name"), o.DisplayName), c.at.Unix()
	c.emit("billing.meter.updated", o.view())
	return o.view(), nil
}

func deactivateMeter(c *call) (any, error) {
	o, err := c.meter()
	if err != nil {
		return nil, err
	}
	o.Active, o.Deactivated, o.Updated = false, c.at.Unix(), c.at.Unix()
	c.emit("billing.meter.deactivated", o.view())
	return o.view(), nil
}

func reactivateMeter(c *call) (any, error) {
	o, err := c.meter()
	if err == nil && !o.Active {
		err = c.freeEventName(o.EventName)
	}
	if err != nil {
		return nil, err
	}
	o.Active, o.Deactivated, o.Updated = true, 0, c.at.Unix()
	c.emit("billing.meter.reactivated", o.view())
	return o.view(), nil
}

func listMeters(c *call) (any, error) {
	return page(c, c.s.Meters.all(), func(o *meter) string { return o.ID }, func(o *meter) bool {
		return !c.p.has("status") || o.Active == (c.p.str("status") == "active")
	}, func(o *meter) any { return o.view() })
}

// createMeterEvent has the limits of
// https://docs.stripe.com/api/billing/meter-event/create and
// https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api.
func createMeterEvent(c *call) (any, error) {
	if err := c.p.require("event_name", "payload"); err != nil {
		return nil, err
	}
	m := c.activeMeter(c.p.str("event_name"))
	if m == nil {
		return nil, &apiError{Status: http.StatusBadRequest, Code: "resource_missing", Param: "event_name",
			Message: "No active meter found for event name: " + c.p.str("event_name")}
	}
	payload := c.p.object("payload")
	who, err := c.customer(payload[m.CustomerKey], "payload["+m.CustomerKey+"]")
	if err != nil {
		return nil, err
	}
	digits := payload[m.ValueKey]
	value, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || len(digits) > 15 || value < 0 {
		return nil, invalid("payload["+m.ValueKey+"]", fmt.Sprintf("The value %.40q is not a whole number of at most 15 digits.", digits))
	}
	now := c.timeOf(who.ID)
	at, err := c.p.number("timestamp", now.Unix())
	if err != nil {
		return nil, err
	}
	switch when := time.Unix(at, 0); {
	case when.After(now.Add(5 * time.Minute)):
		return nil, &apiError{Status: http.StatusBadRequest, Code: "timestamp_in_future", Param: "timestamp",
			Message: "The timestamp must not be more than 5 minutes in the future."}
	case when.Before(now.Add(-35 * 24 * time.Hour)):
		return nil, &apiError{Status: http.StatusBadRequest, Code: "timestamp_too_far_in_past", Param: "timestamp",
			Message: "The timestamp must be within the past 35 calendar days."}
	}
	identifier := firstOf(c.p.str("identifier"), newID("meter_event_"))
	if len(identifier) > 100 {
		return nil, invalid("identifier", "The identifier must be at most 100 characters long.")
	}
	if c.received(identifier) != nil {
		return nil, &apiError{Status: http.StatusBadRequest, Code: "duplicate_meter_event", Param: "identifier", noRetry: true, ran: true,
			Message: "An event already exists with identifier " + identifier + "."}
	}
	if m.Formula == "count" {
		value = 1
	}
	window, _ := summaryWindow(m.Window)
	o := &received{Meter: m.ID, Customer: who.ID, Minute: at - at%max(window, 60), Value: value, At: c.at.Unix()}
	c.s.Received[identifier] = o
	if c.fault == Unaggregated {
		c.reportError(m, identifier)
	} else {
		c.count(o, value)
		c.reach(who.ID)
	}
	return object{
		"object": "billing.meter_event", "event_name": m.EventName, "identifier": identifier,
		"payload": payload, "timestamp": at, "created": now.Unix(), "livemode": false,
	}, nil
}

// reportError tells, as Stripe does, that a meter event was taken but can't be
// counted (https://docs.stripe.com/api/v2/core/events/event-types).
func (c *call) reportError(m *meter, identifier string) {
	c.emit("billing.meter.error_report_triggered", m.view()).Data, _ = json.Marshal(object{
		"developer_message_summary": "There is 1 invalid event",
		"validation_start":          thinTime(c.at.Unix()), "validation_end": thinTime(c.at.Unix()),
		"reason": object{"error_count": 1, "error_types": []any{object{
			"code": "meter_event_customer_not_found", "error_count": 1,
			"sample_errors": []any{object{"error_message": "Customer mapping failed.", "request": object{"identifier": identifier}}},
		}}},
	})
}

// received finds the meter event of an identifier in the last 24 hours.
func (c *call) received(identifier string) *received {
	if o := c.s.Received[identifier]; o != nil && c.at.Unix()-o.At < keyMemory {
		return o
	}
	return nil
}

// createAdjustment takes a meter event back within 24 hours of its receipt.
// Its identifier stays used. What an invoice has been finalised with stays
// (https://docs.stripe.com/api/billing/meter-event-adjustment/create).
func createAdjustment(c *call) (any, error) {
	if err := c.p.require("event_name", "type"); err != nil {
		return nil, err
	}
	if c.p.str("type") != "cancel" {
		return nil, invalid("type", "Invalid type: must be cancel")
	}
	if err := c.p.require("cancel[identifier]"); err != nil {
		return nil, err
	}
	identifier := c.p.str("cancel[identifier]")
	o := c.received(identifier)
	if o == nil || c.s.Meters.Rows[o.Meter].EventName != c.p.str("event_name") {
		return nil, &apiError{Status: http.StatusBadRequest, Code: "resource_missing", Param: "cancel[identifier]",
			Message: "No meter event of the last 24 hours has the identifier " + identifier + "."}
	}
	if o.Canceled {
		return nil, &apiError{Status: http.StatusBadRequest, Param: "cancel[identifier]", ran: true,
			Message: "The meter event with identifier " + identifier + " was already canceled."}
	}
	if c.s.Meters.Rows[o.Meter].overwrites() {
		return nil, invalid("cancel[identifier]", "The emulator cancels no events of meters where one takes the place of another.")
	}
	o.Canceled = true
	c.count(o, -o.Value)
	return object{
		"object": "billing.meter_event_adjustment", "cancel": object{"identifier": identifier},
		"event_name": c.p.str("event_name"), "livemode": false, "status": "pending", "type": "cancel",
	}, nil
}

func usageKey(meterID, customer string) string { return meterID + " " + customer }

// overwrites reports whether an event takes the place of an earlier one: of its
// window, or of all.
func (o *meter) overwrites() bool { return o.Window != "" || o.Formula == "last" }

// count adds a value at its minute: the finest that Stripe tells apart. Where a meter
// is pre-aggregated the last event of a window, in UTC, is the whole of it
// (https://docs.stripe.com/billing/subscriptions/usage-based/meters/configure).
func (c *call) count(o *received, value int64) {
	key := usageKey(o.Meter, o.Customer)
	if c.s.Usage[key] == nil {
		c.s.Usage[key] = map[int64]int64{}
	}
	if c.s.Meters.Rows[o.Meter].overwrites() {
		value -= c.s.Usage[key][o.Minute]
	}
	c.s.Usage[key][o.Minute] += value
	if c.lag > 0 && c.s.Meters.Rows[o.Meter].Formula != "last" {
		c.s.Arrivals = append(c.s.Arrivals, arrival{Key: key, Minute: o.Minute, Value: value, Until: c.timeOf(o.Customer).Add(c.lag).Unix()})
	}
}

// metered is what a meter has of a customer in [from, to): the sum, or the last. It
// needs the lock.
func (e *Emulator) metered(meterID, customer string, from, to int64) int64 {
	var total, latest int64
	last := e.s.Meters.Rows[meterID].Formula == "last"
	for minute, value := range e.s.Usage[usageKey(meterID, customer)] {
		switch {
		case minute < from || minute >= to:
		case !last:
			total += value
		case minute >= latest:
			total, latest = value, minute
		}
	}
	return total
}

// lagging sums what summaries don't show yet of a customer, and forgets what
// they do.
func (c *call) lagging(meterID, customer string, from, to int64) int64 {
	var total int64
	key, now := usageKey(meterID, customer), c.timeOf(customer).Unix()
	c.s.Arrivals = slices.DeleteFunc(c.s.Arrivals, func(a arrival) bool {
		if a.Key != key {
			return false
		}
		if now < a.Until && a.Minute >= from && a.Minute < to {
			total += a.Value
		}
		return now >= a.Until
	})
	return total
}

// listSummaries has windows of whole minutes, the end exclusive
// (https://docs.stripe.com/api/billing/meter-event-summary/list).
func listSummaries(c *call) (any, error) {
	o, err := c.meter()
	if err == nil {
		err = c.p.require("customer", "start_time", "end_time")
	}
	if err != nil {
		return nil, err
	}
	who, err := c.customer(c.p.str("customer"), "customer")
	if err != nil {
		return nil, err
	}
	window, err := summaryWindow(c.p.str("value_grouping_window"))
	if err != nil {
		return nil, err
	}
	start, err := c.p.number("start_time", 0)
	if err != nil {
		return nil, err
	}
	end, err := c.p.number("end_time", 0)
	if err != nil {
		return nil, err
	}
	step := max(window, 60)
	if start%step != 0 || end%step != 0 || end <= start {
		return nil, invalid("start_time", fmt.Sprintf("start_time and end_time must be aligned with boundaries of %d seconds, start_time first.", step))
	}
	if window == 0 {
		window = end - start
	}
	if (end-start)/window > 10_000 {
		return nil, invalid("end_time", "The range has more than 10000 windows.")
	}
	type row struct{ start, end, value int64 }
	var rows []*row
	for from := start; from < end; from += window {
		value := c.metered(o.ID, who.ID, from, from+window) - c.lagging(o.ID, who.ID, from, from+window)
		if value != 0 {
			rows = append(rows, &row{from, from + window, value})
		}
	}
	id := func(r *row) string { return "mtrusg_test_" + o.ID + strconv.FormatInt(r.start, 10) }
	return page(c, rows, id, nil, func(r *row) any {
		return object{
			"id": id(r), "object": "billing.meter_event_summary", "meter": o.ID, "livemode": false,
			"start_time": r.start, "end_time": r.end, "aggregated_value": r.value,
		}
	})
}

func summaryWindow(name string) (int64, error) {
	switch name {
	case "":
		return 0, nil
	case "hour":
		return 3600, nil
	case "day":
		return 86400, nil
	}
	return 0, invalid("value_grouping_window", "Invalid value_grouping_window: must be one of day or hour")
}
