package stripetest

import (
	"encoding/json"
	"slices"
	"time"
)

// event is something that happened, with its object as it was then.
type event struct {
	ID       string          `json:"id"`
	Type     string          `json:"type"`
	Created  int64           `json:"created"`
	Version  string          `json:"version"`
	Object   json.RawMessage `json:"object"`
	Pending  bool            `json:"pending,omitempty"` // still to be delivered
	Attempts int             `json:"attempts,omitempty"`
	Failed   bool            `json:"failed,omitempty"` // given up

	next time.Time // of the next attempt, by the real clock
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

func (o *event) payload() []byte {
	body, _ := json.Marshal(o.view()) // made of JSON
	return body
}

// emit records an event; it is delivered once the lock is free. It needs the
// lock.
func (e *Emulator) emit(kind string, what any) {
	body, _ := json.Marshal(what) // views are maps, strings and numbers
	o := &event{ID: newID("evt_"), Type: kind, Created: e.now().Unix(), Version: e.opts.APIVersion, Object: body}
	o.Pending = e.send.connected()
	e.s.Events.put(o.ID, o)
	const most = 10_000
	e.s.Events.trim(most, func(o *event) bool { return !o.Pending })
}

func (e *Emulator) emitSubscription(what string, o *subscription) {
	e.emit("customer.subscription."+what, e.subscriptionView(o, isModern(e.opts.APIVersion)))
}

func (e *Emulator) emitInvoice(what string, o *invoice) {
	e.emit("invoice."+what, e.invoiceView(o, isModern(e.opts.APIVersion)))
}

func getEvent(c *call) (any, error) {
	o, ok := c.s.Events.get(c.id())
	if !ok {
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
	oldest := c.at.Add(-30 * 24 * time.Hour).Unix()
	return page(c, c.s.Events.all(), func(o *event) string { return o.ID }, func(o *event) bool {
		return o.Created >= oldest && c.since(o.Created) &&
			(!set || delivered == (!o.Pending && !o.Failed)) &&
			(!c.p.has("type") || o.Type == c.p.str("type")) &&
			(len(types) == 0 || slices.Contains(types, o.Type))
	}, func(o *event) any { return o.view() })
}

// Event is one event of the account.
type Event struct {
	ID, Type string
	ObjectID string // what happened to: "sub_..."
	Payload  []byte // what a webhook carries
}

// Events returns all events so far, oldest first.
func (e *Emulator) Events() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []Event
	for _, o := range e.s.Events.all() {
		var named struct {
			ID string `json:"id"`
		}
		_ = json.Unmarshal(o.Object, &named)
		out = append(out, Event{ID: o.ID, Type: o.Type, ObjectID: named.ID, Payload: o.payload()})
	}
	return out
}
