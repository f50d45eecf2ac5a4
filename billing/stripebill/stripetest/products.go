package stripetest

import (
	"net/http"
	"slices"
)

type product struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"`
	Active      bool              `json:"active"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Created     int64             `json:"created"`
	Features    []productFeature  `json:"features,omitempty"`
}

func (o *product) view() any {
	return object{
		"id": o.ID, "object": "product", "name": o.Name, "description": orNull(o.Description), "active": o.Active,
		"metadata": metadataOf(o.Metadata), "created": o.Created, "updated": o.Created, "livemode": false,
	}
}

func createProduct(c *call) (any, error) {
	if err := c.p.require("name"); err != nil {
		return nil, err
	}
	id := firstOf(c.p.str("id"), newID("prod_"))
	if _, taken := c.s.Products.get(id); taken {
		return nil, &apiError{Status: http.StatusBadRequest, Code: "resource_already_exists", Param: "id",
			Message: "Product already exists."}
	}
	o := &product{ID: id, Active: true, Created: c.at.Unix()}
	if err := c.describeProduct(o); err != nil {
		return nil, err
	}
	c.s.Products.put(id, o)
	c.emit("product.created", o.view())
	return o.view(), nil
}

func (c *call) describeProduct(o *product) error {
	active, set, err := c.p.boolean("active")
	if err != nil {
		return err
	}
	if set {
		o.Active = active
	}
	o.Name = firstOf(c.p.str("name"), o.Name)
	o.Description = firstOf(c.p.str("description"), o.Description)
	o.Metadata = mergeMetadata(o.Metadata, c.p.object("metadata"))
	return nil
}

func getProduct(c *call) (any, error) {
	o, ok := c.s.Products.get(c.id())
	if !ok {
		return nil, missing("product", c.id(), "id")
	}
	return o.view(), nil
}

func updateProduct(c *call) (any, error) {
	o, ok := c.s.Products.get(c.id())
	if !ok {
		return nil, missing("product", c.id(), "id")
	}
	if err := c.describeProduct(o); err != nil {
		return nil, err
	}
	c.emit("product.updated", o.view())
	return o.view(), nil
}

func listProducts(c *call) (any, error) {
	active, set, err := c.p.boolean("active")
	if err != nil {
		return nil, err
	}
	ids := c.p.strings("ids")
	return page(c, c.s.Products.all(), func(o *product) string { return o.ID }, func(o *product) bool {
		return (!set || o.Active == active) && (len(ids) == 0 || slices.Contains(ids, o.ID))
	}, func(o *product) any { return o.view() })
}
