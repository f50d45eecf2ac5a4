package stripebill_test

import (
	"math"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
)

// sizes counts what the account sells.
func (w world) sizes(t *testing.T) (products, prices, meters int) {
	t.Helper()
	count := func(path string) int {
		return len(w.rawObject(t, http.MethodGet, path+"?limit=100", "")["data"].([]any))
	}
	return count("/v1/products"), count("/v1/prices"), count("/v1/billing/meters")
}

// TestEnsureCatalogTenTimes makes one set of objects, first alone and then
// from ten replicas at once. Mutation seen by it: no lookup before creating.
func TestEnsureCatalogTenTimes(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	plan, err := w.client.DiffCatalog(t.Context(), catalog)
	require.NoError(t, err)
	products, prices, meters := w.sizes(t)
	require.Zero(t, products+prices+meters, "a dry run changes nothing")

	first, err := w.client.EnsureCatalog(t.Context(), catalog)
	require.NoError(t, err)
	require.Equal(t, plan, first)
	require.Equal(t, []stripebill.CatalogChange{
		{Action: "create", Kind: "meter", Key: "mcpsaas_units"},
		{Action: "create", Kind: "product", Key: "mcpsaas_free"},
		{Action: "create", Kind: "price", Key: "mcpsaas:free"},
		{Action: "create", Kind: "product", Key: "mcpsaas_pro"},
		{Action: "create", Kind: "price", Key: "mcpsaas:pro"},
		{Action: "create", Kind: "price", Key: "mcpsaas:pro:usage"},
	}, first)
	for range 9 {
		again, err := w.client.EnsureCatalog(t.Context(), catalog)
		require.NoError(t, err)
		require.Empty(t, again)
	}
	products, prices, meters = w.sizes(t)
	require.Equal(t, []int{2, 3, 1}, []int{products, prices, meters})
}

func TestEnsureCatalogAtOnce(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	var wg sync.WaitGroup
	errs := make([]error, 10)
	for i := range errs {
		wg.Go(func() {
			replica, err := stripebill.New(w.stripe.SecretKey, &stripebill.Options{APIBase: w.stripe.URL})
			if err == nil {
				_, err = replica.EnsureCatalog(t.Context(), catalog)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	products, prices, meters := w.sizes(t)
	require.Equal(t, []int{2, 3, 1}, []int{products, prices, meters})
}

func TestEnsureCatalogMendsDrift(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	_, err := w.client.EnsureCatalog(t.Context(), catalog)
	require.NoError(t, err)

	wanted := catalog
	wanted.Plans = []stripebill.CatalogPlan{
		{Plan: "free", Name: "Free of charge"},
		{Plan: "pro", Name: "Pro", Amount: 5900, Unit: "0.10"},
	}
	plan, err := w.client.DiffCatalog(t.Context(), wanted)
	require.NoError(t, err)
	changes, err := w.client.EnsureCatalog(t.Context(), wanted)
	require.NoError(t, err)
	require.Equal(t, plan, changes)
	var lines []string
	for _, ch := range changes {
		lines = append(lines, ch.String())
	}
	require.Equal(t, []string{
		`update product mcpsaas_free: name is "Free", want "Free of charge"`,
		`replace price mcpsaas:pro: amount is "4900", want "5900"`,
	}, lines, "0.10 is 0.1")
	changes, err = w.client.EnsureCatalog(t.Context(), wanted)
	require.NoError(t, err)
	require.Empty(t, changes)
	closed := w.rawObject(t, http.MethodGet, "/v1/prices?active=false", "")["data"].([]any)
	require.Len(t, closed, 1)

	// And back, within the memory of idempotency keys.
	changes, err = w.client.EnsureCatalog(t.Context(), catalog)
	require.NoError(t, err)
	require.Len(t, changes, 2)
	changes, err = w.client.EnsureCatalog(t.Context(), catalog)
	require.NoError(t, err)
	require.Empty(t, changes)
}

// TestEnsureCatalogAfterFailures: it ends in one set whatever fails on the
// way, though Stripe replays a saved 500 for a day. Mutation seen by it: no
// minute in the idempotency key.
func TestEnsureCatalogAfterFailures(t *testing.T) {
	t.Parallel()
	for _, kind := range []stripetest.FaultKind{stripetest.DropBefore, stripetest.DropAfter, stripetest.Error500Before, stripetest.Error500After, stripetest.Truncated, stripetest.Unavailable} {
		w := setup(t, nil)
		w.stripe.Inject(stripetest.Fault{Kind: stripetest.Error500Before, Method: "POST", Path: "/v1/prices", Times: 3})
		_, err := w.client.EnsureCatalog(t.Context(), catalog)
		require.Error(t, err, "an outage")
		w.stripe.Advance(time.Minute)
		for skip := range 6 {
			w.stripe.Inject(stripetest.Fault{Kind: kind, Method: "POST", Skip: skip})
			_, _ = w.client.EnsureCatalog(t.Context(), catalog)
			w.stripe.Heal()
		}
		_, err = w.client.EnsureCatalog(t.Context(), catalog)
		require.NoError(t, err)
		products, prices, meters := w.sizes(t)
		require.Equal(t, []int{2, 3, 1}, []int{products, prices, meters})
	}
}

func TestCatalogNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	for want, spoil := range map[string]func(*stripebill.Catalog){
		"Plans":          func(c *stripebill.Catalog) { c.Plans = nil },
		"Currency":       func(c *stripebill.Catalog) { c.Currency = "dollars" },
		"Interval":       func(c *stripebill.Catalog) { c.Interval = "fortnight" },
		"EventName":      func(c *stripebill.Catalog) { c.EventName = "my event" },
		`plan "Pro:1"`:   func(c *stripebill.Catalog) { c.Plans = []stripebill.CatalogPlan{{Plan: "Pro:1"}} },
		"named twice":    func(c *stripebill.Catalog) { c.Plans = []stripebill.CatalogPlan{{Plan: "a"}, {Plan: "a"}} },
		"negative":       func(c *stripebill.Catalog) { c.Plans = []stripebill.CatalogPlan{{Plan: "a", Amount: -1}} },
		`Unit "1e9"`:     func(c *stripebill.Catalog) { c.Plans = []stripebill.CatalogPlan{{Plan: "a", Unit: "1e9"}} },
		`Unit "a tenth"`: func(c *stripebill.Catalog) { c.Plans = []stripebill.CatalogPlan{{Plan: "a", Unit: "a tenth"}} },
	} {
		cat := catalog
		spoil(&cat)
		_, err := w.client.EnsureCatalog(t.Context(), cat)
		require.ErrorContains(t, err, want)
	}
	products, prices, meters := w.sizes(t)
	require.Zero(t, products+prices+meters)
}

func TestCatalogNamespaces(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	other, err := stripebill.New(w.stripe.SecretKey, &stripebill.Options{APIBase: w.stripe.URL, Namespace: "other"})
	require.NoError(t, err)
	_, err = w.client.EnsureCatalog(t.Context(), catalog)
	require.NoError(t, err)
	changes, err := other.EnsureCatalog(t.Context(), catalog)
	require.NoError(t, err)
	require.Len(t, changes, 6)
}

func TestCatalogPlanUnits(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		unit   string
		amount int64
		units  int64
		ok     bool
	}{
		{"0.1", 5000, 50_000, true},
		{"0.3", 100, 333, true},
		{"250", 249, 0, true},
		{"0.000000000001", 1 << 62, math.MaxInt64, true},
		{"1", 0, 0, true},
		{"0", 100, 0, false},
		{"", 100, 0, false},
	} {
		units, ok := stripebill.CatalogPlan{Unit: tt.unit}.Units(tt.amount)
		require.Equal(t, tt.units, units, tt.unit)
		require.Equal(t, tt.ok, ok, tt.unit)
	}
}
