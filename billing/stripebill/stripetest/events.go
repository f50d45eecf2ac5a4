package stripetest

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// event is something that happened, with its object as it was then.
type event struct {
	ID       string          `json:"id"`
	Type     string          `json:"type"`
	Created  int64           `json:"created"`
	Version  string          `json:"version"`
	Object   json.RawMessage `json:"object"`
	Data     json.RawMessage `json:"data,omitempty"`    // of an event that is always thin
	Pending  bool            `json:"pending,omitempty"` // still to be delivered
	Attempts int             `json:"attempts,omitempty"`
	Failed   bool            `json:"failed,omitempty"` // given up

	next time.Time // of the next attempt, by the real clock
	fate *Fate     // nil until the sender has asked for it
}

func (o *event) view() any {
	pending := 0
	if o.Pending {
		pending = 1
	}
	return object{
		"id": o.ID, "object": "event", "type": o.Type, "created": o.Created, "api_version": o.Version,
		"livemode": false, "pending_webhooks": pending, "data": object{"object": o.Object},
		"request": object{"id": nil, "idempotency_key": nil},
	}
}

// thinID names the same happening in the second version of the API, where it
// is an event of its own.
func (o *event) thinID() string { return "evt_test_65" + strings.TrimPrefix(o.ID, "evt_") }

// thin is the event without its object
// (https://docs.stripe.com/event-destinations#thin-events). Such events of the
// first version's objects have the prefix "v1." in their type.
func (o *event) thin() object {
	var about struct{ ID, Object string }
	_ = json.Unmarshal(o.Object, &about)
	var related any
	if collection := collections[about.Object]; about.ID != "" && collection != "" {
		related = object{"id": about.ID, "type": about.Object, "url": collection + about.ID}
	}
	return object{
		"id": o.thinID(), "object": "v2.core.event", "type": "v1." + o.Type, "livemode": false,
		"created": thinTime(o.Created),
		"context": nil, "reason": nil, "related_object": related,
	}
}

func thinTime(unix int64) string {
	return time.Unix(unix, 0).UTC().Format("2006-01-02T15:04:05.000Z")
}

// collections are the paths of the objects that events are about.
var collections = map[string]string{
	"billing.meter":                "/v1/billing/meters/",
	"billing_portal.configuration": "/v1/billing_portal/configurations/",
	"charge":                       "/v1/charges/",
	"checkout.session":             "/v1/checkout/sessions/",
	"customer":                     "/v1/customers/",
	"invoice":                      "/v1/invoices/",
	"payment_intent":               "/v1/payment_intents/",
	"price":                        "/v1/prices/",
	"product":                      "/v1/products/",
	"refund":                       "/v1/refunds/",
	"subscription":                 "/v1/subscriptions/",
	"test_helpers.test_clock":      "/v1/test_helpers/test_clocks/",
}

// payload is what a webhook carries.
func (o *event) payload(thin bool) []byte {
	what := o.view()
	if thin || o.Data != nil {
		what = o.thin()
	}
	body, _ := json.Marshal(what) // made of JSON
	return body
}

// emit records an event; it is delivered once the lock is free. It needs the
// lock.
func (e *Emulator) emit(kind string, what any) *event {
	body, _ := json.Marshal(what) // views are maps, strings and numbers
	o := &event{ID: newID("evt_"), Type: kind, Created: e.now().Unix(), Version: e.version, Object: body}
	o.Pending = e.send.connected()
	e.s.Events.put(o.ID, o)
	const most = 10_000
	if drop := len(e.s.Events.Order) - most; drop >= most/10 { // not one by one
		e.s.Events.remove(func(o *event) bool {
			forget := drop > 0 && !o.Pending
			if forget {
				drop--
			}
			return forget
		})
	}
	return o
}

func (e *Emulator) emitSubscription(what string, o *subscription) {
	e.emit("customer.subscription."+what, e.subscriptionView(o, isModern(e.version)))
	e.entitle(o.Customer)
}

func (e *Emulator) emitInvoice(what string, o *invoice) *event {
	return e.emit("invoice."+what, e.invoiceView(o, isModern(e.version)))
}

func getEvent(c *call) (any, error) {
	o, ok := c.s.Events.get(c.id())
	if !ok || o.Data != nil {
		return nil, missing("event", c.id(), "id")
	}
	return o.view(), nil
}

// listEvents keeps 30 days, as Stripe does.
func listEvents(c *call) (any, error) {
	delivered, set, err := c.p.boolean("delivery_success")
	if err != nil {
		return nil, err
	}
	types := c.p.strings("types")
	return page(c, c.recentEvents(), func(o *event) string { return o.ID }, func(o *event) bool {
		return o.Data == nil && c.since(o.Created) &&
			(!set || delivered == (!o.Pending && !o.Failed)) &&
			(!c.p.has("type") || o.Type == c.p.str("type")) &&
			(len(types) == 0 || slices.Contains(types, o.Type))
	}, func(o *event) any { return o.view() })
}

func (c *call) recentEvents() []*event {
	oldest := c.at.Add(-30 * 24 * time.Hour).Unix()
	return slices.DeleteFunc(slices.Clone(c.s.Events.all()), func(o *event) bool { return o.Created < oldest })
}

// thinView is thin, with what only the API shows.
func (o *event) thinView() any {
	v := o.thin()
	v["changes"] = nil
	if o.Data != nil {
		v["data"] = o.Data
	} else {
		v["snapshot_event"] = o.ID
	}
	return v
}

func getThinEvent(c *call) (any, error) {
	for _, o := range c.recentEvents() {
		if o.thinID() == c.id() {
			return o.thinView(), nil
		}
	}
	return nil, missing("v2.core.event", c.id(), "id")
}

// listThinEvents has the pages of the second version of the API; the emulator
// fills one.
func listThinEvents(c *call) (any, error) {
	limit, err := c.p.number("limit", 20)
	if err != nil || limit < 1 || limit > 100 {
		return nil, invalid("limit", "This value must be between 1 and 100 (inclusive).")
	}
	data := []any{}
	for _, o := range slices.Backward(c.recentEvents()) {
		var about struct{ ID string }
		_ = json.Unmarshal(o.Object, &about)
		if c.p.has("object_id") && about.ID != c.p.str("object_id") {
			continue
		}
		if data = append(data, o.thinView()); len(data) == int(limit) {
			break
		}
	}
	return object{"data": data, "next_page_url": nil, "previous_page_url": nil}, nil
}

// Event is one event of the account.
type Event struct {
	ID, Type string
	ObjectID string // what happened to: "sub_..."
	Payload  []byte // what a webhook carries
}

// Events returns all events so far, oldest first.
func (e *Emulator) Events() []Event {
	thin := e.send.isThin()
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []Event
	for _, o := range e.s.Events.all() {
		out = append(out, o.public(thin))
	}
	return out
}

func (o *event) public(thin bool) Event {
	var named struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(o.Object, &named)
	return Event{ID: o.ID, Type: o.Type, ObjectID: named.ID, Payload: o.payload(thin)}
}
