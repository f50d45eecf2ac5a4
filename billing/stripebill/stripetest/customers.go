package stripetest

type customer struct {
	ID          string            `json:"id"`
	Email       string            `json:"email,omitempty"`
	Name        string            `json:"name,omitempty"`
	Description string            `json:"description,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Created     int64             `json:"created"`
	Deleted     bool              `json:"deleted,omitempty"`
	Declines    bool              `json:"declines,omitempty"` // payments fail
	Clock       string            `json:"clock,omitempty"`
	Entitled    []string          `json:"entitled,omitempty"` // features, in order
}

func (o *customer) view() any {
	if o.Deleted {
		return object{"id": o.ID, "object": "customer", "deleted": true}
	}
	return object{
		"id": o.ID, "object": "customer", "email": orNull(o.Email), "name": orNull(o.Name),
		"description": orNull(o.Description), "metadata": metadataOf(o.Metadata), "created": o.Created,
		"livemode": false, "delinquent": false, "balance": 0, "currency": "usd", "test_clock": orNull(o.Clock),
	}
}

// addCustomer needs the lock.
func (e *Emulator) addCustomer(email string, at int64) *customer {
	o := &customer{ID: newID("cus_"), Email: email, Created: at}
	e.s.Customers.put(o.ID, o)
	return o
}

// customer finds one that isn't deleted.
func (e *Emulator) customer(id, param string) (*customer, error) {
	o, ok := e.s.Customers.get(id)
	if !ok || o.Deleted && param != "id" {
		return nil, missing("customer", id, param)
	}
	return o, nil
}

func createCustomer(c *call) (any, error) {
	at := c.at.Unix()
	clock := c.p.str("test_clock")
	if clock != "" {
		t, ok := c.s.Clocks.get(clock)
		if !ok {
			return nil, missing("test_helpers.test_clock", clock, "test_clock")
		}
		at = t.Frozen
	}
	o := c.addCustomer(c.p.str("email"), at)
	o.Clock = clock
	c.describeCustomer(o)
	c.emit("customer.created", o.view())
	return o.view(), nil
}

func (c *call) describeCustomer(o *customer) {
	for name, field := range map[string]*string{"email": &o.Email, "name": &o.Name, "description": &o.Description} {
		if c.p.has(name) {
			*field = c.p.str(name)
		}
	}
	o.Metadata = mergeMetadata(o.Metadata, c.p.object("metadata"))
}

func getCustomer(c *call) (any, error) {
	o, err := c.customer(c.id(), "id")
	if err != nil {
		return nil, err
	}
	return o.view(), nil
}

func updateCustomer(c *call) (any, error) {
	o, err := c.customer(c.id(), "id")
	if err == nil && o.Deleted {
		err = missing("customer", o.ID, "id")
	}
	if err != nil {
		return nil, err
	}
	c.describeCustomer(o)
	c.emit("customer.updated", o.view())
	return o.view(), nil
}

// deleteCustomer ends the customer's subscriptions as well.
func deleteCustomer(c *call) (any, error) {
	o, err := c.customer(c.id(), "id")
	if err != nil {
		return nil, err
	}
	for _, sub := range c.s.Subscriptions.all() {
		if sub.Customer == o.ID && !sub.ended() {
			c.end(sub, c.timeOf(o.ID).Unix(), false)
		}
	}
	before := o.view()
	o.Deleted = true
	c.emit("customer.deleted", before)
	return o.view(), nil
}

func listCustomers(c *call) (any, error) {
	return page(c, c.s.Customers.all(), func(o *customer) string { return o.ID }, func(o *customer) bool {
		return !o.Deleted && o.Clock == c.p.str("test_clock") && (!c.p.has("email") || o.Email == c.p.str("email")) && c.since(o.Created)
	}, func(o *customer) any { return o.view() })
}
