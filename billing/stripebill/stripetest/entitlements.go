package stripetest

import (
	"net/http"
	"slices"
)

// feature is something that products grant
// (https://docs.stripe.com/billing/entitlements).
type feature struct {
	ID        string            `json:"id"`
	LookupKey string            `json:"lookup_key"`
	Name      string            `json:"name"`
	Active    bool              `json:"active"`
	Metadata  map[string]string `json:"metadata,omitempty"`
}

type productFeature struct {
	ID      string `json:"id"`
	Feature string `json:"feature"`
}

func (o *feature) view() any {
	return object{"id": o.ID, "object": "entitlements.feature", "lookup_key": o.LookupKey, "name": o.Name, "active": o.Active,
		"metadata": metadataOf(o.Metadata), "livemode": false}
}

func createFeature(c *call) (any, error) {
	if err := c.p.require("lookup_key", "name"); err != nil {
		return nil, err
	}
	o := &feature{ID: newID("feat_"), LookupKey: c.p.str("lookup_key"), Name: c.p.str("name"), Active: true, Metadata: c.p.object("metadata")}
	if slices.ContainsFunc(c.s.Features.all(), func(other *feature) bool { return other.LookupKey == o.LookupKey }) {
		return nil, &apiError{Status: http.StatusBadRequest, Code: "resource_already_exists", Param: "lookup_key", Message: "A feature already uses that lookup key."}
	}
	c.s.Features.put(o.ID, o)
	return o.view(), nil
}

func (c *call) feature(id, param string) (*feature, error) {
	o, ok := c.s.Features.get(id)
	if !ok {
		return nil, missing("entitlements.feature", id, param)
	}
	return o, nil
}

func getFeature(c *call) (any, error) {
	o, err := c.feature(c.id(), "id")
	if err != nil {
		return nil, err
	}
	return o.view(), nil
}

func updateFeature(c *call) (any, error) {
	o, err := c.feature(c.id(), "id")
	if err != nil {
		return nil, err
	}
	active, set, err := c.p.boolean("active")
	if err != nil {
		return nil, err
	}
	if set {
		o.Active = active
	}
	o.Name, o.Metadata = firstOf(c.p.str("name"), o.Name), mergeMetadata(o.Metadata, c.p.object("metadata"))
	return o.view(), nil
}

func listFeatures(c *call) (any, error) {
	return page(c, c.s.Features.all(), func(o *feature) string { return o.ID }, func(o *feature) bool {
		return !c.p.has("lookup_key") || o.LookupKey == c.p.str("lookup_key")
	}, func(o *feature) any { return o.view() })
}

func (c *call) productFeatureView(o *productFeature) any {
	return object{"id": o.ID, "object": "product_feature", "entitlement_feature": c.s.Features.Rows[o.Feature].view(), "livemode": false}
}

func attachFeature(c *call) (any, error) {
	p, ok := c.s.Products.get(c.id())
	if !ok {
		return nil, missing("product", c.id(), "id")
	}
	if err := c.p.require("entitlement_feature"); err != nil {
		return nil, err
	}
	f, err := c.feature(c.p.str("entitlement_feature"), "entitlement_feature")
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(p.Features, func(o productFeature) bool { return o.Feature == f.ID }) {
		return nil, invalid("entitlement_feature", "The feature is attached to the product.")
	}
	o := productFeature{ID: newID("prodft_"), Feature: f.ID}
	p.Features = append(p.Features, o)
	c.entitleAll(p.ID)
	return c.productFeatureView(&o), nil
}

func listProductFeatures(c *call) (any, error) {
	p, ok := c.s.Products.get(c.id())
	if !ok {
		return nil, missing("product", c.id(), "id")
	}
	var rows []*productFeature
	for _, o := range p.Features {
		rows = append(rows, &o)
	}
	return page(c, rows, func(o *productFeature) string { return o.ID }, nil, func(o *productFeature) any { return c.productFeatureView(o) })
}

func detachFeature(c *call) (any, error) {
	p, ok := c.s.Products.get(c.id())
	if !ok {
		return nil, missing("product", c.id(), "id")
	}
	id := c.r.PathValue("feature")
	if !slices.ContainsFunc(p.Features, func(o productFeature) bool { return o.ID == id }) {
		return nil, missing("product_feature", id, "id")
	}
	p.Features = slices.DeleteFunc(p.Features, func(o productFeature) bool { return o.ID == id })
	c.entitleAll(p.ID)
	return object{"id": id, "object": "product_feature", "deleted": true}, nil
}

// entitled are the features that a customer's subscriptions grant now, in the
// order of their making.
func (e *Emulator) entitled(customer string) []string {
	if len(e.s.Features.Order) == 0 {
		return nil
	}
	granted := map[string]bool{}
	for _, sub := range e.s.Subscriptions.all() {
		if sub.Customer != customer || sub.Status != "active" && sub.Status != "trialing" && sub.Status != "past_due" {
			continue
		}
		for _, it := range sub.Items {
			if p := e.s.Products.Rows[e.s.Prices.Rows[it.Price].Product]; p != nil {
				for _, f := range p.Features {
					granted[f.Feature] = true
				}
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(e.s.Features.Order), func(id string) bool { return !granted[id] })
}

// entitle tells when what a customer may use has changed. It needs the lock.
func (e *Emulator) entitle(customer string) {
	who := e.s.Customers.Rows[customer]
	now := e.entitled(customer)
	if slices.Equal(now, who.Entitled) {
		return
	}
	who.Entitled = now
	data := []any{}
	for _, id := range now {
		data = append(data, e.entitlementView(customer, id))
	}
	e.emit("entitlements.active_entitlement_summary.updated", object{
		"object": "entitlements.active_entitlement_summary", "customer": customer, "livemode": false,
		"entitlements": listOf("/v1/customer/"+customer+"/entitlements", data, false),
	})
}

// entitleAll looks at the customers after a product's features have changed.
func (e *Emulator) entitleAll(product string) {
	for _, sub := range e.s.Subscriptions.all() {
		if slices.ContainsFunc(sub.Items, func(it *item) bool { return e.s.Prices.Rows[it.Price].Product == product }) {
			e.entitle(sub.Customer)
		}
	}
}

func (e *Emulator) entitlementView(customer, featureID string) any {
	f := e.s.Features.Rows[featureID]
	return object{"id": "ent_test_" + customer + "_" + f.ID, "object": "entitlements.active_entitlement", "feature": f.ID, "lookup_key": f.LookupKey, "livemode": false}
}

func listEntitlements(c *call) (any, error) {
	if err := c.p.require("customer"); err != nil {
		return nil, err
	}
	who, err := c.customer(c.p.str("customer"), "customer")
	if err != nil {
		return nil, err
	}
	var rows []*string
	for _, id := range c.entitled(who.ID) {
		rows = append(rows, &id)
	}
	return page(c, rows, func(id *string) string { return *id }, nil, func(id *string) any { return c.entitlementView(who.ID, *id) })
}
