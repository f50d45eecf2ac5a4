package stripetest

import (
	"fmt"
	"time"
)

// testClock is the time of the customers that were made with it
// (https://docs.stripe.com/api/test_clocks).
type testClock struct {
	ID      string `json:"id"`
	Name    string `json:"name,omitempty"`
	Frozen  int64  `json:"frozen"`
	Created int64  `json:"created"`
}

func (o *testClock) view() object {
	return object{
		"id": o.ID, "object": "test_helpers.test_clock", "name": orNull(o.Name), "frozen_time": o.Frozen, "status": "ready",
		"created": o.Created, "deletes_after": o.Created + int64(30*24*time.Hour/time.Second), "livemode": false,
	}
}

// timeOf is what the clock of a customer shows: its test clock, or the
// emulator's. It needs the lock.
func (e *Emulator) timeOf(customer string) time.Time {
	if who := e.s.Customers.Rows[customer]; who != nil {
		if clock := e.s.Clocks.Rows[who.Clock]; clock != nil {
			return time.Unix(clock.Frozen, 0).UTC()
		}
	}
	return e.now()
}

// clockOf is the id of a customer's test clock, or null.
func (e *Emulator) clockOf(customer string) any {
	if who := e.s.Customers.Rows[customer]; who != nil {
		return orNull(who.Clock)
	}
	return nil
}

func createClock(c *call) (any, error) {
	if err := c.p.require("frozen_time"); err != nil {
		return nil, err
	}
	at, err := c.p.number("frozen_time", 0)
	if err != nil {
		return nil, err
	}
	o := &testClock{ID: newID("clock_"), Name: c.p.str("name"), Frozen: at, Created: c.at.Unix()}
	c.s.Clocks.put(o.ID, o)
	c.emit("test_helpers.test_clock.created", o.view())
	return o.view(), nil
}

func (c *call) clock() (*testClock, error) {
	o, ok := c.s.Clocks.get(c.id())
	if !ok {
		return nil, missing("test_helpers.test_clock", c.id(), "id")
	}
	return o, nil
}

func getClock(c *call) (any, error) {
	o, err := c.clock()
	if err != nil {
		return nil, err
	}
	return o.view(), nil
}

func listClocks(c *call) (any, error) {
	return page(c, c.s.Clocks.all(), func(o *testClock) string { return o.ID }, nil, func(o *testClock) any { return o.view() })
}

// advanceClock does at once what takes Stripe a while, but answers as Stripe
// does: the clock is advancing, and whoever asks again finds it ready.
func advanceClock(c *call) (any, error) {
	o, err := c.clock()
	if err == nil {
		err = c.p.require("frozen_time")
	}
	if err != nil {
		return nil, err
	}
	to, err := c.p.number("frozen_time", 0)
	if err != nil {
		return nil, err
	}
	if to <= o.Frozen {
		return nil, invalid("frozen_time", "The time to advance to must be after the test clock's current frozen time.")
	}
	if most := c.furthest(o); to > most {
		return nil, invalid("frozen_time", fmt.Sprintf("The time to advance to can be at most %d: two intervals of the shortest subscription, or two years.", most))
	}
	o.Frozen = to
	advancing := o.view()
	advancing["status"] = "advancing"
	c.emit("test_helpers.test_clock.advancing", advancing)
	c.roll()
	c.emit("test_helpers.test_clock.ready", o.view())
	return advancing, nil
}

// furthest is how far a clock can be advanced at once.
func (c *call) furthest(o *testClock) int64 {
	from := time.Unix(o.Frozen, 0).UTC()
	most := int64(0)
	for _, sub := range c.s.Subscriptions.all() {
		if sub.ended() || c.s.Customers.Rows[sub.Customer].Clock != o.ID {
			continue
		}
		for _, it := range sub.Items {
			if end := c.s.Prices.Rows[it.Price].after(from, 2).Unix(); most == 0 || end < most {
				most = end
			}
		}
	}
	if most == 0 {
		most = from.AddDate(2, 0, 0).Unix()
	}
	return most
}

// deleteClock takes its customers, and all that is theirs, along.
func deleteClock(c *call) (any, error) {
	o, err := c.clock()
	if err != nil {
		return nil, err
	}
	on := func(customer string) bool {
		who := c.s.Customers.Rows[customer]
		return who != nil && who.Clock == o.ID
	}
	c.s.Subscriptions.remove(func(s *subscription) bool { return on(s.Customer) })
	c.s.Invoices.remove(func(i *invoice) bool { return on(i.Customer) })
	c.s.InvoiceItems.remove(func(i *invoiceItem) bool { return on(i.Customer) })
	c.s.Refunds.remove(func(r *refund) bool { return on(c.s.Payments.Rows[r.Payment].Customer) })
	c.s.Payments.remove(func(p *payment) bool { return on(p.Customer) })
	c.s.Sessions.remove(func(s *session) bool { return on(s.Customer) })
	c.s.Portals.remove(func(p *portal) bool { return on(p.Customer) })
	c.s.Customers.remove(func(w *customer) bool { return w.Clock == o.ID })
	c.s.Clocks.remove(func(t *testClock) bool { return t.ID == o.ID })
	gone := object{"id": o.ID, "object": "test_helpers.test_clock", "deleted": true}
	c.emit("test_helpers.test_clock.deleted", o.view())
	return gone, nil
}
