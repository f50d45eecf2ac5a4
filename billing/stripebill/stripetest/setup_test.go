package stripetest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"
)

var start = time.Date(2026, 1, 31, 10, 0, 0, 0, time.UTC)

func newServer(t *testing.T, opts *stripetest.Options) *stripetest.Server {
	t.Helper()
	var o stripetest.Options
	if opts != nil {
		o = *opts
	}
	if o.Now == nil {
		o.Now = func() time.Time { return start }
	}
	s := stripetest.NewServer(&o)
	t.Cleanup(s.Close)
	return s
}

// official is Stripe's own client, with its own types.
func official(s *stripetest.Server) *client.API {
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		URL: stripe.String(s.URL), MaxNetworkRetries: stripe.Int64(0), EnableTelemetry: stripe.Bool(false),
		LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull},
	})
	return client.New(s.SecretKey, &stripe.Backends{API: backend, Connect: backend, Uploads: backend})
}

// call sends a form and decodes the answer.
func call(t *testing.T, s *stripetest.Server, method, path string, form url.Values, header http.Header) (int, map[string]any, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+s.SecretKey)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	var out map[string]any
	require.NoError(t, json.Unmarshal(body, &out), "%s", body)
	require.True(t, strings.HasPrefix(resp.Header.Get("Request-Id"), "req_"))
	return resp.StatusCode, out, resp.Header
}

// create is call for a POST that succeeds; it returns the id.
func create(t *testing.T, s *stripetest.Server, path string, form url.Values) string {
	t.Helper()
	status, out, _ := call(t, s, http.MethodPost, path, form, nil)
	require.Equal(t, 200, status, "%v", out)
	return out["id"].(string)
}

// shop has a customer that is subscribed to a flat and a metered price.
type shop struct {
	customer, product, flat, metered, meter, subscription, item string
}

func newShop(t *testing.T, s *stripetest.Server, legacy bool) (o shop) {
	t.Helper()
	o.customer = create(t, s, "/v1/customers", url.Values{"email": {"ada@example.com"}})
	o.product = create(t, s, "/v1/products", url.Values{"name": {"Pro"}})
	o.meter = create(t, s, "/v1/billing/meters", url.Values{"display_name": {"Calls"}, "event_name": {"calls"}, "default_aggregation[formula]": {"sum"}})
	o.flat = create(t, s, "/v1/prices", url.Values{"product": {o.product}, "currency": {"usd"}, "unit_amount": {"4900"}, "recurring[interval]": {"month"}})
	usage := url.Values{"product": {o.product}, "currency": {"usd"}, "unit_amount_decimal": {"0.1"}, "recurring[interval]": {"month"}, "recurring[usage_type]": {"metered"}}
	if !legacy {
		usage.Set("recurring[meter]", o.meter)
	}
	o.metered = create(t, s, "/v1/prices", usage)
	status, out, _ := call(t, s, http.MethodPost, "/v1/subscriptions", url.Values{"customer": {o.customer}, "items[0][price]": {o.flat}, "items[1][price]": {o.metered}}, nil)
	require.Equal(t, 200, status, "%v", out)
	o.subscription = out["id"].(string)
	o.item = out["items"].(map[string]any)["data"].([]any)[1].(map[string]any)["id"].(string)
	return o
}

func (o shop) use(value, identifier string, at time.Time) url.Values {
	form := url.Values{"event_name": {"calls"}, "payload[stripe_customer_id]": {o.customer}, "payload[value]": {value}, "timestamp": {unix(at)}}
	if identifier != "" {
		form.Set("identifier", identifier)
	}
	return form
}
