package stripebill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// catalogWriter compares a catalog with the account and, unless it is a dry
// run, mends the differences in the order in which objects need each other.
type catalogWriter struct {
	client  *Client
	catalog Catalog
	dry     bool
	changes []CatalogChange
}

// laterID stands for an object that a dry run would have made.
const laterID = "(new)"

func (w *catalogWriter) run(ctx context.Context) error {
	var keys []string
	metered := false
	for _, p := range w.catalog.Plans {
		keys = append(keys, w.client.flatKeyOf(p.Plan))
		if p.Unit != "" {
			keys = append(keys, w.client.usageKeyOf(p.Plan))
			metered = true
		}
	}
	for _, p := range w.catalog.Packs {
		keys = append(keys, w.client.packKeyOf(p.Pack))
	}
	var meterID string
	if metered && !w.catalog.UsageRecords {
		var err error
		if meterID, err = w.meter(ctx); err != nil {
			return fmt.Errorf("meter %s: %w", w.catalog.EventName, err)
		}
	}
	prices, err := w.client.pricesByKey(ctx, keys...)
	if err != nil {
		return err
	}
	for _, p := range w.catalog.Plans {
		if err := w.product(ctx, string(p.Plan), p.Name, metaPlan); err != nil {
			return fmt.Errorf("product %s: %w", w.client.productID(string(p.Plan)), err)
		}
		if err := w.price(ctx, prices, w.flat(p)); err != nil {
			return fmt.Errorf("price %s: %w", w.client.flatKeyOf(p.Plan), err)
		}
		if p.Unit == "" {
			continue
		}
		if err := w.price(ctx, prices, w.usage(p, meterID)); err != nil {
			return fmt.Errorf("price %s: %w", w.client.usageKeyOf(p.Plan), err)
		}
	}
	for _, p := range w.catalog.Packs {
		if err := w.product(ctx, p.Pack, p.Name, metaPack); err != nil {
			return fmt.Errorf("product %s: %w", w.client.productID(p.Pack), err)
		}
		if err := w.price(ctx, prices, w.pack(p)); err != nil {
			return fmt.Errorf("price %s: %w", w.client.packKeyOf(p.Pack), err)
		}
	}
	return nil
}

func (w *catalogWriter) note(ch CatalogChange) {
	w.changes = append(w.changes, ch)
	if !w.dry {
		w.client.log.Info("catalog changed", "action", ch.Action, "kind", ch.Kind, "key", ch.Key, "reason", ch.Reason)
	}
}

// meter finds the active meter of the event name or makes it. Stripe allows
// one active meter per event name, which is what makes this safe at once.
func (w *catalogWriter) meter(ctx context.Context) (string, error) {
	id, err := w.findMeter(ctx)
	if err != nil || id != "" {
		return id, err
	}
	if w.dry {
		w.note(CatalogChange{Action: "create", Kind: "meter", Key: w.catalog.EventName})
		return laterID, nil
	}
	form := url.Values{
		"event_name":                          {w.catalog.EventName},
		"display_name":                        {w.catalog.EventName},
		"default_aggregation[formula]":        {"sum"},
		"customer_mapping[type]":              {"by_id"},
		"customer_mapping[event_payload_key]": {"stripe_customer_id"},
		"value_settings[event_payload_key]":   {"value"},
	}
	var made meter
	err = w.client.post(ctx, "/v1/billing/meters", "", form, &made)
	if err != nil {
		// A replica was faster, perhaps.
		if id, again := w.findMeter(ctx); again == nil && id != "" {
			return id, nil
		}
		return "", err
	}
	w.note(CatalogChange{Action: "create", Kind: "meter", Key: w.catalog.EventName})
	return made.ID, nil
}

func (w *catalogWriter) findMeter(ctx context.Context) (string, error) {
	query := url.Values{"status": {"active"}, "limit": {"100"}}
	for {
		page, err := readList[meter](ctx, w.client, "/v1/billing/meters", query)
		if err != nil {
			return "", err
		}
		for _, m := range page.Data {
			if m.EventName != w.catalog.EventName || m.Status == "inactive" {
				continue
			}
			if m.DefaultAggregation.Formula != "sum" {
				return "", fmt.Errorf("%w: meter %s adds up by %q, not by sum", ErrAmbiguous, m.ID, m.DefaultAggregation.Formula)
			}
			return m.ID, nil
		}
		if !page.HasMore || len(page.Data) == 0 {
			return "", nil
		}
		query.Set("starting_after", page.Data[len(page.Data)-1].ID)
	}
}

func (w *catalogWriter) product(ctx context.Context, of, name, kind string) error {
	id := w.client.productID(of)
	name = cmp.Or(name, of)
	have, err := read[product](ctx, w.client, "products", "", id)
	if errors.Is(err, ErrNotFound) {
		if w.dry {
			w.note(CatalogChange{Action: "create", Kind: "product", Key: id})
			return nil
		}
		form := url.Values{"id": {id}, "name": {name}, "metadata[namespace]": {w.client.namespace}, "metadata[" + kind + "]": {of}}
		err = w.client.post(ctx, "/v1/products", "", form, &have)
		if err == nil {
			w.note(CatalogChange{Action: "create", Kind: "product", Key: id})
			return nil
		}
		// A replica was faster, perhaps: the id is the same for all.
		var again error
		if have, again = read[product](ctx, w.client, "products", "", id); again != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	var reasons []string
	form := url.Values{}
	if have.Name != name {
		reasons = append(reasons, fmt.Sprintf("name is %q, want %q", have.Name, name))
		form.Set("name", name)
	}
	if !have.Active {
		reasons = append(reasons, "it is archived")
		form.Set("active", "true")
	}
	if len(reasons) == 0 {
		return nil
	}
	if !w.dry {
		if err := w.client.post(ctx, "/v1/products/"+id, "", form, &have); err != nil {
			return err
		}
	}
	w.note(CatalogChange{Action: "update", Kind: "product", Key: id, Reason: strings.Join(reasons, ", ")})
	return nil
}

// wantedPrice is a price as the catalog has it.
type wantedPrice struct {
	key      string
	form     url.Values
	product  string
	decimal  string // price of one, in the smallest unit
	interval string // empty: paid once
	usage    string // recurring[usage_type]
	meter    string
	metadata metadata
}

func (w *catalogWriter) flat(p CatalogPlan) wantedPrice {
	amount := strconv.FormatInt(p.Amount, 10)
	want := w.recurring(p, w.client.flatKeyOf(p.Plan), kindFlat)
	want.usage, want.decimal = "licensed", amount
	want.form.Set("unit_amount", amount)
	return want
}

func (w *catalogWriter) usage(p CatalogPlan, meterID string) wantedPrice {
	want := w.recurring(p, w.client.usageKeyOf(p.Plan), kindUsage)
	want.usage, want.decimal, want.meter = "metered", p.Unit, meterID
	want.form.Set("unit_amount_decimal", p.Unit)
	want.form.Set("recurring[usage_type]", "metered")
	if meterID != "" {
		want.form.Set("recurring[meter]", meterID)
	} else {
		want.form.Set("recurring[aggregate_usage]", "sum")
	}
	return want
}

func (w *catalogWriter) pack(p CatalogPack) wantedPrice {
	amount := strconv.FormatInt(p.Amount, 10)
	want := w.want(p.Pack, w.client.packKeyOf(p.Pack), metadata{
		metaKind: kindPack, metaPack: p.Pack, metaUnits: strconv.FormatInt(p.Units, 10), metaDays: strconv.Itoa(p.Days),
	})
	want.decimal = amount
	want.form.Set("unit_amount", amount)
	return want
}

func (w *catalogWriter) recurring(p CatalogPlan, key, kind string) wantedPrice {
	want := w.want(string(p.Plan), key, metadata{metaKind: kind, metaPlan: string(p.Plan)})
	want.interval = w.catalog.Interval
	want.form.Set("recurring[interval]", want.interval)
	return want
}

func (w *catalogWriter) want(of, key string, meta metadata) wantedPrice {
	id := w.client.productID(of)
	form := url.Values{
		"product":             {id},
		"currency":            {w.catalog.Currency},
		"lookup_key":          {key},
		"metadata[namespace]": {w.client.namespace},
	}
	for k, v := range meta {
		form.Set("metadata["+k+"]", v)
	}
	return wantedPrice{key: key, product: id, form: form, metadata: meta}
}

// price makes want where there is none, or replaces what is there by it. The
// idempotency key is made of what is wanted and what it replaces, so that
// replicas that start together make one price.
func (w *catalogWriter) price(ctx context.Context, have map[string]price, want wantedPrice) error {
	old, exists := have[want.key]
	change := CatalogChange{Action: "create", Kind: "price", Key: want.key}
	if exists {
		reason := w.differs(old, want)
		if reason == "" {
			return nil
		}
		change.Action, change.Reason = "replace", reason
		want.form.Set("transfer_lookup_key", "true")
	}
	if w.dry {
		w.note(change)
		return nil
	}
	var made price
	done := func() bool {
		now, err := w.client.pricesByKey(ctx, want.key)
		p, ok := now[want.key]
		return err == nil && ok && p.ID != old.ID && w.differs(p, want) == ""
	}
	// The minute is in the key so that an outage, whose failures are saved
	// under it, is over when it is over. Across a minute the lookup key, which
	// only one price can have, keeps a second from being made.
	minute := w.client.now().UTC().Format("2006-01-02 15:04")
	key := w.client.derivedKey("price", want.form, old.ID+" "+minute)
	err := w.client.create(ctx, "/v1/prices", key, want.form, &made, done)
	if err != nil && !done() {
		return err
	}
	if exists && old.Active {
		var closed price
		if err := w.client.post(ctx, "/v1/prices/"+old.ID, "", url.Values{"active": {"false"}}, &closed); err != nil {
			return err
		}
	}
	w.note(change)
	return nil
}

// differs says in what p is not want, or is empty.
func (w *catalogWriter) differs(p price, want wantedPrice) string {
	decimal := p.UnitAmountDecimal
	if decimal == "" {
		decimal = p.UnitAmount.String()
	}
	var out []string
	check := func(what, is, wants string) {
		if is != wants {
			out = append(out, fmt.Sprintf("%s is %q, want %q", what, is, wants))
		}
	}
	if !sameDecimal(decimal, want.decimal) {
		check("amount", decimal, want.decimal)
	}
	check("currency", p.Currency, w.catalog.Currency)
	check("interval", p.Recurring.Interval, want.interval)
	if p.Recurring.IntervalCount > 1 {
		check("interval count", strconv.FormatInt(p.Recurring.IntervalCount, 10), "1")
	}
	if want.interval != "" {
		check("usage type", cmp.Or(p.Recurring.UsageType, "licensed"), want.usage)
	}
	check("meter", p.Recurring.Meter, want.meter)
	check("product", string(p.Product), want.product)
	for _, key := range []string{metaUnits, metaDays} { // what a pack has can't be changed for those who buy it now
		check(key, p.Metadata[key], want.metadata[key])
	}
	if !p.Active {
		out = append(out, "it is archived")
	}
	return strings.Join(out, ", ")
}

// pricesByKey looks prices up by their lookup keys, ten at a time as Stripe
// allows.
func (c *Client) pricesByKey(ctx context.Context, keys ...string) (map[string]price, error) {
	out := make(map[string]price, len(keys))
	for len(keys) > 0 {
		n := min(len(keys), 10)
		query := url.Values{"lookup_keys[]": keys[:n], "limit": {"100"}}
		page, err := readList[price](ctx, c, "/v1/prices", query)
		if err != nil {
			return nil, err
		}
		for _, p := range page.Data {
			out[p.LookupKey] = p
		}
		keys = keys[n:]
	}
	return out, nil
}
