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
)

// TestFaults: what each fault shows to the client, whether the request was
// applied, and what the repetition under the same key gets. A status of 0 is a
// connection that was cut. Mutations seen by it: a 500 that isn't saved; a
// truncated answer of a request that wasn't applied.
func TestFaults(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		kind    stripetest.FaultKind
		status  int
		broken  bool // the body is no JSON
		applied bool
		again   int
	}{
		"drop before":       {stripetest.DropBefore, 0, true, false, 200},
		"drop after":        {stripetest.DropAfter, 0, true, true, 200},
		"saved 500 before":  {stripetest.Error500Before, 500, false, false, 500},
		"saved 500 after":   {stripetest.Error500After, 500, false, true, 500},
		"unavailable":       {stripetest.Unavailable, 503, false, false, 200},
		"bad gateway":       {stripetest.BadGateway, 502, true, false, 200},
		"truncated":         {stripetest.Truncated, 200, true, true, 200},
		"empty":             {stripetest.Empty, 200, true, true, 200},
		"foreign":           {stripetest.Foreign, 200, false, false, 200},
		"redirected":        {stripetest.Redirected, 302, false, false, 200},
		"conflict":          {stripetest.Conflict, 409, false, false, 200},
		"rate limited":      {stripetest.RateLimited, 429, false, false, 200},
		"lock timeout":      {stripetest.LockTimeout, 429, false, false, 200},
		"unauthorized":      {stripetest.Unauthorized, 401, false, false, 200},
		"forbidden":         {stripetest.Forbidden, 403, false, false, 200},
		"refused":           {stripetest.Refused, 400, false, false, 200},
		"another's key":     {stripetest.KeyReused, 400, false, false, 200},
		"nothing but delay": {stripetest.Slow, 200, false, true, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			post := func() (int, []byte) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/customers", strings.NewReader("name=Ada"))
				require.NoError(t, err)
				req.SetBasicAuth(s.SecretKey, "")
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				req.Header.Set("Idempotency-Key", "one")
				resp, err := client.Do(req)
				if err != nil {
					return 0, nil
				}
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body)
				return resp.StatusCode, body
			}
			s.Inject(stripetest.Fault{Kind: tt.kind})
			status, body := post()
			require.Equal(t, tt.status, status)
			require.Equal(t, tt.broken, !json.Valid(body), "%s", body)
			require.Equal(t, tt.applied, len(s.Events()) == 1)
			status, _ = post()
			require.Equal(t, tt.again, status)
			want := 1
			if tt.again != 200 && !tt.applied {
				want = 0
			}
			require.Len(t, s.Events(), want, "applied once at most")
		})
	}
}

// TestFaultOfAnEndpoint meets the requests of that endpoint alone, from the one
// after Skip, as many as Times.
func TestFaultOfAnEndpoint(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	s.Inject(stripetest.Fault{Kind: stripetest.Unavailable, Endpoint: "POST /v1/subscriptions/{id}", Skip: 1, Times: 2})
	var got []int
	for range 4 {
		for _, path := range []string{"/v1/subscriptions", "/v1/subscriptions/" + o.subscription} {
			status, _, _ := call(t, s, http.MethodPost, path, url.Values{"customer": {o.customer}, "items[0][price]": {o.flat}, "description": {"x"}}, nil)
			got = append(got, status)
		}
	}
	// An update knows no customer: 400 where the fault lets it pass.
	require.Equal(t, []int{200, 400, 200, 503, 200, 503, 200, 400}, got)

	s.Inject(stripetest.Fault{Kind: stripetest.Unavailable, Times: -1})
	status, _, _ := call(t, s, http.MethodGet, "/v1/balance", nil, nil)
	require.Equal(t, 503, status)
	s.Heal()
	status, _, _ = call(t, s, http.MethodGet, "/v1/balance", nil, nil)
	require.Equal(t, 200, status)
	require.PanicsWithValue(t, "stripetest: Inject: no endpoint POST /v1/subscription", func() {
		s.Inject(stripetest.Fault{Endpoint: "POST /v1/subscription"})
	})
}

// TestRateLimits: https://docs.stripe.com/rate-limits. A refusal isn't saved
// under the key. Mutation seen by it: meter events in the account's count.
func TestRateLimits(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		limits                   stripetest.RateLimits
		events, customers, reads int // how many of five are taken
		reason                   string
	}{
		"none":         {stripetest.RateLimits{}, 5, 5, 5, ""},
		"account":      {stripetest.RateLimits{Account: 6}, 5, 1, 0, "global-rate"},
		"endpoint":     {stripetest.RateLimits{Endpoint: 3}, 3, 3, 3, "endpoint-rate"},
		"meters apart": {stripetest.RateLimits{Account: 6, Endpoint: 4, MeterEvents: 5}, 5, 4, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, &stripetest.Options{RateLimits: tt.limits})
			taken := func(method, path string, form url.Values) (n int) {
				for i := range 5 {
					status, out, header := call(t, s, method, path, form, http.Header{"Idempotency-Key": {method + path + string(rune('a'+i))}})
					if status != 429 {
						n++
						continue
					}
					require.Equal(t, "rate_limit", out["error"].(map[string]any)["code"])
					require.Contains(t, []string{"global-rate", "endpoint-rate"}, header.Get("Stripe-Rate-Limited-Reason"))
					if tt.reason != "" {
						require.Equal(t, tt.reason, header.Get("Stripe-Rate-Limited-Reason"))
					}
				}
				return n
			}
			// There is no such meter: it is the count that counts.
			require.Equal(t, tt.events, taken(http.MethodPost, "/v1/billing/meter_events", url.Values{"event_name": {"x"}, "payload[value]": {"1"}}))
			require.Equal(t, tt.customers, taken(http.MethodPost, "/v1/customers", nil))
			require.Equal(t, tt.reads, taken(http.MethodGet, "/v1/balance", nil))
			s.Advance(time.Second)
			status, _, header := call(t, s, http.MethodPost, "/v1/customers", nil, http.Header{"Idempotency-Key": {"POST/v1/customerse"}})
			require.Equal(t, 200, status, "a new second, and nothing was saved")
			require.Equal(t, tt.customers == 5, header.Get("Idempotent-Replayed") == "true")
		})
	}
}
