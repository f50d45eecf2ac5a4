package stripebill

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strconv"

	"github.com/mcpsaas/mcpsaas/billing"
)

// CatalogPack is a number of units that is paid for once, before they are used.
// Whoever buys it ([CheckoutRequest.Pack]) has a grant of them: see
// [billing.Purchase].
type CatalogPack struct {
	Pack   string // 1 to 40 of a-z, 0-9, '-' and '_'; not the name of a plan
	Name   string // what the customer reads; defaults to Pack
	Amount int64  // what it costs, in the currency's smallest unit
	Units  int64  // how many there are in it

	// Days is how many days the units can be used, from when the checkout was
	// opened. Zero: for ever.
	Days int
}

// The keys of a pack's metadata: of the price, and of the session in which it is
// bought, so that what was paid for is known whatever the catalog says by then.
const (
	metaPack  = "pack"
	metaUnits = "units"
	metaDays  = "days"

	kindPack = "pack"
)

// The most that a pack has, as a grant.
const (
	maxPackUnits = 1 << 53
	maxPackDays  = 36500
)

func (p CatalogPack) check() error {
	var errs []error
	if !planForm.MatchString(p.Pack) {
		errs = append(errs, fmt.Errorf("pack %.40q: want 1 to 40 of a-z, 0-9, '-' and '_'", p.Pack))
	}
	if p.Amount < 0 {
		errs = append(errs, fmt.Errorf("pack %.40q: Amount %d is negative", p.Pack, p.Amount))
	}
	if p.Units < 1 || p.Units > maxPackUnits {
		errs = append(errs, fmt.Errorf("pack %.40q: Units %d is not within 1 and %d", p.Pack, p.Units, int64(maxPackUnits)))
	}
	if p.Days < 0 || p.Days > maxPackDays {
		errs = append(errs, fmt.Errorf("pack %.40q: Days %d is not within 0 and %d", p.Pack, p.Days, maxPackDays))
	}
	return errors.Join(errs...)
}

// packKeyOf is the lookup key of a pack's price, which is that of no plan.
func (c *Client) packKeyOf(pack string) string { return c.namespace + ":" + pack + ":pack" }

// packForm asks for a session in which a pack is paid for.
func (c *Client) packForm(ctx context.Context, r CheckoutRequest) (url.Values, error) {
	key := c.packKeyOf(r.Pack)
	prices, err := c.pricesByKey(ctx, key)
	if err != nil {
		return nil, err
	}
	p, ok := prices[key]
	if !ok || p.Metadata[metaKind] != kindPack {
		return nil, fmt.Errorf("no price for pack %.40q: %w", r.Pack, ErrNotFound)
	}
	return url.Values{
		"mode":                    {"payment"},
		"metadata[kind]":          {kindPack},
		"metadata[namespace]":     {c.namespace},
		"metadata[pack]":          {r.Pack},
		"metadata[units]":         {p.Metadata[metaUnits]},
		"metadata[days]":          {p.Metadata[metaDays]},
		"line_items[0][price]":    {p.ID},
		"line_items[0][quantity]": {"1"},
	}, nil
}

// packSold reads what a session sells: nil where that is no pack of this product.
func (c *Client) packSold(s checkoutSession) (*billing.Purchase, error) {
	if s.Mode != "payment" || s.Metadata[metaKind] != kindPack || s.Metadata[metaNamespace] != c.namespace {
		return nil, nil
	}
	p := &billing.Purchase{ID: s.ID, Pack: s.Metadata[metaPack], At: s.Created.time()}
	days, err := strconv.Atoi(s.Metadata[metaDays])
	if err == nil {
		p.Units, err = strconv.ParseInt(s.Metadata[metaUnits], 10, 64)
	}
	sold := CatalogPack{Pack: p.Pack, Units: p.Units, Days: days}
	if err != nil || sold.check() != nil {
		return nil, fmt.Errorf("%w: the session's metadata is no pack's", ErrAmbiguous)
	}
	if days > 0 {
		p.ExpiresAt = p.At.AddDate(0, 0, days)
	}
	return p, nil
}

// fromPurchase reads what was paid for in a session, and what of it was paid
// back since.
func (s *Source) fromPurchase(ctx context.Context, session checkoutSession) (billing.Change, error) {
	sold, err := s.client.packSold(session)
	if err != nil || sold == nil {
		return billing.Change{}, err
	}
	change, err := changeOf(session)
	if err != nil || change.Tenant.IsZero() {
		return billing.Change{}, err
	}
	if session.PaymentIntent != "" {
		query := url.Values{"payment_intent": {string(session.PaymentIntent)}}
		charges, err := readList[charge](ctx, s.client, "/v1/charges", query)
		if err != nil {
			return billing.Change{}, err
		}
		for _, c := range charges.Data {
			if c.Status == "succeeded" && c.Amount > 0 {
				sold.Refunded = share(sold.Units, c.AmountRefunded, c.Amount)
			}
		}
	}
	change.Purchase = sold
	return change, nil
}

// share is units times part by whole, rounded down.
func share(units, part, whole int64) int64 {
	n := new(big.Int).Mul(big.NewInt(units), big.NewInt(min(part, whole)))
	return n.Div(n, big.NewInt(whole)).Int64()
}

// fromCharge reads the session that a charge was made for; one of an invoice has
// none.
func (s *Source) fromCharge(ctx context.Context, id string) (billing.Change, error) {
	c, err := read[charge](ctx, s.client, "charges", "", id)
	if err != nil || c.PaymentIntent == "" {
		return billing.Change{}, err
	}
	query := url.Values{"payment_intent": {string(c.PaymentIntent)}}
	sessions, err := readList[checkoutSession](ctx, s.client, "/v1/checkout/sessions", query)
	if err != nil || len(sessions.Data) == 0 {
		return billing.Change{}, err
	}
	return s.session(ctx, sessions.Data[0])
}
