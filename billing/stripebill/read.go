package stripebill

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// object returns the path of one object, after checking that id is an id of
// its kind: an id that came from outside never chooses the path.
func object(collection, prefix, id string) (string, error) {
	if !validID(prefix, id) {
		return "", fmt.Errorf("%w: %.40q is no id that begins with %s", ErrNotFound, id, prefix)
	}
	return "/v1/" + collection + "/" + id, nil
}

func validID(prefix, id string) bool {
	return strings.HasPrefix(id, prefix) && len(id) > len(prefix) && len(id) <= 255 &&
		!strings.ContainsFunc(id, func(r rune) bool {
			return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != '_' && r != '-'
		})
}

func readSession(ctx context.Context, c *Client, id string) (checkoutSession, error) {
	return read[checkoutSession](ctx, c, "checkout/sessions", "cs_", id)
}

func readSubscription(ctx context.Context, c *Client, id string) (subscription, error) {
	return read[subscription](ctx, c, "subscriptions", "sub_", id)
}

func readInvoice(ctx context.Context, c *Client, id string) (invoice, error) {
	return read[invoice](ctx, c, "invoices", "in_", id)
}

func readCustomer(ctx context.Context, c *Client, id string) (customer, error) {
	return read[customer](ctx, c, "customers", "cus_", id)
}

func readMeter(ctx context.Context, c *Client, id string) (meter, error) {
	return read[meter](ctx, c, "billing/meters", "mtr_", id)
}

// read gets one object. An answer that isn't that object is an error: a proxy's
// empty page must not read as a subscription that concerns nobody.
func read[T interface{ id() string }](ctx context.Context, c *Client, collection, prefix, id string) (out T, err error) {
	path, err := object(collection, prefix, id)
	if err != nil {
		return out, err
	}
	if _, err = c.do(ctx, request{method: http.MethodGet, path: path}, &out); err != nil {
		return out, err
	}
	if out.id() != id {
		return out, errForeignAnswer
	}
	return out, nil
}

// readList gets one page of a list.
func readList[T any](ctx context.Context, c *Client, path string, query url.Values) (out list[T], err error) {
	if _, err = c.do(ctx, request{method: http.MethodGet, path: path, form: query}, &out); err != nil {
		return out, err
	}
	if out.Object != "list" {
		return out, errForeignAnswer
	}
	return out, nil
}

func (o checkoutSession) id() string  { return o.ID }
func (o subscription) id() string     { return o.ID }
func (o subscriptionItem) id() string { return o.ID }
func (o invoice) id() string          { return o.ID }
func (o customer) id() string         { return o.ID }
func (o meter) id() string            { return o.ID }
func (o product) id() string          { return o.ID }
func (o price) id() string            { return o.ID }
func (o charge) id() string           { return o.ID }
