package stripebill

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strings"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Catalog is what is sold: plans with a flat price per period and, where Unit
// is set, a price for each unit of usage; and packs of units.
type Catalog struct {
	// Currency of all prices, three lower-case letters. Defaults to "usd".
	Currency string
	// Interval of the plans' prices: "day", "week", "month" or "year". Defaults to
	// "month".
	Interval string
	// EventName of the meter that all metered prices share. Defaults to the
	// client's namespace and "_units".
	EventName string
	// UsageRecords makes the metered prices legacy ones, which take usage
	// records and no meter events. Stripe has none from API version 2025-03-31
	// on. Defaults to false: meters.
	UsageRecords bool

	// Plans, each at most once.
	Plans []CatalogPlan
	// Packs of units that are paid for once, each at most once.
	Packs []CatalogPack
}

// CatalogPlan is one plan. A free plan is a plan whose Amount is 0: it has a
// flat price of its own, so that it is subscribed to like any other.
type CatalogPlan struct {
	Plan   tenant.Plan // 1 to 40 of a-z, 0-9, '-' and '_'
	Name   string      // what the customer reads on the page and the invoice; defaults to Plan
	Amount int64       // per interval, in the currency's smallest unit

	// Unit is the price of one unit in the currency's smallest unit, as a
	// decimal with at most 12 places: "0.1" is a tenth of a cent. Empty: usage
	// isn't billed.
	Unit string
}

// Units returns how many units cost no more than amount, which is in the
// currency's smallest unit, besides the flat price: what a cap on spending allows.
// ok is false where a unit costs nothing.
func (p CatalogPlan) Units(amount int64) (units int64, ok bool) {
	price, valid := new(big.Rat).SetString(p.Unit)
	if !valid || price.Sign() <= 0 || amount < 0 {
		return 0, false
	}
	n := new(big.Rat).Quo(new(big.Rat).SetInt64(amount), price)
	whole := new(big.Int).Quo(n.Num(), n.Denom())
	if !whole.IsInt64() {
		return math.MaxInt64, true
	}
	return whole.Int64(), true
}

// CatalogChange is one difference between a catalog and the account.
type CatalogChange struct {
	Action string // "create", "replace" or "update"
	Kind   string // "product", "meter" or "price"
	Key    string // the product's id, the meter's event name, the price's lookup key
	Reason string // what differs
}

// String reads like "replace price mcpsaas:pro: amount is 4900, want 5900".
func (c CatalogChange) String() string {
	s := c.Action + " " + c.Kind + " " + c.Key
	if c.Reason != "" {
		s += ": " + c.Reason
	}
	return s
}

// DiffCatalog says what [Client.EnsureCatalog] would change, and changes
// nothing.
func (c *Client) DiffCatalog(ctx context.Context, cat Catalog) ([]CatalogChange, error) {
	return c.applyCatalog(ctx, cat, true)
}

// EnsureCatalog makes the account sell what cat says, and returns what it
// changed: nothing when all was there. It is safe to run at every start and
// from several replicas at once, and it never deletes.
//
// A price can't be changed at Stripe. One that differs is replaced: the new
// price takes over its lookup key, and the old one is closed to new customers
// while those who pay it go on paying it.
func (c *Client) EnsureCatalog(ctx context.Context, cat Catalog) ([]CatalogChange, error) {
	return c.applyCatalog(ctx, cat, false)
}

func (c *Client) applyCatalog(ctx context.Context, cat Catalog, dry bool) ([]CatalogChange, error) {
	if err := cat.complete(c.namespace); err != nil {
		return nil, fmt.Errorf("stripebill: catalog: %w", err)
	}
	w := &catalogWriter{client: c, catalog: cat, dry: dry}
	if err := w.run(ctx); err != nil {
		return w.changes, fmt.Errorf("stripebill: catalog: %w", err)
	}
	return w.changes, nil
}

var (
	planForm     = regexp.MustCompile(`^[a-z0-9_-]{1,40}$`)
	currencyForm = regexp.MustCompile(`^[a-z]{3}$`)
	unitForm     = regexp.MustCompile(`^[0-9]{1,12}(\.[0-9]{1,12})?$`)
	eventForm    = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}$`)
)

// complete fills in the defaults and checks every field.
func (cat *Catalog) complete(namespace string) error {
	if cat.Currency == "" {
		cat.Currency = "usd"
	}
	if cat.Interval == "" {
		cat.Interval = "month"
	}
	if cat.EventName == "" {
		cat.EventName = namespace + "_units"
	}
	var errs []error
	if !currencyForm.MatchString(cat.Currency) {
		errs = append(errs, fmt.Errorf("Currency %.10q: want three lower-case letters", cat.Currency))
	}
	switch cat.Interval {
	case "day", "week", "month", "year":
	default:
		errs = append(errs, fmt.Errorf("Interval %.10q: want day, week, month or year", cat.Interval))
	}
	if !eventForm.MatchString(cat.EventName) {
		errs = append(errs, fmt.Errorf("EventName %.100q: want 1 to 100 letters, digits, '_', '.', '-'", cat.EventName))
	}
	if len(cat.Plans) == 0 {
		errs = append(errs, errors.New("Plans: want at least one"))
	}
	seen := map[tenant.Plan]bool{}
	for _, p := range cat.Plans {
		if !planForm.MatchString(string(p.Plan)) {
			errs = append(errs, fmt.Errorf("plan %.40q: want 1 to 40 of a-z, 0-9, '-' and '_'", p.Plan))
		}
		if seen[p.Plan] {
			errs = append(errs, fmt.Errorf("plan %.40q: named twice", p.Plan))
		}
		seen[p.Plan] = true
		if p.Amount < 0 {
			errs = append(errs, fmt.Errorf("plan %.40q: Amount %d is negative", p.Plan, p.Amount))
		}
		if p.Unit != "" && !unitForm.MatchString(p.Unit) {
			errs = append(errs, fmt.Errorf("plan %.40q: Unit %.30q: want a decimal like 0.1", p.Plan, p.Unit))
		}
	}
	for _, p := range cat.Packs {
		errs = append(errs, p.check())
		if seen[tenant.Plan(p.Pack)] { // they share the ids of products
			errs = append(errs, fmt.Errorf("pack %.40q: named twice", p.Pack))
		}
		seen[tenant.Plan(p.Pack)] = true
	}
	return errors.Join(errs...)
}

// productID is chosen by us, so that two replicas make one product.
func (c *Client) productID(planOrPack string) string { return c.namespace + "_" + planOrPack }

// flatKeyOf and usageKeyOf are the lookup keys of a plan's prices. ':' is in
// neither a namespace nor a plan, so that no two plans share a key.
func (c *Client) flatKeyOf(p tenant.Plan) string  { return c.namespace + ":" + string(p) }
func (c *Client) usageKeyOf(p tenant.Plan) string { return c.flatKeyOf(p) + ":usage" }

// planOfKey is the reverse of flatKeyOf.
func (c *Client) planOfKey(key string) (tenant.Plan, bool) {
	plan, ok := strings.CutPrefix(key, c.namespace+":")
	return tenant.Plan(plan), ok && planForm.MatchString(plan)
}

// usageKey reports whether key is one of usageKeyOf.
func (c *Client) usageKey(key string) bool {
	return strings.HasPrefix(key, c.namespace+":") && strings.HasSuffix(key, ":usage")
}

// sameDecimal compares two decimals by value: Stripe drops trailing zeros.
func sameDecimal(a, b string) bool {
	x, ok := new(big.Rat).SetString(a)
	y, ok2 := new(big.Rat).SetString(b)
	return ok && ok2 && x.Cmp(y) == 0
}
