package stripetest_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
)

// TestIdempotencyKeys: https://docs.stripe.com/api/idempotent_requests.
// Mutation seen by it: parameters not compared.
func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	key := http.Header{"Idempotency-Key": {"key-1"}}
	form := url.Values{"email": {"ada@example.com"}}
	post := func(form url.Values, key http.Header) (int, map[string]any, http.Header) {
		return call(t, s, http.MethodPost, "/v1/customers", form, key)
	}
	status, first, header := post(form, key)
	require.Equal(t, 200, status)
	require.Empty(t, header.Get("Idempotent-Replayed"))
	_, again, header := post(form, key)
	require.Equal(t, first["id"], again["id"])
	require.Equal(t, "true", header.Get("Idempotent-Replayed"))

	status, refused, _ := post(url.Values{"email": {"grace@example.com"}}, key)
	require.Equal(t, 400, status)
	require.Equal(t, "idempotency_error", refused["error"].(map[string]any)["type"])

	// A refusal of the parameters isn't saved.
	status, _, _ = post(url.Values{"emial": {"x"}}, http.Header{"Idempotency-Key": {"key-2"}})
	require.Equal(t, 400, status)
	status, _, _ = post(form, http.Header{"Idempotency-Key": {"key-2"}})
	require.Equal(t, 200, status)

	// A failure is.
	s.Inject(stripetest.Fault{Kind: stripetest.Error500Before})
	for range 2 {
		status, _, _ = post(form, http.Header{"Idempotency-Key": {"key-3"}})
		require.Equal(t, 500, status)
	}

	s.Advance(24*time.Hour - time.Second)
	_, again, _ = post(form, key)
	require.Equal(t, first["id"], again["id"])
	s.Advance(time.Second)
	_, fresh, header := post(form, key)
	require.NotEqual(t, first["id"], fresh["id"])
	require.Empty(t, header.Get("Idempotent-Replayed"))
}

// TestRequestsAtOnce: while one request is held back, others with its key, or
// of its customer and meter, are turned away. The others are such that they
// change nothing when they come before it.
func TestRequestsAtOnce(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		path  string
		form  func(o shop) url.Values
		other string
		spoil func(url.Values)
		want  int
	}{
		"idempotency key": {"/v1/customers", func(shop) url.Values { return url.Values{} }, "/v1/prices", func(url.Values) {}, 409},
		"customer and meter": {"/v1/billing/meter_events", func(o shop) url.Values { return o.use("1", "", start) },
			"/v1/billing/meter_events", func(form url.Values) { form.Set("payload[value]", "x") }, 429},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			o := newShop(t, s, false)
			key := func(path string) http.Header {
				if path == "/v1/billing/meter_events" {
					return nil
				}
				return http.Header{"Idempotency-Key": {"same"}}
			}
			s.Inject(stripetest.Fault{Kind: stripetest.Slow, Delay: time.Hour, Path: tt.path})
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			defer wg.Wait()
			defer cancel()
			before := s.Requests("POST " + tt.path)
			wg.Go(func() {
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+tt.path, strings.NewReader(tt.form(o).Encode()))
				req.SetBasicAuth(s.SecretKey, "")
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				for k, v := range key(tt.path) {
					req.Header[k] = v
				}
				if resp, err := http.DefaultClient.Do(req); err == nil {
					resp.Body.Close()
				}
			})
			require.Eventually(t, func() bool { return s.Requests("POST "+tt.path) > before }, time.Minute, time.Millisecond)
			require.Eventually(t, func() bool {
				form := tt.form(o)
				tt.spoil(form)
				status, _, _ := call(t, s, http.MethodPost, tt.other, form, key(tt.other))
				return status == tt.want
			}, time.Minute, time.Millisecond)
		})
	}
}

// TestMeterEvents: https://docs.stripe.com/api/billing/meter-event/create.
// Mutation seen by it: identifiers not remembered.
func TestMeterEvents(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	send := func(form url.Values) (int, string, http.Header) {
		status, out, header := call(t, s, http.MethodPost, "/v1/billing/meter_events", form, nil)
		code := ""
		if e, ok := out["error"].(map[string]any); ok {
			code, _ = e["code"].(string)
		}
		return status, code, header
	}
	for name, tt := range map[string]struct {
		form url.Values
		want int
		code string
	}{
		"35 days old":      {o.use("1", "", start.Add(-35*24*time.Hour)), 200, ""},
		"too old":          {o.use("1", "", start.Add(-35*24*time.Hour-time.Second)), 400, "timestamp_too_far_in_past"},
		"5 minutes ahead":  {o.use("1", "", start.Add(5*time.Minute)), 200, ""},
		"too far ahead":    {o.use("1", "", start.Add(5*time.Minute+time.Second)), 400, "timestamp_in_future"},
		"15 digits":        {o.use("999999999999999", "", start.Add(-time.Hour)), 200, ""},
		"16 digits":        {o.use("1000000000000000", "", start), 400, ""},
		"a fraction":       {o.use("1.5", "", start), 400, ""},
		"not a number":     {o.use("many", "", start), 400, ""},
		"long identifier":  {o.use("1", strings.Repeat("x", 101), start), 400, ""},
		"unknown meter":    {url.Values{"event_name": {"other"}, "payload[value]": {"1"}}, 400, "resource_missing"},
		"unknown customer": {url.Values{"event_name": {"calls"}, "payload[value]": {"1"}, "payload[stripe_customer_id]": {"cus_x"}}, 400, "resource_missing"},
	} {
		status, code, _ := send(tt.form)
		require.Equal(t, tt.want, status, name)
		require.Equal(t, tt.code, code, name)
	}

	before := s.UsageTotal(o.customer, "calls")
	status, _, _ := send(o.use("7", "one", start))
	require.Equal(t, 200, status)
	s.Advance(24*time.Hour - time.Second)
	status, code, header := send(o.use("7", "one", start))
	require.Equal(t, 400, status)
	require.Equal(t, "duplicate_meter_event", code)
	require.Equal(t, "false", header.Get("Stripe-Should-Retry"))
	require.EqualValues(t, before+7, s.UsageTotal(o.customer, "calls"))
	s.Advance(time.Second)
	status, _, _ = send(o.use("7", "one", start))
	require.Equal(t, 200, status, "forgotten after a day")
	require.EqualValues(t, before+14, s.UsageTotal(o.customer, "calls"))
}

// TestMeterFormulas: what events of one customer add up to by each formula, and where
// an event is the whole of its hour or day.
//
// Mutations seen by it: windows added up, any event taken for the last.
func TestMeterFormulas(t *testing.T) {
	t.Parallel()
	s := newServer(t, &stripetest.Options{Now: func() time.Time { return start.Add(2 * 24 * time.Hour) }})
	o := newShop(t, s, false)
	for name, tt := range map[string]struct {
		formula, window string
		want            float64
	}{
		"sum": {"sum", "", 31}, "count": {"count", "", 5}, "last": {"last", "", 4},
		"sum of hours": {"sum", "hour", 15}, "sum of days": {"sum", "day", 12}, "count of days": {"count", "day", 2},
	} {
		form := url.Values{"display_name": {name}, "event_name": {strings.ReplaceAll(name, " ", "_")}, "default_aggregation[formula]": {tt.formula}}
		if tt.window != "" {
			form.Set("event_time_window", tt.window)
		}
		meter := create(t, s, "/v1/billing/meters", form)
		for _, use := range []struct {
			after time.Duration
			units string
		}{{0, "16"}, {59 * time.Minute, "3"}, {2 * time.Hour, "8"}, {24 * time.Hour, "0"}, {25 * time.Hour, "4"}} {
			event := o.use(use.units, "", start.Add(use.after))
			event.Set("event_name", form.Get("event_name"))
			status, out, _ := call(t, s, http.MethodPost, "/v1/billing/meter_events", event, nil)
			require.Equal(t, 200, status, "%v", out)
		}
		query := url.Values{"customer": {o.customer}, "start_time": {unix(start)}, "end_time": {unix(start.Add(48 * time.Hour))}}
		if tt.window == "day" { // its windows begin at midnight
			query.Set("start_time", unix(start.Truncate(24*time.Hour)))
		}
		rows := read(t, s, "/v1/billing/meters/"+meter+"/event_summaries?"+query.Encode())["data"].([]any)
		require.Len(t, rows, 1, name)
		require.Equal(t, tt.want, rows[0].(map[string]any)["aggregated_value"], name)
	}
	for field, bad := range map[string]string{"default_aggregation[formula]": "max", "event_time_window": "week"} {
		form := url.Values{"display_name": {"x"}, "event_name": {"x"}, "default_aggregation[formula]": {"sum"}}
		form.Set(field, bad)
		status, out, _ := call(t, s, http.MethodPost, "/v1/billing/meters", form, nil)
		require.Equal(t, 400, status)
		require.Equal(t, field, out["error"].(map[string]any)["param"])
	}
}

func TestMeterSummaries(t *testing.T) {
	t.Parallel()
	s := newServer(t, &stripetest.Options{SummaryLag: time.Minute})
	o := newShop(t, s, false)
	for i, at := range []time.Time{start, start.Add(59 * time.Second), start.Add(time.Minute), start.Add(2 * time.Minute)} {
		status, out, _ := call(t, s, http.MethodPost, "/v1/billing/meter_events", o.use("1", string(rune('a'+i)), at), nil)
		require.Equal(t, 200, status, "%v", out)
	}
	sums := func(from, to time.Time, window string) (int, []float64) {
		q := url.Values{"customer": {o.customer}, "start_time": {unix(from)}, "end_time": {unix(to)}}
		if window != "" {
			q.Set("value_grouping_window", window)
		}
		status, out, _ := call(t, s, http.MethodGet, "/v1/billing/meters/"+o.meter+"/event_summaries?"+q.Encode(), nil, nil)
		var values []float64
		rows, _ := out["data"].([]any)
		for _, row := range rows {
			values = append(values, row.(map[string]any)["aggregated_value"].(float64))
		}
		return status, values
	}
	_, values := sums(start, start.Add(time.Minute), "")
	require.Empty(t, values, "accepted, not yet aggregated")
	s.Advance(time.Minute)
	_, values = sums(start, start.Add(time.Minute), "")
	require.Equal(t, []float64{2}, values, "whole minutes, the end exclusive")
	_, values = sums(start, start.Add(time.Hour), "hour")
	require.Equal(t, []float64{4}, values)
	status, _ := sums(start.Add(time.Second), start.Add(time.Minute), "")
	require.Equal(t, 400, status)
	status, _ = sums(start.Add(time.Minute), start.Add(time.Hour), "hour")
	require.Equal(t, 400, status)
	status, _ = sums(start, start, "")
	require.Equal(t, 400, status)
	status, _ = sums(time.Unix(0, 0), time.Unix(1<<50*3600, 0), "hour")
	require.Equal(t, 400, status)
}

// TestUsageRecords: set overwrites, increment adds, within the item's period.
// Mutation seen by it: a closed period taken.
func TestUsageRecords(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, true)
	s.Advance(time.Hour)
	send := func(action, quantity string, at time.Time) int {
		status, _, _ := call(t, s, http.MethodPost, "/v1/subscription_items/"+o.item+"/usage_records",
			url.Values{"action": {action}, "quantity": {quantity}, "timestamp": {unix(at)}}, nil)
		return status
	}
	require.Equal(t, 200, send("set", "5", start))
	require.Equal(t, 200, send("set", "3", start))
	require.Equal(t, 200, send("increment", "4", start))
	require.EqualValues(t, 7, s.RecordTotal(o.item))
	require.Equal(t, 400, send("set", "1", start.Add(-time.Second)), "before the period")
	require.Equal(t, 400, send("set", "1", start.Add(time.Hour+time.Second)), "in the future")
	require.Equal(t, 400, send("set", "-1", start))
	require.Equal(t, 400, send("add", "1", start))

	end := time.Date(2026, 2, 28, 10, 0, 0, 0, time.UTC)
	s.Advance(end.Sub(s.Now()) + time.Minute)
	require.Equal(t, 400, send("set", "1", end.Add(-time.Second)), "a draft can't be topped up")
	require.Equal(t, 400, send("set", "1", end), "equal to the start, once there is an invoice")
	require.Equal(t, 200, send("set", "2", end.Add(time.Second)))
	_, out, _ := call(t, s, http.MethodGet, "/v1/subscription_items/"+o.item+"/usage_record_summaries", nil, nil)
	var totals []float64
	for _, row := range out["data"].([]any) {
		totals = append(totals, row.(map[string]any)["total_usage"].(float64))
	}
	require.Equal(t, []float64{2, 7}, totals, "newest first")

	metered := newServer(t, nil)
	m := newShop(t, metered, false)
	status, out, _ := call(t, metered, http.MethodPost, "/v1/subscription_items/"+m.item+"/usage_records", url.Values{"quantity": {"1"}}, nil)
	require.Equal(t, 400, status)
	require.Contains(t, out["error"].(map[string]any)["message"], "not on the legacy metered billing system")
	status, _, _ = call(t, s, http.MethodPost, "/v1/subscription_items/"+o.item+"/usage_records", url.Values{"quantity": {"1"}},
		http.Header{"Stripe-Version": {"2025-03-31.basil"}})
	require.Equal(t, 404, status, "gone")
}

// TestDraftTakesMeterUsageForAnHour: the invoice of a period counts what a
// meter got of that period until it is final.
func TestDraftTakesMeterUsageForAnHour(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	end := time.Date(2026, 2, 28, 10, 0, 0, 0, time.UTC)
	send := func(value string, at time.Time) {
		status, out, _ := call(t, s, http.MethodPost, "/v1/billing/meter_events", o.use(value, "", at), nil)
		require.Equal(t, 200, status, "%v", out)
	}
	s.Advance(end.Sub(start) + 30*time.Minute)
	send("5", end.Add(-time.Minute))
	send("100", end) // of the next period
	require.Zero(t, s.Billed(o.customer))
	s.Advance(30 * time.Minute)
	require.EqualValues(t, 5, s.Billed(o.customer))
	send("7", end.Add(-2*time.Minute))
	require.EqualValues(t, 5, s.Billed(o.customer), "final: what comes later is never billed")
	s.Advance(40 * 24 * time.Hour)
	require.EqualValues(t, 105, s.Billed(o.customer))
}

// TestPeriodsKeepToTheMonth: from the 31st over a February.
func TestPeriodsKeepToTheMonth(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	var ends []string
	for range 5 {
		_, out, _ := call(t, s, http.MethodGet, "/v1/subscriptions/"+o.subscription, nil, nil)
		end := time.Unix(int64(out["current_period_end"].(float64)), 0).UTC()
		ends = append(ends, end.Format(time.DateTime))
		s.Advance(end.Sub(s.Now()))
	}
	require.Equal(t, []string{"2026-02-28 10:00:00", "2026-03-31 10:00:00", "2026-04-30 10:00:00", "2026-05-31 10:00:00", "2026-06-30 10:00:00"}, ends)

	call(t, s, http.MethodPost, "/v1/subscriptions/"+o.subscription, url.Values{"cancel_at_period_end": {"true"}}, nil)
	s.Advance(31 * 24 * time.Hour)
	_, out, _ := call(t, s, http.MethodGet, "/v1/subscriptions/"+o.subscription, nil, nil)
	require.Equal(t, "canceled", out["status"])
}

// TestTimePasses by the caller's clock too, without a request that changes
// anything. Mutation seen by it: a new subscription's end not noted.
func TestTimePasses(t *testing.T) {
	t.Parallel()
	var passed atomic.Int64
	s := newServer(t, &stripetest.Options{Now: func() time.Time { return start.Add(time.Duration(passed.Load())) }})
	o := newShop(t, s, false)
	daily := create(t, s, "/v1/prices", url.Values{"product": {o.product}, "currency": {"usd"}, "unit_amount": {"1"}, "recurring[interval]": {"day"}})
	read(t, s, "/v1/subscriptions/"+o.subscription) // nothing is due for a month
	id := create(t, s, "/v1/subscriptions", url.Values{"customer": {o.customer}, "items[0][price]": {daily}})
	for day := range 3 {
		sub := read(t, s, "/v1/subscriptions/"+id)
		require.EqualValues(t, start.AddDate(0, 0, day+1).Unix(), sub["current_period_end"])
		passed.Add(int64(24 * time.Hour))
	}
}

func TestLayouts(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	modern := http.Header{"Stripe-Version": {"2025-03-31.basil"}}
	_, old, _ := call(t, s, http.MethodGet, "/v1/subscriptions/"+o.subscription, nil, nil)
	_, fresh, _ := call(t, s, http.MethodGet, "/v1/subscriptions/"+o.subscription, nil, modern)
	item := func(sub map[string]any) map[string]any {
		return sub["items"].(map[string]any)["data"].([]any)[0].(map[string]any)
	}
	require.Contains(t, old, "current_period_end")
	require.NotContains(t, item(old), "current_period_end")
	require.NotContains(t, fresh, "current_period_end")
	require.Contains(t, item(fresh), "current_period_end")

	id := old["latest_invoice"].(string)
	_, old, _ = call(t, s, http.MethodGet, "/v1/invoices/"+id, nil, nil)
	_, fresh, _ = call(t, s, http.MethodGet, "/v1/invoices/"+id, nil, modern)
	require.Equal(t, o.subscription, old["subscription"])
	require.NotContains(t, fresh, "subscription")
	require.Equal(t, o.subscription, fresh["parent"].(map[string]any)["subscription_details"].(map[string]any)["subscription"])

	status, _, _ := call(t, s, http.MethodPost, "/v1/prices", url.Values{"product": {o.product}, "currency": {"usd"}, "unit_amount": {"1"},
		"recurring[interval]": {"month"}, "recurring[usage_type]": {"metered"}}, modern)
	require.Equal(t, 400, status, "no legacy price since 2025-03-31")
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	o := newShop(t, s, false)
	session := url.Values{"mode": {"subscription"}, "success_url": {"https://x.example"}, "line_items[0][price]": {o.flat}}
	with := func(base url.Values, key, value string) url.Values {
		out := url.Values{key: {value}}
		for k, v := range base {
			if k != key {
				out[k] = v
			}
		}
		return out
	}
	for name, tt := range map[string]struct {
		path  string
		form  url.Values
		param string
	}{
		"lookup key taken":      {"/v1/prices", nil, "lookup_key"},
		"metered with quantity": {"/v1/checkout/sessions", url.Values{"mode": {"subscription"}, "success_url": {"https://x.example"}, "line_items[0][price]": {o.metered}, "line_items[0][quantity]": {"1"}}, "line_items[0][quantity]"},
		"unknown price":         {"/v1/checkout/sessions", with(session, "line_items[0][price]", "price_x"), "line_items[0][price]"},
		"no price of once":      {"/v1/subscriptions", url.Values{"customer": {o.customer}, "items[0][price]": {o.pack(t, s)}}, "items[0][price]"},
		"payment mode":          {"/v1/checkout/sessions", with(session, "mode", "payment"), "mode"},
		"relative URL":          {"/v1/checkout/sessions", with(session, "success_url", "/welcome"), "success_url"},
		"expires too late":      {"/v1/checkout/sessions", with(session, "expires_at", unix(start.Add(25*time.Hour))), "expires_at"},
		"second active meter":   {"/v1/billing/meters", url.Values{"display_name": {"x"}, "event_name": {"calls"}, "default_aggregation[formula]": {"sum"}}, "event_name"},
		"bad metadata":          {"/v1/customers", url.Values{"metadatas[a]": {"b"}}, "metadatas"},
	} {
		form := tt.form
		if form == nil {
			form = url.Values{"product": {o.product}, "currency": {"usd"}, "unit_amount": {"1"}, "recurring[interval]": {"month"}, "lookup_key": {"key"}}
			create(t, s, tt.path, form)
		}
		status, out, _ := call(t, s, http.MethodPost, tt.path, form, nil)
		require.Equal(t, 400, status, name)
		require.Equal(t, tt.param, out["error"].(map[string]any)["param"], name)
	}
	require.ErrorIs(t, s.Pay("cs_unknown"), stripetest.ErrNotOpen)
	id := create(t, s, "/v1/checkout/sessions", session)
	s.Advance(24 * time.Hour)
	require.ErrorIs(t, s.Pay(id), stripetest.ErrNotOpen, "expired")

	status, out, _ := call(t, s, http.MethodGet, "/v1/account", nil, http.Header{"Authorization": {"Bearer sk_test_wrong1234"}})
	require.Equal(t, 401, status)
	require.NotContains(t, out["error"].(map[string]any)["message"], "wrong")
	status, _, _ = call(t, s, http.MethodGet, "/v1/balance", nil, http.Header{"Authorization": {}})
	require.Equal(t, 401, status)
}
