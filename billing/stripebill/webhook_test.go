package stripebill_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v76/webhook"
)

const (
	secret    = "whsec_thesecretofthisendpoint"
	oldSecret = "whsec_thesecretthatisrotatedout"
)

// inbox keeps notices in memory, as the real one does in a table.
type inbox struct {
	mu      sync.Mutex
	notices map[string]billing.Notice
	fresh   int
	err     error
}

func (i *inbox) Accept(_ context.Context, n billing.Notice) (bool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.err != nil {
		return false, i.err
	}
	if i.notices == nil {
		i.notices = map[string]billing.Notice{}
	}
	_, known := i.notices[n.ID]
	i.notices[n.ID] = n
	if !known {
		i.fresh++
	}
	return !known, nil
}

func endpoint(t *testing.T, box billing.Inbox) http.Handler {
	t.Helper()
	hook, err := stripebill.NewWebhook(box, []string{secret, oldSecret}, &stripebill.WebhookOptions{Now: func() time.Time { return start }})
	require.NoError(t, err)
	return hook
}

func post(hook http.Handler, body, signature string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(http.MethodPost, "/webhooks/stripe", strings.NewReader(body))
	if signature != "" {
		req.Header.Set("Stripe-Signature", signature)
	}
	rec := httptest.NewRecorder()
	hook.ServeHTTP(rec, req)
	return rec
}

const event = `{"id":"evt_1","object":"event","type":"customer.subscription.updated","created":1769853600,` +
	`"api_version":"2023-10-16","livemode":true,"data":{"object":{"id":"sub_1","object":"subscription","customer":"cus_1"}}}`

// TestWebhookSignature. Mutations seen by it: the signature not compared
// (foreign), only the past bounded (from the future), only the first secret
// tried (rotated secret), the MAC over the parsed body (reformatted).
func TestWebhookSignature(t *testing.T) {
	t.Parallel()
	good := stripetest.Sign([]byte(event), secret, start)
	stamp, mac, _ := strings.Cut(good, ",")
	for name, tt := range map[string]struct {
		header string
		body   string
		want   int
		text   string
	}{
		"good":                  {header: good, want: 200},
		"rotated secret":        {header: stripetest.Sign([]byte(event), oldSecret, start), want: 200},
		"two signatures":        {header: stamp + ",v1=" + strings.Repeat("00", 32) + "," + mac, want: 200},
		"old scheme beside":     {header: stamp + ",v0=abcd," + mac, want: 200},
		"300 seconds old":       {header: stripetest.Sign([]byte(event), secret, start.Add(-300*time.Second)), want: 200},
		"301 seconds old":       {header: stripetest.Sign([]byte(event), secret, start.Add(-301*time.Second)), want: 400, text: "time"},
		"from the future":       {header: stripetest.Sign([]byte(event), secret, start.Add(301*time.Second)), want: 400, text: "time"},
		"none":                  {want: 400, text: "no Stripe-Signature"},
		"garbage":               {header: "garbage", want: 400, text: "no Stripe-Signature"},
		"without a time":        {header: mac, want: 400, text: "no Stripe-Signature"},
		"time moved":            {header: "t=1769853601," + mac, want: 400, text: "secret"},
		"only the old scheme":   {header: stamp + ",v0=" + strings.TrimPrefix(mac, "v1="), want: 400, text: "no Stripe-Signature"},
		"short signature":       {header: stamp + ",v1=ab", want: 400, text: "no Stripe-Signature"},
		"foreign":               {header: stripetest.Sign([]byte(event), "whsec_another", start), want: 400, text: "secret"},
		"of an empty secret":    {header: stripetest.Sign([]byte(event), "", start), want: 400, text: "secret"},
		"of another body":       {header: stripetest.Sign([]byte(event+" "), secret, start), want: 400, text: "secret"},
		"reformatted":           {header: good, body: strings.Replace(event, ",", ", ", 1), want: 400, text: "secret"},
		"negative time":         {header: stripetest.Sign([]byte(event), secret, time.Unix(-1, 0)), want: 400},
		"a thousand signatures": {header: stamp + strings.Repeat(",v1="+strings.Repeat("00", 32), 1000) + "," + mac, want: 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box := &inbox{}
			body := tt.body
			if body == "" {
				body = event
			}
			got := post(endpoint(t, box), body, tt.header)
			require.Equal(t, tt.want, got.Code, got.Body)
			require.Contains(t, got.Body.String(), tt.text)
			require.NotContains(t, got.Body.String(), "whsec")
			require.Equal(t, tt.want == 200, box.fresh == 1, "only what is signed reaches the inbox")
		})
	}
}

// TestWebhookForeignSigner: what stripe-go signs, we verify, and the reverse.
func TestWebhookForeignSigner(t *testing.T) {
	t.Parallel()
	signed := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: []byte(event), Secret: secret, Timestamp: start})
	require.Equal(t, 200, post(endpoint(t, &inbox{}), event, signed.Header).Code)
	require.NoError(t, webhook.ValidatePayload([]byte(event), stripetest.Sign([]byte(event), secret, time.Now()), secret))
}

// TestWebhookEvents: full and thin events of any API version, known type or
// not.
func TestWebhookEvents(t *testing.T) {
	t.Parallel()
	created := time.Unix(1769853600, 0).UTC()
	for name, tt := range map[string]struct {
		body string
		want billing.Notice
	}{
		"of 2023-10-16": {event, billing.Notice{ID: "evt_1", Type: "customer.subscription.updated", Created: created,
			ObjectID: "sub_1", Customer: "cus_1", APIVersion: "2023-10-16", Live: true}},
		"of a later version": {strings.Replace(event, "2023-10-16", "2026-10-28.endive", 1), billing.Notice{ID: "evt_1", Type: "customer.subscription.updated",
			Created: created, ObjectID: "sub_1", Customer: "cus_1", APIVersion: "2026-10-28.endive", Live: true}},
		"expanded customer": {`{"id":"evt_2","type":"invoice.paid","created":1769853600,"data":{"object":{"id":"in_1","customer":{"id":"cus_2"}}}}`,
			billing.Notice{ID: "evt_2", Type: "invoice.paid", Created: created, ObjectID: "in_1", Customer: "cus_2"}},
		"about a customer": {`{"id":"evt_3","type":"customer.updated","created":1769853600,"data":{"object":{"id":"cus_3","object":"customer"}}}`,
			billing.Notice{ID: "evt_3", Type: "customer.updated", Created: created, ObjectID: "cus_3", Customer: "cus_3"}},
		"thin": {`{"id":"evt_4","object":"v2.core.event","type":"v1.billing.meter.error_report_triggered","created":"2026-01-31T10:00:00.000Z",` +
			`"livemode":false,"related_object":{"id":"mtr_1","type":"billing.meter","url":"/v1/billing/meters/mtr_1"}}`,
			billing.Notice{ID: "evt_4", Type: "v1.billing.meter.error_report_triggered", Created: created, ObjectID: "mtr_1"}},
		"without an object": {`{"id":"evt_5","type":"some.new.thing","created":null}`, billing.Notice{ID: "evt_5", Type: "some.new.thing"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box := &inbox{}
			got := post(endpoint(t, box), tt.body, stripetest.Sign([]byte(tt.body), secret, start))
			require.Equal(t, 200, got.Code, got.Body)
			tt.want.Payload = []byte(tt.body)
			require.Equal(t, tt.want, box.notices[tt.want.ID])
		})
	}
}

// TestWebhookRefusesWhatIsNoEvent though it is signed.
func TestWebhookRefusesWhatIsNoEvent(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"empty":          "",
		"not JSON":       "id=evt_1",
		"cut off":        event[:len(event)-10],
		"array":          "[" + event + "]",
		"no id":          `{"type":"invoice.paid"}`,
		"no type":        `{"id":"evt_1"}`,
		"wrong types":    `{"id":1,"type":"invoice.paid"}`,
		"NUL in the id":  `{"id":"evt_\u0000","type":"invoice.paid"}`,
		"long id":        `{"id":"evt_` + strings.Repeat("x", 300) + `","type":"invoice.paid"}`,
		"NUL in object":  `{"id":"evt_1","type":"invoice.paid","data":{"object":{"id":"in_\u0000"}}}`,
		"broken UTF-8":   "{\"id\":\"evt_1\",\"type\":\"invoice.paid\",\"x\":\"\xff\"}",
		"newline in id":  `{"id":"evt_1\nINFO forged","type":"invoice.paid"}`,
		"deeply nested":  strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000),
		"customer is []": `{"id":"evt_1","type":"x","data":{"object":{"customer":[]}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box := &inbox{}
			got := post(endpoint(t, box), body, stripetest.Sign([]byte(body), secret, start))
			require.Equal(t, 400, got.Code)
			require.Contains(t, got.Body.String(), "no event")
			require.Zero(t, box.fresh)
		})
	}
}

func TestWebhookLimits(t *testing.T) {
	t.Parallel()
	box := &inbox{}
	hook := endpoint(t, box)
	sized := func(n int) string {
		frame := len(`{"id":"evt_1","type":"x","pad":""}`)
		return `{"id":"evt_1","type":"x","pad":"` + strings.Repeat("x", n-frame) + `"}`
	}
	exact := sized(1 << 20)
	require.Equal(t, 200, post(hook, exact, stripetest.Sign([]byte(exact), secret, start)).Code)
	large := sized(1<<20 + 1)
	require.Equal(t, 413, post(hook, large, stripetest.Sign([]byte(large), secret, start)).Code)
	huge := post(hook, strings.Repeat("x", 10<<20), "")
	require.Equal(t, 413, huge.Code)
	require.Contains(t, huge.Body.String(), "1 MiB")

	rec := httptest.NewRecorder()
	hook.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/webhooks/stripe", nil))
	require.Equal(t, 405, rec.Code)
	require.Equal(t, "POST", rec.Header().Get("Allow"))
}

// TestWebhookAnswersAfterCommit: no 200 without the inbox, or a paid checkout
// is lost. Mutation seen by it: Accept's error ignored.
func TestWebhookAnswersAfterCommit(t *testing.T) {
	t.Parallel()
	box := &inbox{err: errors.New("dial tcp 10.0.0.1:5432: connection refused")}
	hook := endpoint(t, box)
	sign := stripetest.Sign([]byte(event), secret, start)
	got := post(hook, event, sign)
	require.Equal(t, 500, got.Code)
	require.NotContains(t, got.Body.String(), "10.0.0.1")
	box.err = nil
	require.Equal(t, 200, post(hook, event, sign).Code)
	require.Equal(t, 200, post(hook, event, sign).Code)
	require.Equal(t, 1, box.fresh)
}

func TestNewWebhookNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		box     billing.Inbox
		secrets []string
		opts    *stripebill.WebhookOptions
		want    string
	}{
		"no inbox":     {nil, []string{secret}, nil, "inbox"},
		"no secrets":   {&inbox{}, nil, nil, "secrets"},
		"empty secret": {&inbox{}, []string{secret, " "}, nil, "secrets[1]"},
		"tolerance":    {&inbox{}, []string{secret}, &stripebill.WebhookOptions{Tolerance: -1}, "Tolerance"},
	} {
		_, err := stripebill.NewWebhook(tt.box, tt.secrets, tt.opts)
		require.ErrorContains(t, err, tt.want, name)
	}
}

// TestFiftyAtOnce delivers one event fifty times at once, over the network.
func TestFiftyAtOnce(t *testing.T) {
	t.Parallel()
	box := &inbox{}
	stripe := stripetest.NewServer(nil)
	t.Cleanup(stripe.Close)
	hook, err := stripebill.NewWebhook(box, []string{stripe.WebhookSecret}, nil)
	require.NoError(t, err)
	server := httptest.NewServer(hook)
	t.Cleanup(server.Close)
	stripe.HoldWebhooks()
	stripe.SetWebhookURL(server.URL)

	client, err := stripebill.New(stripe.SecretKey, &stripebill.Options{APIBase: stripe.URL})
	require.NoError(t, err)
	_, err = client.EnsureCatalog(t.Context(), stripebill.Catalog{Plans: []stripebill.CatalogPlan{{Plan: "free"}}})
	require.NoError(t, err)
	events := stripe.Events()
	require.NotEmpty(t, events)
	var wg sync.WaitGroup
	codes := make([]int, 50)
	for i := range codes {
		wg.Go(func() { codes[i], _ = stripe.Deliver(t.Context(), events[0].ID) })
	}
	wg.Wait()
	for _, code := range codes {
		require.Equal(t, 200, code)
	}
	require.Equal(t, 1, box.fresh)
	require.Equal(t, events[0].ObjectID, box.notices[events[0].ID].ObjectID)
}

func BenchmarkWebhook(b *testing.B) {
	hook, err := stripebill.NewWebhook(&inbox{}, []string{secret}, &stripebill.WebhookOptions{Now: func() time.Time { return start }})
	if err != nil {
		b.Fatal(err)
	}
	signature := stripetest.Sign([]byte(event), secret, start)
	b.ReportAllocs()
	for b.Loop() {
		if post(hook, event, signature).Code != 200 {
			b.Fatal("refused")
		}
	}
}
