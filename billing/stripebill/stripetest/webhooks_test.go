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
	last   []byte
	header string // of the last
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
		h.last, h.header = body, r.Header.Get("Stripe-Signature")
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

// latest is the last webhook that came, and its signature.
func (h *hook) latest() (body []byte, signature string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last, h.header
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
	require.Eventually(t, func() bool { return len(s.Undelivered()) == 0 }, time.Minute, 5*time.Millisecond)
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
	require.Eventually(t, func() bool { return undelivered() == 0 }, time.Minute, 5*time.Millisecond)
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

// TestDisturbedWebhooks: each event has the fate that it is given. What is lost
// is in the event list as undelivered, until it is delivered by hand. Mutations
// seen by it: a lost event counted as delivered; a late one sent at once.
func TestDisturbedWebhooks(t *testing.T) {
	t.Parallel()
	s := newServer(t, realTime())
	h := newHook(t, s, 0)
	fates := map[string]stripetest.Fate{
		"customer.created": stripetest.Late, "product.created": stripetest.Lost, "price.created": stripetest.Doubled,
	}
	s.DisturbWebhooks(func(e stripetest.Event) stripetest.Fate { return fates[e.Type] })
	s.HoldWebhooks()
	s.SetWebhookURL(h.URL)
	create(t, s, "/v1/customers", nil)
	create(t, s, "/v1/billing/meters", url.Values{"display_name": {"Calls"}, "event_name": {"calls"}, "default_aggregation[formula]": {"sum"}})
	product := create(t, s, "/v1/products", url.Values{"name": {"Pro"}})
	create(t, s, "/v1/prices", url.Values{"product": {product}, "currency": {"usd"}, "unit_amount": {"1"}, "recurring[interval]": {"month"}})
	s.ReleaseWebhooks()
	require.Eventually(t, func() bool { return len(s.Undelivered()) == 0 }, time.Minute, 5*time.Millisecond)
	require.Equal(t, []string{"billing.meter.created", "customer.created", "price.created", "price.created"}, h.types())

	undelivered := func() []any {
		_, out, _ := call(t, s, http.MethodGet, "/v1/events?delivery_success=false", nil, nil)
		return out["data"].([]any)
	}
	lost := undelivered()
	require.Len(t, lost, 1)
	require.Equal(t, "product.created", lost[0].(map[string]any)["type"])
	status, err := s.Deliver(t.Context(), lost[0].(map[string]any)["id"].(string))
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.Empty(t, undelivered())

	// Without a successor, what is late comes by itself.
	create(t, s, "/v1/customers", nil)
	require.Eventually(t, func() bool { return len(s.Undelivered()) == 0 }, time.Minute, 5*time.Millisecond)
	require.Equal(t, "customer.created", h.types()[5])
}

// TestUndeliveredEventsAreKept for 30 days.
func TestUndeliveredEventsAreKept(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	s.HoldWebhooks()
	s.SetWebhookURL("http://127.0.0.1:1/")
	create(t, s, "/v1/customers", nil)
	count := func() int {
		_, out, _ := call(t, s, http.MethodGet, "/v1/events?delivery_success=false", nil, nil)
		return len(out["data"].([]any))
	}
	s.Advance(30 * 24 * time.Hour)
	require.Equal(t, 1, count())
	s.Advance(time.Second)
	require.Zero(t, count())
}

// TestThinWebhooks carry no object, and are to be found in the second version
// of the API (https://docs.stripe.com/event-destinations#thin-events).
func TestThinWebhooks(t *testing.T) {
	t.Parallel()
	s := newServer(t, &stripetest.Options{Now: time.Now, ThinWebhooks: true})
	h := newHook(t, s, 0)
	s.SetWebhookURL(h.URL)
	id := create(t, s, "/v1/customers", url.Values{"email": {"ada@example.com"}})
	require.Eventually(t, func() bool { return len(s.Undelivered()) == 0 }, time.Minute, 5*time.Millisecond)
	require.NoError(t, h.bad)
	body, _ := h.latest()
	require.NotContains(t, string(body), "ada@example.com")
	var thin map[string]any
	require.NoError(t, json.Unmarshal(body, &thin))
	require.Equal(t, "v2.core.event", thin["object"])
	require.Equal(t, "v1.customer.created", thin["type"])
	require.Equal(t, map[string]any{"id": id, "type": "customer", "url": "/v1/customers/" + id}, thin["related_object"])
	_, err := time.Parse(time.RFC3339, thin["created"].(string))
	require.NoError(t, err)

	_, read, _ := call(t, s, http.MethodGet, "/v2/core/events/"+thin["id"].(string), nil, nil)
	require.Equal(t, s.Events()[0].ID, read["snapshot_event"])
	_, listed, _ := call(t, s, http.MethodGet, "/v2/core/events?object_id="+id, nil, nil)
	require.Len(t, listed["data"], 1)
	_, listed, _ = call(t, s, http.MethodGet, "/v2/core/events?object_id=cus_other", nil, nil)
	require.Empty(t, listed["data"])
	s.SetThinWebhooks(false)
	_, err = s.Deliver(t.Context(), s.Events()[0].ID)
	require.NoError(t, err)
	body, _ = h.latest()
	require.Contains(t, string(body), "ada@example.com")
}

// TestUnaggregated: a meter event that Stripe takes and can't count shows in no
// total; a thin event tells of it, whatever form others have.
func TestUnaggregated(t *testing.T) {
	t.Parallel()
	s := newServer(t, realTime())
	h := newHook(t, s, 0)
	o := newShop(t, s, false)
	s.Inject(stripetest.Fault{Kind: stripetest.Unaggregated, Endpoint: "POST /v1/billing/meter_events"})
	s.SetWebhookURL(h.URL)
	for _, id := range []string{"lost", "counted"} {
		status, out, _ := call(t, s, http.MethodPost, "/v1/billing/meter_events", o.use("3", id, time.Now()), nil)
		require.Equal(t, 200, status, "%v", out)
	}
	require.EqualValues(t, 3, s.UsageTotal(o.customer, "calls"))
	require.Eventually(t, func() bool { return len(s.Undelivered()) == 0 }, time.Minute, 5*time.Millisecond)
	require.NoError(t, h.bad)
	require.Equal(t, []string{"v1.billing.meter.error_report_triggered"}, h.types())
	body, _ := h.latest()
	var thin map[string]any
	require.NoError(t, json.Unmarshal(body, &thin))
	require.Equal(t, o.meter, thin["related_object"].(map[string]any)["id"])
	_, read, _ := call(t, s, http.MethodGet, "/v2/core/events/"+thin["id"].(string), nil, nil)
	report, err := json.Marshal(read["data"])
	require.NoError(t, err)
	require.Contains(t, string(report), `"identifier":"lost"`)
	_, listed, _ := call(t, s, http.MethodGet, "/v1/events?type=billing.meter.error_report_triggered", nil, nil)
	require.Empty(t, listed["data"])
}

// TestRolledSecret: during a roll webhooks bear the signatures of both secrets,
// and Stripe's own library takes either.
func TestRolledSecret(t *testing.T) {
	t.Parallel()
	s := newServer(t, realTime())
	h := newHook(t, s, 0)
	s.SetWebhookURL(h.URL)
	fresh := s.RollWebhookSecret(time.Hour)
	create(t, s, "/v1/customers", nil)
	event := s.Events()[0].ID
	// Or what was sent by itself arrives between the two.
	require.Eventually(t, func() bool { return len(s.Undelivered()) == 0 }, time.Minute, 5*time.Millisecond)
	deliver := func() (old, rolled error) {
		_, err := s.Deliver(t.Context(), event)
		require.NoError(t, err)
		body, signature := h.latest()
		return webhook.ValidatePayload(body, signature, s.WebhookSecret), webhook.ValidatePayload(body, signature, fresh)
	}
	old, rolled := deliver()
	require.NoError(t, old)
	require.NoError(t, rolled)
	s.Advance(time.Hour)
	old, rolled = deliver()
	require.ErrorIs(t, old, webhook.ErrNoValidSignature)
	require.NoError(t, rolled)
}

// TestDraftWaitsForItsWebhook: the hour of a draft begins when the endpoint has
// taken invoice.created; if it never does, the draft lasts for three days.
// Mutation seen by it: the draft finalised an hour after its creation.
func TestDraftWaitsForItsWebhook(t *testing.T) {
	t.Parallel()
	end := time.Date(2026, 2, 28, 10, 0, 0, 0, time.UTC)
	for name, taken := range map[string]bool{"taken": true, "refused": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			o := newShop(t, s, false)
			h := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			t.Cleanup(h.Close)
			s.HoldWebhooks()
			s.SetWebhookURL(h.URL)
			s.Advance(end.Sub(start) + 2*time.Hour) // past the hour at one stroke
			status, out, _ := call(t, s, http.MethodPost, "/v1/billing/meter_events", o.use("5", "", end.Add(-time.Minute)), nil)
			require.Equal(t, 200, status, "%v", out)
			if !taken {
				s.Advance(70*time.Hour - time.Second)
				require.Zero(t, s.Billed(o.customer))
				s.Advance(time.Second)
				require.EqualValues(t, 5, s.Billed(o.customer))
				return
			}
			events := s.Events()
			at := slices.IndexFunc(events, func(e stripetest.Event) bool {
				return e.Type == "invoice.created" && slices.Contains(s.Undelivered(), e.ID)
			})
			_, err := s.Deliver(t.Context(), events[at].ID)
			require.NoError(t, err)
			s.Advance(time.Hour - time.Second)
			require.Zero(t, s.Billed(o.customer))
			s.Advance(time.Second)
			require.EqualValues(t, 5, s.Billed(o.customer))
		})
	}
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
