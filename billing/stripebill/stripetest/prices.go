package stripetest

import (
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
)

type price struct {
	ID            string            `json:"id"`
	Product       string            `json:"product"`
	Active        bool              `json:"active"`
	Currency      string            `json:"currency"`
	Decimal       string            `json:"unit_amount_decimal"` // in the smallest unit
	LookupKey     string            `json:"lookup_key,omitempty"`
	Nickname      string            `json:"nickname,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	Created       int64             `json:"created"`
	Interval      string            `json:"interval"`
	IntervalCount int64             `json:"interval_count"`
	Metered       bool              `json:"metered"`
	Meter         string            `json:"meter,omitempty"`
}

// legacy prices take usage records.
func (o *price) legacy() bool { return o.Metered && o.Meter == "" }

// oneTime prices are paid once, in a checkout.
func (o *price) oneTime() bool { return o.Interval == "" }

func (o *price) recurring(modern bool) object {
	v := object{
		"interval": o.Interval, "interval_count": o.IntervalCount, "usage_type": "licensed", "meter": orNull(o.Meter),
	}
	if o.Metered {
		v["usage_type"] = "metered"
	}
	if !modern {
		v["aggregate_usage"] = nil
		if o.legacy() {
			v["aggregate_usage"] = "sum"
		}
	}
	return v
}

// view shows o in the layout of the API version.
func (o *price) view(modern bool) any {
	kind, recurring := "one_time", any(nil)
	if !o.oneTime() {
		kind, recurring = "recurring", o.recurring(modern)
	}
	var amount any
	if whole, ok := new(big.Rat).SetString(o.Decimal); ok && whole.IsInt() {
		amount = whole.Num()
	}
	return object{
		"id": o.ID, "object": "price", "product": o.Product, "active": o.Active, "currency": o.Currency,
		"unit_amount": amount, "unit_amount_decimal": o.Decimal, "lookup_key": orNull(o.LookupKey),
		"nickname": orNull(o.Nickname), "metadata": metadataOf(o.Metadata), "created": o.Created, "livemode": false,
		"type": kind, "billing_scheme": "per_unit", "tax_behavior": "unspecified", "tiers_mode": nil, "transform_quantity": nil,
		"recurring": recurring,
	}
}

// cost is what quantity costs, rounded half away from zero to the smallest
// unit.
func (o *price) cost(quantity int64) int64 {
	each, _ := new(big.Rat).SetString(o.Decimal)
	total := each.Mul(each, new(big.Rat).SetInt64(quantity))
	total.Add(total, big.NewRat(1, 2))
	return new(big.Int).Div(total.Num(), total.Denom()).Int64()
}

func createPrice(c *call) (any, error) {
	if err := c.p.require("currency"); err != nil {
		return nil, err
	}
	if scheme := c.p.str("billing_scheme"); scheme != "" && scheme != "per_unit" {
		return nil, invalid("billing_scheme", "The emulator has per_unit prices alone.")
	}
	o := &price{
		ID: newID("price_"), Product: c.p.str("product"), Active: true, Currency: strings.ToLower(c.p.str("currency")),
		Nickname: c.p.str("nickname"), Metadata: c.p.object("metadata"), Created: c.at.Unix(),
		Interval: c.p.str("recurring[interval]"), Metered: c.p.str("recurring[usage_type]") == "metered",
		Meter: c.p.str("recurring[meter]"),
	}
	var err error
	if o.IntervalCount, err = c.p.number("recurring[interval_count]", 1); err != nil {
		return nil, err
	}
	if o.Decimal, err = c.decimal(); err != nil {
		return nil, err
	}
	switch o.Interval {
	case "day", "week", "month", "year":
	case "":
		if c.p.has("recurring") {
			return nil, c.p.require("recurring[interval]")
		}
	default:
		return nil, invalid("recurring[interval]", "Invalid recurring[interval]: must be one of day, month, week, or year")
	}
	if err := c.checkMeter(o); err != nil {
		return nil, err
	}
	if o.Product == "" {
		name := c.p.str("product_data[name]")
		if name == "" {
			return nil, c.p.require("product")
		}
		made := &product{ID: newID("prod_"), Name: name, Active: true, Created: c.at.Unix()}
		c.s.Products.put(made.ID, made)
		o.Product = made.ID
	} else if _, ok := c.s.Products.get(o.Product); !ok {
		return nil, missing("product", o.Product, "product")
	}
	if err := c.takeLookupKey(o); err != nil {
		return nil, err
	}
	c.s.Prices.put(o.ID, o)
	c.emit("price.created", o.view(isModern(c.version)))
	return o.view(c.modern), nil
}

// decimal reads unit_amount or unit_amount_decimal.
func (c *call) decimal() (string, error) {
	text := firstOf(c.p.str("unit_amount_decimal"), c.p.str("unit_amount"))
	if text == "" {
		return "", c.p.require("unit_amount")
	}
	n, ok := new(big.Rat).SetString(text)
	_, fraction, _ := strings.Cut(text, ".")
	if !ok || n.Sign() < 0 || len(text) > 30 || len(fraction) > 12 || strings.ContainsAny(text, "eE/") {
		return "", invalid("unit_amount_decimal", fmt.Sprintf("Invalid decimal: %.40s", text))
	}
	if !c.p.has("unit_amount_decimal") && fraction != "" {
		return "", invalid("unit_amount", fmt.Sprintf("Invalid integer: %.40s", text))
	}
	if fraction != "" {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text, nil
}

func (c *call) checkMeter(o *price) error {
	switch {
	case o.Meter != "" && !o.Metered:
		return invalid("recurring[meter]", "A meter can only be set for a metered price.")
	case o.Meter != "":
		m, ok := c.s.Meters.get(o.Meter)
		if !ok {
			return missing("billing.meter", o.Meter, "recurring[meter]")
		}
		if !m.Active {
			return invalid("recurring[meter]", "The meter is inactive.")
		}
	case o.Metered && c.modern:
		return invalid("recurring[meter]", "Metered prices must be backed by meters.")
	}
	return nil
}

// takeLookupKey gives o the lookup key that is asked for, taking it from
// another price if that is asked for too.
func (c *call) takeLookupKey(o *price) error {
	key := c.p.str("lookup_key")
	if key == "" || key == o.LookupKey {
		return nil
	}
	transfer, _, err := c.p.boolean("transfer_lookup_key")
	if err != nil {
		return err
	}
	if len(key) > 200 {
		return invalid("lookup_key", "A lookup key has at most 200 characters.")
	}
	for _, other := range c.s.Prices.all() {
		if other.LookupKey != key {
			continue
		}
		if !transfer {
			return &apiError{Status: http.StatusBadRequest, Param: "lookup_key",
				Message: "A price (`" + other.ID + "`) already uses that lookup key."}
		}
		other.LookupKey = ""
	}
	o.LookupKey = key
	return nil
}

func getPrice(c *call) (any, error) {
	o, ok := c.s.Prices.get(c.id())
	if !ok {
		return nil, missing("price", c.id(), "id")
	}
	return o.view(c.modern), nil
}

func updatePrice(c *call) (any, error) {
	o, ok := c.s.Prices.get(c.id())
	if !ok {
		return nil, missing("price", c.id(), "id")
	}
	active, set, err := c.p.boolean("active")
	if err == nil {
		err = c.takeLookupKey(o)
	}
	if err != nil {
		return nil, err
	}
	if set {
		o.Active = active
	}
	o.Nickname = firstOf(c.p.str("nickname"), o.Nickname)
	o.Metadata = mergeMetadata(o.Metadata, c.p.object("metadata"))
	c.emit("price.updated", o.view(isModern(c.version)))
	return o.view(c.modern), nil
}

func listPrices(c *call) (any, error) {
	active, set, err := c.p.boolean("active")
	if err != nil {
		return nil, err
	}
	keys := c.p.strings("lookup_keys")
	if len(keys) > 10 {
		return nil, invalid("lookup_keys", "You may only specify up to 10 of these.")
	}
	return page(c, c.s.Prices.all(), func(o *price) string { return o.ID }, func(o *price) bool {
		return (!set || o.Active == active) &&
			(len(keys) == 0 || slices.Contains(keys, o.LookupKey)) &&
			(!c.p.has("product") || o.Product == c.p.str("product")) &&
			(!c.p.has("currency") || o.Currency == c.p.str("currency")) &&
			(!c.p.has("type") || o.oneTime() == (c.p.str("type") == "one_time"))
	}, func(o *price) any { return o.view(c.modern) })
}
