package cloudevents_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/billing/cloudevents"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var start = time.Date(2026, 3, 10, 9, 17, 23, 0, time.UTC)

func target() billing.Target {
	return billing.Target{
		Tenant: tenant.NewID(), Provider: cloudevents.Provider, Mode: billing.ModeMeter,
		Customer: "cus_1", Meter: "calls", MeterID: "tool_calls",
	}
}

// TestReporterConforms: with totals, and without.
//
// Seen failing when the id of an event is drawn anew at each send (repetitions),
// when 5xx counts as a refusal ("500 after"), when Verify leaves WindowConfirmed or
// WindowUnproved out of account, when DedupeWindow is 33 days (the repetition at
// its end), and when a lost connection counts as not applied ("drop after").
func TestReporterConforms(t *testing.T) {
	t.Parallel()
	for name, totals := range map[string]bool{"totals": true, "no totals": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			billingtest.TestReporter(t, func(t *testing.T) billingtest.Fixture {
				clock := billingtest.NewClock(start)
				o := newOpenMeter(t, clock.Now)
				opts := &cloudevents.Options{Token: token}
				if totals {
					opts.Meters = o.URL + "/api/v1/meters/"
				}
				r, err := cloudevents.New(o.URL+"/api/v1/events", opts)
				require.NoError(t, err)
				to := target()
				from, until := start.Add(-time.Hour), start.AddDate(0, 0, 40)
				return billingtest.Fixture{
					Reporter: r, Target: to, PeriodStart: from, PeriodEnd: until,
					Now: clock.Now, Advance: clock.Advance, Fail: o.fail, Cut: o.Close,
					Billed: func() int64 { return o.billed(to.Customer, from, until) },
				}
			})
		})
	}
}

func delivery() billing.Delivery {
	return billing.Delivery{
		ID: tenant.NewID().String(), Target: target(), Quantity: 17, Slot: start,
		PeriodStart: start.Add(-time.Hour), PeriodEnd: start.AddDate(0, 1, 0),
	}
}

// TestEvent: what is sent is a CloudEvent in JSON, and the same each time.
func TestEvent(t *testing.T) {
	t.Parallel()
	o := newOpenMeter(t, time.Now)
	r, err := cloudevents.New(o.URL+"/api/v1/events", &cloudevents.Options{Token: token, Source: "shop"})
	require.NoError(t, err)
	d := delivery()
	_, err = r.Report(t.Context(), d)
	require.NoError(t, err)
	req, first := o.sent()
	require.Equal(t, "application/cloudevents+json", req.Header.Get("Content-Type"))
	want := map[string]any{
		"specversion": "1.0", "id": d.ID, "source": "shop", "type": "calls", "subject": "cus_1",
		"time": "2026-03-10T09:17:23Z", "datacontenttype": "application/json",
		"data": map[string]any{
			"units": 17, "tenant": d.Target.Tenant.String(),
			"period_start": "2026-03-10T08:17:23Z", "period_end": "2026-04-10T09:17:23Z",
		},
	}
	text, err := json.Marshal(want)
	require.NoError(t, err)
	require.JSONEq(t, string(text), first)
	d.FirstSent, d.IdempotencyKey = start, "another"
	_, err = r.Report(t.Context(), d)
	require.NoError(t, err)
	_, second := o.sent()
	require.Equal(t, first, second)
}

// TestAnswers: what each answer proves. Only a status in 4xx proves that nothing
// was applied, and only one about the event that it never will be.
func TestAnswers(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		status int
		header map[string]string
		opts   cloudevents.Options
		want   billing.Result
		wait   time.Duration
	}{
		"200":                {status: 200, want: billing.Accepted},
		"201":                {status: 201, want: billing.Accepted},
		"202":                {status: 202, want: billing.Accepted},
		"204":                {status: 204, want: billing.Accepted},
		"206":                {status: 206, want: billing.Unknown},
		"a proxy's page":     {status: 200, header: map[string]string{"Content-Type": "text/html; charset=utf-8"}, want: billing.Unknown},
		"redirect":           {status: 302, header: map[string]string{"Location": "/login"}, want: billing.Unknown},
		"400":                {status: 400, want: billing.Rejected},
		"413":                {status: 413, want: billing.Rejected},
		"422":                {status: 422, want: billing.Rejected},
		"401":                {status: 401, want: billing.Unauthorized},
		"403":                {status: 403, want: billing.Unauthorized},
		"404":                {status: 404, want: billing.NotApplied, wait: time.Minute},
		"405":                {status: 405, want: billing.NotApplied, wait: time.Minute},
		"408":                {status: 408, want: billing.Unknown, wait: 2 * time.Second},
		"409":                {status: 409, want: billing.Unknown, wait: 2 * time.Second},
		"409 is a duplicate": {status: 409, opts: cloudevents.Options{Duplicate: 409}, want: billing.AlreadyAccepted},
		"429":                {status: 429, want: billing.NotApplied, wait: time.Second},
		"429 with a time":    {status: 429, header: map[string]string{"Retry-After": "90"}, want: billing.NotApplied, wait: 90 * time.Second},
		"429 for ever":       {status: 429, header: map[string]string{"Retry-After": "99999999999"}, want: billing.NotApplied, wait: time.Hour},
		"429 in no seconds":  {status: 429, header: map[string]string{"Retry-After": "Wed, 11 Mar 2026 09:00:00 GMT"}, want: billing.NotApplied, wait: time.Second},
		"500":                {status: 500, want: billing.Unknown},
		"503":                {status: 503, header: map[string]string{"Retry-After": "5"}, want: billing.Unknown, wait: 5 * time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for k, v := range test.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(test.status)
			}))
			defer s.Close()
			r, err := cloudevents.New(s.URL, &test.opts)
			require.NoError(t, err)
			got, err := r.Report(t.Context(), delivery())
			require.NoError(t, err)
			require.Equal(t, test.want, got.Result, got.Reason)
			require.Equal(t, test.wait, got.RetryAfter)
			settled := test.want == billing.Accepted || test.want == billing.AlreadyAccepted
			require.Equal(t, settled, got.Reason == "")
		})
	}
}

// TestNothingLeaks: no reason and no error has the address, or the token, which
// this receiver quotes in its refusal.
//
// Seen failing with the client's own error in describe, and with the words of a 401.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	o := newOpenMeter(t, time.Now)
	r, err := cloudevents.New(o.URL+"/api/v1/events", &cloudevents.Options{Token: token, Meters: o.URL + "/api/v1/meters"})
	require.NoError(t, err)
	var said []string
	for _, fault := range append(billingtest.Faults(), billingtest.Refused) {
		o.fail(fault)
		receipt, err := r.Report(t.Context(), delivery())
		require.NoError(t, err)
		said = append(said, receipt.Reason)
	}
	d := delivery()
	d.Target.MeterID = "nothing"
	_, err = r.Verify(t.Context(), d)
	require.Error(t, err)
	said = append(said, err.Error())
	o.Close()
	require.Eventually(t, func() bool { // by a connection that was open still, it is not known
		receipt, err := r.Report(t.Context(), d)
		require.NoError(t, err)
		said = append(said, receipt.Reason)
		return receipt.Result == billing.NotApplied
	}, time.Minute, time.Millisecond, "nobody was there to apply it")
	_, err = r.Verify(t.Context(), d)
	require.Error(t, err)
	all := strings.Join(append(said, err.Error()), "\n")
	require.NotContains(t, all, token)
	require.NotContains(t, all, "127.0.0.1")
	require.Contains(t, all, "no such meter", "the receiver's own words are there")
}

// TestTotals: a total that is no whole number, or no answer at all, is no verdict.
func TestTotals(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		`{"data":[{"value":16.5}]}`:    "not a whole number",
		`{"data":[{"value":1e30}]}`:    "not a whole number",
		`{"data":[{"value":null}]}`:    "not a whole number",
		`{}`:                           "unreadable answer",
		`{"data":[{"value":17}`:        "unreadable answer",
		`<html>`:                       "unreadable answer",
		`{"data":[{"value":17.0}]}`:    "",
		`{"data":[{"value":"17"}]}`:    "",
		`{"data":[{"value":1.7e1}]}`:   "",
		`{"data":[],"windowSize":"x"}`: "",
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(answer)) }))
		r, err := cloudevents.New(s.URL, &cloudevents.Options{Meters: s.URL})
		require.NoError(t, err)
		presence, err := r.Verify(t.Context(), delivery())
		s.Close()
		if want != "" {
			require.ErrorContains(t, err, want, answer)
			require.Equal(t, billing.Ambiguous, presence)
			continue
		}
		require.NoError(t, err, answer)
		require.Contains(t, []billing.Presence{billing.Present, billing.Absent}, presence)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{"", "openmeter", "ftp://x/y", "https://user:secret@x/y", "https://x/y?key=secret", "http://"} {
		_, err := cloudevents.New(endpoint, nil)
		require.ErrorContains(t, err, "endpoint")
		require.NotContains(t, err.Error(), "secret")
	}
	_, err := cloudevents.New("https://x", &cloudevents.Options{Meters: "x", Token: "a\nb", Duplicate: 200, DedupeWindow: -1})
	for _, field := range []string{"Meters", "Token", "Duplicate", "DedupeWindow"} {
		require.ErrorContains(t, err, "Options."+field)
	}
}
