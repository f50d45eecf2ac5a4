package stripetest

// portalConfig says what the customer portal offers. The emulator keeps it and
// shows it; its own page always offers the same.
type portalConfig struct {
	ID        string            `json:"id"`
	Default   bool              `json:"default,omitempty"`
	Inactive  bool              `json:"inactive,omitempty"`
	ReturnURL string            `json:"return_url,omitempty"`
	Headline  string            `json:"headline,omitempty"`
	Privacy   string            `json:"privacy,omitempty"`
	Terms     string            `json:"terms,omitempty"`
	Enabled   map[string]bool   `json:"enabled"` // feature -> on
	Metadata  map[string]string `json:"metadata,omitempty"`
	Created   int64             `json:"created"`
	Updated   int64             `json:"updated"`
}

var portalFeatures = []string{"customer_update", "invoice_history", "payment_method_update", "subscription_cancel", "subscription_update"}

func (o *portalConfig) view() any {
	return object{
		"id": o.ID, "object": "billing_portal.configuration", "active": !o.Inactive, "is_default": o.Default, "application": nil,
		"created": o.Created, "updated": o.Updated, "default_return_url": orNull(o.ReturnURL), "livemode": false,
		"business_profile": object{"headline": orNull(o.Headline), "privacy_policy_url": orNull(o.Privacy), "terms_of_service_url": orNull(o.Terms)},
		"login_page":       object{"enabled": false, "url": nil},
		"metadata":         metadataOf(o.Metadata),
		"features": object{
			"customer_update":       object{"allowed_updates": []string{"email", "name"}, "enabled": o.Enabled["customer_update"]},
			"invoice_history":       object{"enabled": o.Enabled["invoice_history"]},
			"payment_method_update": object{"enabled": o.Enabled["payment_method_update"]},
			"subscription_cancel": object{"enabled": o.Enabled["subscription_cancel"], "mode": "at_period_end", "proration_behavior": "none",
				"cancellation_reason": object{"enabled": false, "options": []string{}}},
			"subscription_update": object{"enabled": o.Enabled["subscription_update"], "default_allowed_updates": []string{},
				"proration_behavior": "none"},
		},
	}
}

// portalConfig finds one, or without an id the account's default.
func (c *call) portalConfig(id string) (*portalConfig, error) {
	if id != "" {
		o, ok := c.s.PortalConfigs.get(id)
		if !ok {
			return nil, missing("configuration", id, "configuration")
		}
		return o, nil
	}
	for _, o := range c.s.PortalConfigs.all() {
		if o.Default {
			return o, nil
		}
	}
	o := &portalConfig{ID: newID("bpc_"), Default: true, Enabled: map[string]bool{}, Created: c.at.Unix(), Updated: c.at.Unix()}
	for _, name := range portalFeatures {
		o.Enabled[name] = true
	}
	c.s.PortalConfigs.put(o.ID, o)
	return o, nil
}

func createPortalConfig(c *call) (any, error) {
	if err := c.p.require("features"); err != nil {
		return nil, err
	}
	o := &portalConfig{ID: newID("bpc_"), Enabled: map[string]bool{}, Created: c.at.Unix()}
	return c.describePortalConfig(o)
}

func (c *call) describePortalConfig(o *portalConfig) (any, error) {
	enabled := map[string]bool{}
	for _, name := range portalFeatures {
		on, set, err := c.p.boolean("features[" + name + "][enabled]")
		if err != nil {
			return nil, err
		}
		if enabled[name] = o.Enabled[name]; set {
			enabled[name] = on
		}
	}
	active, set, err := c.p.boolean("active")
	if err != nil {
		return nil, err
	}
	if set {
		o.Inactive = !active
	}
	o.Enabled, o.Updated = enabled, c.at.Unix()
	for name, field := range map[string]*string{
		"default_return_url": &o.ReturnURL, "business_profile[headline]": &o.Headline,
		"business_profile[privacy_policy_url]": &o.Privacy, "business_profile[terms_of_service_url]": &o.Terms,
	} {
		if c.p.has(name) {
			*field = c.p.str(name)
		}
	}
	o.Metadata = mergeMetadata(o.Metadata, c.p.object("metadata"))
	c.s.PortalConfigs.put(o.ID, o)
	return o.view(), nil
}

func getPortalConfig(c *call) (any, error) {
	o, ok := c.s.PortalConfigs.get(c.id())
	if !ok {
		return nil, missing("configuration", c.id(), "id")
	}
	return o.view(), nil
}

func updatePortalConfig(c *call) (any, error) {
	o, ok := c.s.PortalConfigs.get(c.id())
	if !ok {
		return nil, missing("configuration", c.id(), "id")
	}
	return c.describePortalConfig(o)
}

func listPortalConfigs(c *call) (any, error) {
	active, set, err := c.p.boolean("active")
	if err != nil {
		return nil, err
	}
	return page(c, c.s.PortalConfigs.all(), func(o *portalConfig) string { return o.ID }, func(o *portalConfig) bool {
		return !set || active == !o.Inactive
	}, func(o *portalConfig) any { return o.view() })
}
