package stripetest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v76/webhook"
)

// hook takes webhooks, and refuses the first of them.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	refuse int
	got    []string // event types, in the order of their acceptance
	bad    error
}

func newHook(t *testing.T, s *stripetest.Server, refuse int) *hook {
	t.Helper()
	h := &hook{refuse: refuse}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		defer h.mu.Unlock()
		// stripe-go's own check, with its own clock.
		if err := webhook.ValidatePayload(body, r.Header.Get("Stripe-Signature"), s.WebhookSecret); err != nil {
			h.bad = err
		}
		if h.refuse > 0 {
			h.refuse--
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		var e struct{ Type string }
		_ = json.Unmarshal(body, &e)
		h.got = append(h.got, e.Type)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) types() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.got)
}

func realTime() *stripetest.Options { return &stripetest.Options{Now: time.Now} }

// TestWebhooksAreRetried until they are taken, and are in the event list until
// then.
func TestWebhooksAreRetried(t *testing.T) {
	t.Parallel()
	s := newServer(t, realTime())
	create(t, s, "/v1/customers", nil) // before there is an endpoint: nobody is told
	h := newHook(t, s, 2)
	s.SetWebhookURL(h.URL)
	create(t, s, "/v1/customers", nil)
	require.Eventually(t, func() bool { return len(s.Undelivered()) == 0 }, 10*time.Second, 5*time.Millisecond)
	require.Equal(t, []string{"customer.created"}, h.types())
	require.NoError(t, h.bad)
}

func TestUndeliveredEvents(t *testing.T) {
	t.Parallel()
	s := newServer(t, realTime())
	h := newHook(t, s, 0)
	s.HoldWebhooks()
	s.SetWebhookURL(h.URL)
	create(t, s, "/v1/customers", nil)
	undelivered := func() int {
		_, out, _ := call(t, s, http.MethodGet, "/v1/events?delivery_success=false", nil, nil)
		return len(out["data"].([]any))
	}
	require.Equal(t, 1, undelivered())
	require.Empty(t, h.types())
	s.ReleaseWebhooks()
	require.Eventually(t, func() bool { return undelivered() == 0 }, 10*time.Second, 5*time.Millisecond)
	require.Equal(t, []string{"customer.created"}, h.types())
}

// TestDeliverInAnyOrder: held back, each event goes where the test wants it,
// as often as it wants.
func TestDeliverInAnyOrder(t *testing.T) {
	t.Parallel()
	s := newServer(t, realTime())
	h := newHook(t, s, 0)
	s.HoldWebhooks()
	s.SetWebhookURL(h.URL)
	o := newShop(t, s, false)
	events := s.Events()
	slices.Reverse(events)
	var want []string
	for _, e := range events {
		if e.Type == "product.created" {
			continue // lost
		}
		for range 2 {
			status, err := s.Deliver(t.Context(), e.ID)
			require.NoError(t, err)
			require.Equal(t, 200, status)
			want = append(want, e.Type)
		}
	}
	require.Equal(t, want, h.types())
	require.NoError(t, h.bad)
	require.Len(t, s.Undelivered(), 1)
	require.Equal(t, o.subscription, events[slices.IndexFunc(events, func(e stripetest.Event) bool { return e.Type == "customer.subscription.created" })].ObjectID)

	_, err := s.Deliver(t.Context(), "evt_unknown")
	require.ErrorContains(t, err, "evt_unknown")
}

// TestBuying fires what Stripe fires, in one of the orders in which it may.
func TestBuying(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	seen := len(s.Events())
	id := create(t, s, "/v1/checkout/sessions", url.Values{"mode": {"subscription"}, "success_url": {"https://x.example"}, "line_items[0][price]": {o.flat}})
	require.NoError(t, s.Pay(id))
	require.ErrorIs(t, s.Pay(id), stripetest.ErrNotOpen, "paid once")
	var types []string
	for _, e := range s.Events()[seen:] {
		types = append(types, e.Type)
	}
	require.Equal(t, []string{"customer.created", "customer.subscription.created", "invoice.created", "invoice.paid", "checkout.session.completed"}, types)
}

func TestDeclinedCard(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	_, out, _ := call(t, s, http.MethodPost, "/v1/checkout/sessions", url.Values{"mode": {"subscription"}, "success_url": {"https://x.example"}, "line_items[0][price]": {o.flat}}, nil)
	page, err := http.PostForm(out["url"].(string), url.Values{"card": {"decline"}})
	require.NoError(t, err)
	body, err := io.ReadAll(page.Body)
	require.NoError(t, err)
	require.NoError(t, page.Body.Close())
	require.Contains(t, string(body), "declined")
	_, out, _ = call(t, s, http.MethodGet, "/v1/checkout/sessions/"+out["id"].(string), nil, nil)
	require.Equal(t, "open", out["status"])
}
