package stripetest_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
)

// BenchmarkMeterEvent is what a report costs beside many subscriptions: a test
// of ten thousand targets should measure what it tests.
func BenchmarkMeterEvent(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		b.Run(strconv.Itoa(n)+" subscriptions", func(b *testing.B) {
			e, err := stripetest.New(nil)
			require.NoError(b, err)
			defer e.Close()
			post := func(path string, form url.Values) string {
				req := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				req.SetBasicAuth(e.SecretKey, "")
				rec := httptest.NewRecorder()
				e.ServeHTTP(rec, req)
				require.Equal(b, 200, rec.Code, "%s", rec.Body)
				var o struct{ ID string }
				_ = json.Unmarshal(rec.Body.Bytes(), &o)
				return o.ID
			}
			product := post("/v1/products", url.Values{"name": {"Pro"}})
			post("/v1/billing/meters", url.Values{"display_name": {"Calls"}, "event_name": {"calls"}, "default_aggregation[formula]": {"sum"}})
			price := post("/v1/prices", url.Values{"product": {product}, "currency": {"usd"}, "unit_amount": {"1"}, "recurring[interval]": {"month"}})
			var customer string
			for range n {
				customer = post("/v1/customers", nil)
				post("/v1/subscriptions", url.Values{"customer": {customer}, "items[0][price]": {price}})
			}
			use := url.Values{"event_name": {"calls"}, "payload[stripe_customer_id]": {customer}, "payload[value]": {"1"}}
			b.ReportAllocs()
			for b.Loop() {
				post("/v1/billing/meter_events", use)
			}
		})
	}
}
