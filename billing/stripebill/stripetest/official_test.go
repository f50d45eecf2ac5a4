package stripetest_test

import (
	"errors"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v76"
)

func unix(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

// TestOfficialClient walks the whole road with Stripe's own Go client and its
// own types: what it sends is understood, and what it gets it can read.
func TestOfficialClient(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	api := official(s)

	product, err := api.Products.New(&stripe.ProductParams{ID: stripe.String("pro"), Name: stripe.String("Pro")})
	require.NoError(t, err)
	require.True(t, product.Active)
	meter, err := api.BillingMeters.New(&stripe.BillingMeterParams{
		DisplayName: stripe.String("Calls"), EventName: stripe.String("calls"),
		DefaultAggregation: &stripe.BillingMeterDefaultAggregationParams{Formula: stripe.String("sum")},
	})
	require.NoError(t, err)
	require.Equal(t, stripe.BillingMeterStatusActive, meter.Status)
	flat, err := api.Prices.New(&stripe.PriceParams{
		Product: &product.ID, Currency: stripe.String("usd"), UnitAmount: stripe.Int64(4900), LookupKey: stripe.String("pro"),
		Recurring: &stripe.PriceRecurringParams{Interval: stripe.String("month")},
	})
	require.NoError(t, err)
	require.EqualValues(t, 4900, flat.UnitAmount)
	usage, err := api.Prices.New(&stripe.PriceParams{
		Product: &product.ID, Currency: stripe.String("usd"), UnitAmountDecimal: stripe.Float64(0.1),
		Recurring: &stripe.PriceRecurringParams{Interval: stripe.String("month"), UsageType: stripe.String("metered"), Meter: &meter.ID},
	})
	require.NoError(t, err)
	require.Equal(t, meter.ID, usage.Recurring.Meter)
	found := api.Prices.List(&stripe.PriceListParams{LookupKeys: []*string{stripe.String("pro")}})
	require.True(t, found.Next())
	require.Equal(t, flat.ID, found.Price().ID)
	require.False(t, found.Next())
	require.NoError(t, found.Err())

	session, err := api.CheckoutSessions.New(&stripe.CheckoutSessionParams{
		Mode: stripe.String("subscription"), SuccessURL: stripe.String("https://shop.example/?id={CHECKOUT_SESSION_ID}"),
		ClientReferenceID: stripe.String("tenant"),
		LineItems: []*stripe.CheckoutSessionLineItemParams{
			{Price: &flat.ID, Quantity: stripe.Int64(1)}, {Price: &usage.ID},
		},
		SubscriptionData: &stripe.CheckoutSessionSubscriptionDataParams{Metadata: map[string]string{"tenant_id": "tenant"}},
	})
	require.NoError(t, err)
	require.Equal(t, stripe.CheckoutSessionStatusOpen, session.Status)
	require.NoError(t, s.Pay(session.ID))
	session, err = api.CheckoutSessions.Get(session.ID, nil)
	require.NoError(t, err)
	require.Equal(t, stripe.CheckoutSessionPaymentStatusPaid, session.PaymentStatus)

	sub, err := api.Subscriptions.Get(session.Subscription.ID, nil)
	require.NoError(t, err)
	require.Equal(t, stripe.SubscriptionStatusActive, sub.Status)
	require.Equal(t, map[string]string{"tenant_id": "tenant"}, sub.Metadata)
	require.Equal(t, time.Date(2026, 2, 28, 10, 0, 0, 0, time.UTC).Unix(), sub.CurrentPeriodEnd)
	require.Len(t, sub.Items.Data, 2)

	_, err = api.BillingMeterEvents.New(&stripe.BillingMeterEventParams{
		EventName: stripe.String("calls"), Identifier: stripe.String("one"), Timestamp: stripe.Int64(start.Unix()),
		Payload: map[string]string{"stripe_customer_id": sub.Customer.ID, "value": "7"},
	})
	require.NoError(t, err)
	sums := api.BillingMeterEventSummaries.List(&stripe.BillingMeterEventSummaryListParams{
		ID: &meter.ID, Customer: &sub.Customer.ID, StartTime: stripe.Int64(start.Unix()), EndTime: stripe.Int64(start.Unix() + 60),
	})
	require.True(t, sums.Next())
	require.EqualValues(t, 7, sums.BillingMeterEventSummary().AggregatedValue)

	upcoming, err := api.Invoices.Upcoming(&stripe.InvoiceUpcomingParams{Customer: &sub.Customer.ID})
	require.NoError(t, err)
	require.EqualValues(t, 4901, upcoming.Total, "0.7 of a cent is one")

	portal, err := api.BillingPortalSessions.New(&stripe.BillingPortalSessionParams{Customer: &sub.Customer.ID, ReturnURL: stripe.String("https://shop.example")})
	require.NoError(t, err)
	require.NotEmpty(t, portal.URL)

	sub, err = api.Subscriptions.Update(sub.ID, &stripe.SubscriptionParams{CancelAtPeriodEnd: stripe.Bool(true)})
	require.NoError(t, err)
	require.True(t, sub.CancelAtPeriodEnd)
	s.Advance(time.Minute)
	sub, err = api.Subscriptions.Cancel(sub.ID, &stripe.SubscriptionCancelParams{InvoiceNow: stripe.Bool(true)})
	require.NoError(t, err)
	require.Equal(t, stripe.SubscriptionStatusCanceled, sub.Status)
	require.EqualValues(t, 7, s.Billed(sub.Customer.ID))

	events := api.Events.List(&stripe.EventListParams{Types: []*string{stripe.String("checkout.session.completed")}})
	require.True(t, events.Next())
	require.Equal(t, "tenant", events.Event().GetObjectValue("client_reference_id"))
	invoices := api.Invoices.List(&stripe.InvoiceListParams{Customer: &sub.Customer.ID})
	count := 0
	for invoices.Next() {
		require.True(t, invoices.Invoice().Paid)
		count++
	}
	require.NoError(t, invoices.Err())
	require.Equal(t, 2, count)
}

func TestOfficialClientUsageRecords(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	api := official(s)
	o := newShop(t, s, true)
	for _, quantity := range []int64{3, 7} {
		record, err := api.UsageRecords.New(&stripe.UsageRecordParams{
			SubscriptionItem: &o.item, Quantity: &quantity, Timestamp: stripe.Int64(start.Unix()), Action: stripe.String("set")})
		require.NoError(t, err)
		require.Equal(t, quantity, record.Quantity)
	}
	sums := api.UsageRecordSummaries.List(&stripe.UsageRecordSummaryListParams{SubscriptionItem: &o.item})
	require.True(t, sums.Next())
	require.EqualValues(t, 7, sums.UsageRecordSummary().TotalUsage)
	require.Equal(t, start.Unix(), sums.UsageRecordSummary().Period.Start)
}

func TestOfficialClientErrors(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	api := official(s)
	refusal := func(err error) *stripe.Error {
		t.Helper()
		var refused *stripe.Error
		require.True(t, errors.As(err, &refused), "%v", err)
		require.NotEmpty(t, refused.RequestID)
		return refused
	}
	_, err := api.Subscriptions.Get("sub_unknown", nil)
	require.Equal(t, http.StatusNotFound, refusal(err).HTTPStatusCode)
	require.Equal(t, stripe.ErrorCodeResourceMissing, refusal(err).Code)
	_, err = api.Prices.New(&stripe.PriceParams{Currency: stripe.String("usd")})
	require.Equal(t, stripe.ErrorCodeParameterMissing, refusal(err).Code)
	_, err = api.Payouts.Get("po_1", nil)
	require.Equal(t, http.StatusNotFound, refusal(err).HTTPStatusCode)
	require.Contains(t, refusal(err).Msg, "Unrecognized request URL")
	params := &stripe.CustomerParams{}
	params.AddExtra("emial", "ada@example.com")
	_, err = api.Customers.New(params)
	require.Equal(t, stripe.ErrorCodeParameterUnknown, refusal(err).Code)
	require.Equal(t, "emial", refusal(err).Param)
}

func TestOfficialClientPages(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	api := official(s)
	const n = 25
	var made []string
	for range n {
		c, err := api.Customers.New(&stripe.CustomerParams{Email: stripe.String("ada@example.com")})
		require.NoError(t, err)
		made = append([]string{c.ID}, made...)
	}
	var listed []string
	iter := api.Customers.List(&stripe.CustomerListParams{})
	for iter.Next() {
		listed = append(listed, iter.Customer().ID)
	}
	require.NoError(t, iter.Err())
	require.Equal(t, made, listed, "newest first, over three pages")

	params := &stripe.CustomerListParams{}
	params.EndingBefore = stripe.String(made[5])
	params.Limit = stripe.Int64(3)
	params.Single = true
	iter = api.Customers.List(params)
	var before []string
	for iter.Next() {
		before = append(before, iter.Customer().ID)
	}
	require.ElementsMatch(t, made[2:5], before)
}
