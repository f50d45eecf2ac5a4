package stripebill_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
)

const batch = "0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5b"

func delivery(target billing.Target, quantity int64, slot time.Time) billing.Delivery {
	return billing.Delivery{
		ID: batch, Target: target, Quantity: quantity, Slot: slot,
		PeriodStart: start, PeriodEnd: time.Date(2026, 2, 28, 10, 0, 0, 0, time.UTC),
		IdempotencyKey: "mcpsaas:" + batch + ":0",
	}
}

// TestReportClassifies has every way in which a report can fail, in both
// modes: what the receipt says, and what Stripe has counted in truth.
//
// Mutations seen by it: duplicate_meter_event not recognised (duplicate
// identifier), NewEpoch not set (saved 500), 409 read as a refusal (conflict),
// any 200 read as success (foreign), any error read as Unknown (refused).
func TestReportClassifies(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		fault    stripetest.FaultKind
		want     billing.Result
		newEpoch bool
		waits    bool
		counted  bool
	}{
		"no fault":              {fault: stripetest.Slow, want: billing.Accepted, counted: true},
		"dropped before":        {fault: stripetest.DropBefore, want: billing.Unknown},
		"dropped after":         {fault: stripetest.DropAfter, want: billing.Unknown, counted: true},
		"saved 500, not done":   {fault: stripetest.Error500Before, want: billing.Unknown, newEpoch: true},
		"saved 500, done":       {fault: stripetest.Error500After, want: billing.Unknown, newEpoch: true, counted: true},
		"503":                   {fault: stripetest.Unavailable, want: billing.Unknown, newEpoch: true},
		"502 in HTML":           {fault: stripetest.BadGateway, want: billing.Unknown},
		"truncated 200":         {fault: stripetest.Truncated, want: billing.Unknown, counted: true},
		"empty 200":             {fault: stripetest.Empty, want: billing.Unknown, counted: true},
		"somebody else's 200":   {fault: stripetest.Foreign, want: billing.Unknown},
		"302":                   {fault: stripetest.Redirected, want: billing.Unknown},
		"409 key in use":        {fault: stripetest.Conflict, want: billing.Unknown, waits: true},
		"429 rate limit":        {fault: stripetest.RateLimited, want: billing.NotApplied, waits: true},
		"429 lock timeout":      {fault: stripetest.LockTimeout, want: billing.NotApplied, waits: true},
		"401":                   {fault: stripetest.Unauthorized, want: billing.Unauthorized},
		"403":                   {fault: stripetest.Forbidden, want: billing.Unauthorized},
		"400":                   {fault: stripetest.Refused, want: billing.Rejected},
		"400 key of other form": {fault: stripetest.KeyReused, want: billing.Unknown, newEpoch: true},
	} {
		for _, mode := range []billing.Mode{billing.ModeMeter, billing.ModeUsageRecord} {
			t.Run(name+"/"+string(mode), func(t *testing.T) {
				t.Parallel()
				w := setup(t, nil)
				target := w.sell(t, mode)
				w.stripe.Advance(time.Hour)
				reporter := stripebill.NewReporter(w.client, nil)
				w.stripe.Inject(stripetest.Fault{Kind: tt.fault, Method: "POST"})

				d := delivery(target, 7, start.Add(10*time.Minute))
				got, err := reporter.Report(t.Context(), d)
				require.NoError(t, err)
				require.Equal(t, tt.want, got.Result, got.Reason)
				require.Equal(t, tt.newEpoch, got.NewEpoch)
				require.Equal(t, tt.waits, got.RetryAfter > 0)
				require.NotContains(t, got.Reason, "127.0.0.1")
				require.NotContains(t, got.Reason, w.stripe.SecretKey)
				if got.Result != billing.Accepted {
					require.NotEmpty(t, got.Reason)
				}
				if tt.counted {
					require.EqualValues(t, 7, w.counted(target))
				} else {
					require.Zero(t, w.counted(target))
				}

				// Whatever happened, the same delivery again ends in 7, unless
				// the refusal was final. Under the same key a saved 500 would
				// come back for a day.
				if got.Result == billing.Rejected {
					return
				}
				if got.NewEpoch {
					d.IdempotencyKey += "1"
				}
				again, err := reporter.Report(t.Context(), d)
				require.NoError(t, err)
				require.Contains(t, []billing.Result{billing.Accepted, billing.AlreadyAccepted}, again.Result, again.Reason)
				require.EqualValues(t, 7, w.counted(target))
			})
		}
	}
}

// sell makes a customer whose usage goes by mode.
func (w world) sell(t *testing.T, mode billing.Mode) billing.Target {
	t.Helper()
	if mode == billing.ModeUsageRecord {
		return w.sellLegacy(t)
	}
	return w.sellPro(t)
}

// counted is what the account has of a target, whatever it has answered.
func (w world) counted(target billing.Target) int64 {
	if target.Mode == billing.ModeInvoiceItem {
		var items struct{ Data []struct{ Quantity int64 } }
		if err := w.call(context.Background(), http.MethodGet, "/v1/invoiceitems?limit=100&customer="+target.Customer, "", &items); err != nil {
			return -1
		}
		var sum int64
		for _, o := range items.Data {
			sum += o.Quantity
		}
		return sum
	}
	if target.Mode == billing.ModeUsageRecord {
		return w.stripe.RecordTotal(target.Item)
	}
	return w.stripe.UsageTotal(target.Customer, target.Meter)
}

func TestReportSavedFailureIsReplayed(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	target := w.sellPro(t)
	reporter := stripebill.NewReporter(w.client, nil)
	w.stripe.Inject(stripetest.Fault{Kind: stripetest.Error500Before, Method: "POST"})
	d := delivery(target, 7, start)
	for range 2 { // the second is no fault: it is Stripe's memory
		got, err := reporter.Report(t.Context(), d)
		require.NoError(t, err)
		require.Equal(t, billing.Unknown, got.Result)
		require.True(t, got.NewEpoch)
	}
	d.IdempotencyKey += "1"
	got, err := reporter.Report(t.Context(), d)
	require.NoError(t, err)
	require.Equal(t, billing.Accepted, got.Result)
	require.True(t, strings.HasPrefix(got.RequestID, "req_"))
}

// TestReportTwice: within the day the key answers, after it the identifier is
// forgotten, which is why the worker verifies first. A usage record overwrites
// at any age.
func TestReportTwice(t *testing.T) {
	t.Parallel()
	for _, mode := range []billing.Mode{billing.ModeMeter, billing.ModeUsageRecord} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			w := setup(t, nil)
			target := w.sell(t, mode)
			reporter := stripebill.NewReporter(w.client, nil)
			d := delivery(target, 7, start)
			report := func() billing.Result {
				got, err := reporter.Report(t.Context(), d)
				require.NoError(t, err)
				return got.Result
			}
			require.Equal(t, billing.Accepted, report())
			require.Equal(t, billing.AlreadyAccepted, report(), "the key is known")
			d.IdempotencyKey = "mcpsaas:" + batch + ":1"
			if mode == billing.ModeMeter {
				require.Equal(t, billing.AlreadyAccepted, report(), "the identifier is known")
			} else {
				require.Equal(t, billing.Accepted, report(), "set again")
			}
			require.EqualValues(t, 7, w.counted(target))

			w.stripe.Advance(25 * time.Hour)
			require.Equal(t, billing.Accepted, report())
			if mode == billing.ModeMeter {
				require.EqualValues(t, 14, w.counted(target), "what Caps.DedupeWindow warns of")
			} else {
				require.EqualValues(t, 7, w.counted(target))
			}
		})
	}
}

func TestReportRefusesWhatCanNeverBeTaken(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	meter := w.sellPro(t)
	reporter := stripebill.NewReporter(w.client, nil)
	before := w.stripe.Requests("POST /v1/billing/meter_events")
	for name, spoil := range map[string]func(*billing.Delivery){
		"negative":          func(d *billing.Delivery) { d.Quantity = -1 },
		"sixteen digits":    func(d *billing.Delivery) { d.Quantity = 1_000_000_000_000_000 },
		"no slot":           func(d *billing.Delivery) { d.Slot = time.Time{} },
		"no identifier":     func(d *billing.Delivery) { d.ID = "" },
		"long identifier":   func(d *billing.Delivery) { d.ID = strings.Repeat("x", 101) },
		"long key":          func(d *billing.Delivery) { d.IdempotencyKey = strings.Repeat("x", 256) },
		"customer is a URL": func(d *billing.Delivery) { d.Target.Customer = "cus_/../x" },
		"no meter":          func(d *billing.Delivery) { d.Target.Meter = "" },
		"item is a path": func(d *billing.Delivery) {
			d.Target.Mode, d.Target.Item = billing.ModeUsageRecord, "si_1/../../customers"
		},
	} {
		d := delivery(meter, 7, start)
		spoil(&d)
		got, err := reporter.Report(t.Context(), d)
		require.NoError(t, err, name)
		require.Equal(t, billing.Rejected, got.Result, name)
		require.NotEmpty(t, got.Reason, name)
	}
	require.Equal(t, before, w.stripe.Requests("POST /v1/billing/meter_events"))

	d := delivery(meter, 7, start)
	d.Target.Provider = "openmeter"
	_, err := reporter.Report(t.Context(), d)
	require.ErrorContains(t, err, "openmeter")
	d = delivery(meter, 7, start)
	d.Target.Mode = "guess"
	_, err = reporter.Report(t.Context(), d)
	require.ErrorContains(t, err, "guess")
}

func TestReportAtTheEdgesOfTime(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	meter := w.sellPro(t)
	w.stripe.Advance(40 * 24 * time.Hour) // into the second period
	now := w.stripe.Now()
	reporter := stripebill.NewReporter(w.client, nil)
	for name, tt := range map[string]struct {
		slot time.Time
		want billing.Result
	}{
		"35 days old":        {now.Add(-35 * 24 * time.Hour), billing.Accepted},
		"older":              {now.Add(-35*24*time.Hour - time.Second), billing.Rejected},
		"5 minutes ahead":    {now.Add(5 * time.Minute), billing.Accepted},
		"further ahead":      {now.Add(5*time.Minute + time.Second), billing.NotApplied},
		"oldest by our caps": {now.Add(-reporter.Caps(meter).MaxAge), billing.Accepted},
		"newest by our caps": {now.Add(reporter.Caps(meter).MaxFuture), billing.Accepted},
	} {
		d := delivery(meter, 1, tt.slot)
		d.ID, d.IdempotencyKey = name, name
		got, err := reporter.Report(t.Context(), d)
		require.NoError(t, err, name)
		require.Equal(t, tt.want, got.Result, "%s: %s", name, got.Reason)
	}
}

func TestReportToAClosedPeriod(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	legacy := w.sellLegacy(t)
	w.stripe.Advance(29 * 24 * time.Hour)
	got, err := stripebill.NewReporter(w.client, nil).Report(t.Context(), delivery(legacy, 7, start.Add(time.Hour)))
	require.NoError(t, err)
	require.Equal(t, billing.Rejected, got.Result)
	require.Contains(t, got.Reason, "last invoice period")
	require.Zero(t, w.counted(legacy))
}

func TestReportCancelled(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	meter := w.sellPro(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got, err := stripebill.NewReporter(w.client, nil).Report(ctx, delivery(meter, 7, start))
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, billing.Unknown, got.Result)
}

// TestVerify has the truth table of both modes. Mutation seen by it: Absent
// and Present swapped; WindowConfirmed ignored; WindowUnproved ignored.
func TestVerify(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		mode      billing.Mode
		sent      int64 // of this delivery's slot
		beside    int64 // at another slot of the minute
		other     int64 // at another slot of the period
		confirmed int64
		unproved  bool
		want      billing.Presence
	}{
		"meter present":     {mode: billing.ModeMeter, sent: 7, want: billing.Present},
		"meter absent":      {mode: billing.ModeMeter, want: billing.Absent},
		"meter other slot":  {mode: billing.ModeMeter, other: 7, want: billing.Absent},
		"meter half":        {mode: billing.ModeMeter, sent: 3, want: billing.Ambiguous},
		"meter beside":      {mode: billing.ModeMeter, sent: 7, beside: 5, other: 9, confirmed: 5, want: billing.Present},
		"meter missing":     {mode: billing.ModeMeter, beside: 7, other: 9, confirmed: 7, want: billing.Absent},
		"meter of unknown":  {mode: billing.ModeMeter, sent: 7, beside: 5, want: billing.Ambiguous},
		"meter of doubt":    {mode: billing.ModeMeter, beside: 7, unproved: true, want: billing.Ambiguous},
		"meter no doubt":    {mode: billing.ModeMeter, beside: 7, confirmed: 7, unproved: true, want: billing.Absent},
		"record of doubt":   {mode: billing.ModeUsageRecord, other: 7, unproved: true, want: billing.Ambiguous},
		"record present":    {mode: billing.ModeUsageRecord, sent: 7, want: billing.Present},
		"record absent":     {mode: billing.ModeUsageRecord, want: billing.Absent},
		"record beside":     {mode: billing.ModeUsageRecord, sent: 7, other: 5, confirmed: 5, want: billing.Present},
		"record missing":    {mode: billing.ModeUsageRecord, other: 5, confirmed: 5, want: billing.Absent},
		"record of unknown": {mode: billing.ModeUsageRecord, sent: 7, other: 5, want: billing.Ambiguous},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, nil)
			target := w.sell(t, tt.mode)
			w.stripe.Advance(time.Hour)
			reporter := stripebill.NewReporter(w.client, nil)
			slot := start.Add(10 * time.Minute)
			for at, quantity := range map[time.Time]int64{slot: tt.sent, slot.Add(time.Second): tt.beside, slot.Add(time.Minute): tt.other} {
				if quantity == 0 {
					continue
				}
				d := delivery(target, quantity, at)
				d.ID, d.IdempotencyKey = at.String(), at.String()
				got, err := reporter.Report(t.Context(), d)
				require.NoError(t, err)
				require.Equal(t, billing.Accepted, got.Result, got.Reason)
			}
			d := delivery(target, 7, slot)
			d.WindowConfirmed, d.WindowUnproved = tt.confirmed, tt.unproved
			got, err := reporter.Verify(t.Context(), d)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)

			// The totals of a period stay readable after its end.
			w.stripe.Advance(40 * 24 * time.Hour)
			got, err = reporter.Verify(t.Context(), d)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)

			total, err := w.client.UsageTotal(t.Context(), target, d.PeriodStart, d.PeriodEnd)
			require.NoError(t, err)
			require.Equal(t, tt.sent+tt.beside+tt.other, total)
		})
	}
}

func TestVerifyWaitsForTheSummaries(t *testing.T) {
	t.Parallel()
	w := setup(t, &stripetest.Options{SummaryLag: 10 * time.Minute})
	meter := w.sellPro(t)
	reporter := stripebill.NewReporter(w.client, nil)
	d := delivery(meter, 7, start)
	_, err := reporter.Report(t.Context(), d)
	require.NoError(t, err)
	got, err := reporter.Verify(t.Context(), d)
	require.NoError(t, err)
	require.Equal(t, billing.Absent, got, "why the worker must wait for Caps.VerifyLag")

	w.stripe.Advance(reporter.Caps(meter).VerifyLag)
	got, err = reporter.Verify(t.Context(), d)
	require.NoError(t, err)
	require.Equal(t, billing.Present, got)
}

func TestVerifyFailures(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	meter := w.sellPro(t)
	reporter := stripebill.NewReporter(w.client, nil)
	for _, kind := range []stripetest.FaultKind{stripetest.DropBefore, stripetest.Foreign, stripetest.Truncated, stripetest.Unauthorized} {
		w.stripe.Inject(stripetest.Fault{Kind: kind})
		got, err := reporter.Verify(t.Context(), delivery(meter, 7, start))
		require.Error(t, err)
		require.Equal(t, billing.Ambiguous, got)
	}
}

func TestCaps(t *testing.T) {
	t.Parallel()
	live, err := stripebill.New("sk_live_abc", nil)
	require.NoError(t, err)
	test, err := stripebill.New("rk_test_abc", nil)
	require.NoError(t, err)
	meter, record := billing.Target{Mode: billing.ModeMeter}, billing.Target{Mode: billing.ModeUsageRecord}

	require.EqualValues(t, 800, stripebill.NewReporter(live, nil).Caps(meter).MaxPerSecond)
	require.EqualValues(t, 20, stripebill.NewReporter(live, nil).Caps(record).MaxPerSecond)
	require.EqualValues(t, 20, stripebill.NewReporter(test, nil).Caps(meter).MaxPerSecond)
	bound := stripebill.NewReporter(test, &stripebill.ReporterOptions{MaxPerSecond: 5, VerifyLag: -1}).Caps(meter)
	require.EqualValues(t, 5, bound.MaxPerSecond)
	require.Zero(t, bound.VerifyLag)
	require.Zero(t, stripebill.NewReporter(test, &stripebill.ReporterOptions{MaxPerSecond: -1}).Caps(meter).MaxPerSecond)

	caps := stripebill.NewReporter(live, nil).Caps(meter)
	require.Less(t, caps.DedupeWindow, 24*time.Hour)
	require.False(t, caps.Overwrite)
	require.Equal(t, time.Second, caps.SlotGranularity)
	require.Equal(t, time.Minute, caps.VerifyWindow)
	caps = stripebill.NewReporter(live, nil).Caps(record)
	require.True(t, caps.Overwrite)
	require.Equal(t, time.Second, caps.SlotGranularity)
	require.Zero(t, caps.VerifyWindow)
	require.Zero(t, caps.LateGrace)
	caps = stripebill.NewReporter(live, nil).Caps(billing.Target{Mode: billing.ModeUsageRecord, Additive: true})
	require.False(t, caps.Overwrite)
	require.True(t, caps.KeyOnly)
	require.Less(t, caps.DedupeWindow, 24*time.Hour)
	require.Zero(t, caps.VoidWindow)
	caps = stripebill.NewReporter(live, nil).Caps(billing.Target{Mode: billing.ModeInvoiceItem})
	require.True(t, caps.KeyOnly)
	require.Less(t, caps.DedupeWindow, 24*time.Hour)
	require.Less(t, 3*caps.MaxPerSecond, 25.0, "what a sandbox takes")
}

// TestThresholds: a subscription that gets billing thresholds refuses what it
// took before, for as long as its webhook is on its way; then usage is added,
// under one key, and stays.
func TestThresholds(t *testing.T) {
	t.Parallel()
	for name, form := range map[string]string{
		"of the subscription": "billing_thresholds[amount_gte]=99999999",
		"of an item":          "items[0][billing_thresholds][usage_gte]=99999999&items[0][price]=",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, nil)
			target := w.sellLegacy(t)
			require.False(t, target.Additive)
			reporter := stripebill.NewReporter(w.client, nil)
			sub := w.rawObject(t, http.MethodGet, "/v1/subscription_items/"+target.Item, "")["subscription"].(string)
			if strings.HasSuffix(form, "=") { // of another item than ours
				product := w.rawObject(t, http.MethodPost, "/v1/products", "name=Other")["id"].(string)
				form += w.rawObject(t, http.MethodPost, "/v1/prices",
					"currency=usd&unit_amount=1&recurring[interval]=month&recurring[usage_type]=metered&product="+product)["id"].(string)
			}
			w.rawObject(t, http.MethodPost, "/v1/subscriptions/"+sub, form)
			d := delivery(target, 7, start)
			got, err := reporter.Report(t.Context(), d)
			require.NoError(t, err)
			require.Equal(t, billing.NotApplied, got.Result, got.Reason)
			require.Equal(t, time.Minute, got.RetryAfter)

			d.Target = w.fetch(t, "customer.subscription.updated", sub).Subscription.Targets[0]
			require.True(t, d.Target.Additive)
			for range 2 {
				got, err = reporter.Report(t.Context(), d)
				require.NoError(t, err)
				require.Contains(t, []billing.Result{billing.Accepted, billing.AlreadyAccepted}, got.Result, got.Reason)
				require.EqualValues(t, 7, w.counted(target))
			}
			void, err := reporter.Void(t.Context(), d)
			require.NoError(t, err)
			require.Equal(t, billing.Rejected, void.Result)
			require.EqualValues(t, 7, w.counted(target))
		})
	}
}
