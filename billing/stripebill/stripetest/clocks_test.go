package stripetest_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v76"
)

// TestTestClock goes through periods of a customer on a clock with Stripe's own
// client, while the account's own time stands still.
func TestTestClock(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	api := official(s)
	o := newShop(t, s, false)
	clock, err := api.TestHelpersTestClocks.New(&stripe.TestHelpersTestClockParams{FrozenTime: stripe.Int64(start.Unix()), Name: stripe.String("leap")})
	require.NoError(t, err)
	require.Equal(t, stripe.TestHelpersTestClockStatusReady, clock.Status)
	who, err := api.Customers.New(&stripe.CustomerParams{TestClock: &clock.ID})
	require.NoError(t, err)
	require.Equal(t, clock.ID, who.TestClock.ID)
	sub, err := api.Subscriptions.New(&stripe.SubscriptionParams{Customer: &who.ID, Items: []*stripe.SubscriptionItemsParams{{Price: &o.flat}, {Price: &o.metered}}})
	require.NoError(t, err)

	send := func(value string, at time.Time) int {
		form := o.use(value, "", at)
		form.Set("payload[stripe_customer_id]", who.ID)
		status, _, _ := call(t, s, http.MethodPost, "/v1/billing/meter_events", form, nil)
		return status
	}
	advance := func(to time.Time) error {
		advancing, err := api.TestHelpersTestClocks.Advance(clock.ID, &stripe.TestHelpersTestClockAdvanceParams{FrozenTime: stripe.Int64(to.Unix())})
		if err == nil {
			require.Equal(t, stripe.TestHelpersTestClockStatusAdvancing, advancing.Status)
		}
		return err
	}
	require.Equal(t, 400, send("1", start.Add(time.Hour)), "in the clock's future")
	require.NoError(t, advance(start.Add(time.Hour)))
	require.Equal(t, 200, send("3", start.Add(time.Hour)))
	sub, err = api.Subscriptions.Get(sub.ID, nil)
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 2, 28, 10, 0, 0, 0, time.UTC).Unix(), sub.CurrentPeriodEnd)

	require.ErrorContains(t, advance(start), "after")
	require.ErrorContains(t, advance(start.AddDate(0, 3, 0)), "two intervals")
	require.NoError(t, advance(time.Date(2026, 3, 31, 11, 0, 0, 0, time.UTC)), "two intervals from the 31st end on the last of March")
	sub, err = api.Subscriptions.Get(sub.ID, nil)
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 4, 30, 10, 0, 0, 0, time.UTC).Unix(), sub.CurrentPeriodEnd)
	require.EqualValues(t, 3, s.Billed(who.ID))
	require.Equal(t, start, s.Now(), "the account's time stands")
	ready, err := api.TestHelpersTestClocks.Get(clock.ID, nil)
	require.NoError(t, err)
	require.Equal(t, stripe.TestHelpersTestClockStatusReady, ready.Status)

	// Who is on a clock is listed with it alone.
	all := api.Customers.List(&stripe.CustomerListParams{})
	require.True(t, all.Next())
	require.Equal(t, o.customer, all.Customer().ID)
	require.False(t, all.Next())
	on := api.Subscriptions.List(&stripe.SubscriptionListParams{TestClock: &clock.ID})
	require.True(t, on.Next())
	require.Equal(t, sub.ID, on.Subscription().ID)

	_, err = api.TestHelpersTestClocks.Del(clock.ID, nil)
	require.NoError(t, err)
	_, err = api.Subscriptions.Get(sub.ID, nil)
	require.ErrorContains(t, err, "No such subscription")
	_, err = api.Customers.Get(who.ID, nil)
	require.ErrorContains(t, err, "No such customer")
	status, _, _ := call(t, s, http.MethodGet, "/v1/subscriptions/"+o.subscription, nil, nil)
	require.Equal(t, 200, status)
	status, _, _ = call(t, s, http.MethodPost, "/v1/customers", url.Values{"test_clock": {clock.ID}}, nil)
	require.Equal(t, 400, status)
}

// TestTestClockAlone may go two years at once.
func TestTestClockAlone(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	clock := create(t, s, "/v1/test_helpers/test_clocks", url.Values{"frozen_time": {unix(start)}})
	status, _, _ := call(t, s, http.MethodPost, "/v1/test_helpers/test_clocks/"+clock+"/advance", url.Values{"frozen_time": {unix(start.AddDate(2, 0, 0).Add(time.Second))}}, nil)
	require.Equal(t, 400, status)
	create(t, s, "/v1/test_helpers/test_clocks/"+clock+"/advance", url.Values{"frozen_time": {unix(start.AddDate(2, 0, 0))}})
	_, out, _ := call(t, s, http.MethodGet, "/v1/test_helpers/test_clocks", nil, nil)
	require.Len(t, out["data"], 1)
}

// TestSummaryLagAtRunTime: the lag that was in force when an event came is its
// own, by its customer's clock.
func TestSummaryLagAtRunTime(t *testing.T) {
	t.Parallel()
	s := newServer(t, &stripetest.Options{})
	o := newShop(t, s, false)
	send := func(identifier string) {
		status, out, _ := call(t, s, http.MethodPost, "/v1/billing/meter_events", o.use("1", identifier, start), nil)
		require.Equal(t, 200, status, "%v", out)
	}
	seen := func() any {
		q := url.Values{"customer": {o.customer}, "start_time": {unix(start)}, "end_time": {unix(start.Add(time.Minute))}}
		_, out, _ := call(t, s, http.MethodGet, "/v1/billing/meters/"+o.meter+"/event_summaries?"+q.Encode(), nil, nil)
		if rows := out["data"].([]any); len(rows) > 0 {
			return rows[0].(map[string]any)["aggregated_value"]
		}
		return nil
	}
	send("a")
	require.EqualValues(t, 1, seen())
	s.SetSummaryLag(30 * time.Minute)
	send("b")
	s.SetSummaryLag(0)
	send("c")
	require.EqualValues(t, 2, seen())
	s.Advance(30*time.Minute - time.Second)
	require.EqualValues(t, 2, seen())
	s.Advance(time.Second)
	require.EqualValues(t, 3, seen())
}
