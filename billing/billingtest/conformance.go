package billingtest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Fixture is a reporter under test and the provider behind it.
type Fixture struct {
	Reporter billing.Reporter

	// Target takes usage in the billing period [PeriodStart, PeriodEnd), which
	// has begun an hour or more ago and lasts three days or more.
	Target                 billing.Target
	PeriodStart, PeriodEnd time.Time

	// Now and Advance are the clock of reporter and provider.
	Now     func() time.Time
	Advance func(time.Duration)

	// Fail has the next report meet the fault.
	Fail func(Fault)

	// Billed returns what the provider would bill the target for the period,
	// without any lag.
	Billed func() int64
}

// delivery is a sealed batch of the fixture's target, as the worker would
// send it.
func (f Fixture) delivery(quantity int64) billing.Delivery {
	step := max(f.Reporter.Caps(f.Target).SlotGranularity, time.Second)
	id := tenant.NewID().String()
	return billing.Delivery{
		ID: id, Target: f.Target, Quantity: quantity, Slot: f.Now().Add(-10 * step).Truncate(step),
		PeriodStart: f.PeriodStart, PeriodEnd: f.PeriodEnd, IdempotencyKey: "test:" + id + ":1",
	}
}

// TestReporter checks that a [billing.Reporter] keeps what the pipeline relies
// on. newFixture makes a fresh provider for each part.
func TestReporter(t *testing.T, newFixture func(t *testing.T) Fixture) {
	t.Run("caps make sense", func(t *testing.T) { testCaps(t, newFixture(t)) })
	t.Run("a delivery is billed", func(t *testing.T) { testDelivery(t, newFixture(t)) })
	t.Run("a repetition is billed once", func(t *testing.T) { testRepetition(t, newFixture(t)) })
	t.Run("two slots add up", func(t *testing.T) { testTwoSlots(t, newFixture(t)) })
	for _, fault := range Faults() {
		t.Run("fault "+string(fault), func(t *testing.T) { testFault(t, newFixture(t), fault) })
		t.Run("verify after "+string(fault), func(t *testing.T) { testVerify(t, newFixture(t), fault) })
	}
	t.Run("verify among others", func(t *testing.T) { testVerifyAmong(t, newFixture(t)) })
	t.Run("verify beside a doubt", func(t *testing.T) { testVerifyDoubt(t, newFixture(t)) })
	t.Run("a refusal for good", func(t *testing.T) { testRefusal(t, newFixture(t)) })
	t.Run("a cancelled context", func(t *testing.T) { testCancelled(t, newFixture(t)) })
	t.Run("another provider's target", func(t *testing.T) { testForeign(t, newFixture(t)) })
}

func testCaps(t *testing.T, f Fixture) {
	caps := f.Reporter.Caps(f.Target)
	require.Positive(t, caps.SlotGranularity, "every batch needs a slot")
	require.True(t, caps.Overwrite || caps.DedupeWindow > 0, "no repetition is ever safe")
	require.GreaterOrEqual(t, caps.VerifyWindow, time.Duration(0))
	require.Zero(t, caps.VerifyWindow%caps.SlotGranularity, "windows must hold whole slots")
	require.GreaterOrEqual(t, caps.MaxFuture, time.Duration(0))
	require.GreaterOrEqual(t, caps.VerifyLag, time.Duration(0))
	require.GreaterOrEqual(t, caps.MaxPerSecond, 0.0)
}

func testDelivery(t *testing.T, f Fixture) {
	receipt, err := f.Reporter.Report(t.Context(), f.delivery(7))
	require.NoError(t, err)
	require.Equal(t, billing.Accepted, receipt.Result, receipt.Reason)
	require.EqualValues(t, 7, f.Billed())
}

func testRepetition(t *testing.T, f Fixture) {
	d := f.delivery(7)
	for epoch := range 4 {
		if epoch == 2 { // what the provider keeps under a key is beside the point
			d.IdempotencyKey += "x"
		}
		receipt, err := f.Reporter.Report(t.Context(), d)
		require.NoError(t, err)
		require.Contains(t, []billing.Result{billing.Accepted, billing.AlreadyAccepted}, receipt.Result, receipt.Reason)
		require.EqualValues(t, 7, f.Billed())
		d.FirstSent, d.LastSent = f.Now(), f.Now()
	}
}

func testTwoSlots(t *testing.T, f Fixture) {
	first, second := f.delivery(7), f.delivery(11)
	second.Slot = first.Slot.Add(max(f.Reporter.Caps(f.Target).SlotGranularity, time.Second))
	for _, d := range []billing.Delivery{first, second} {
		receipt, err := f.Reporter.Report(t.Context(), d)
		require.NoError(t, err)
		require.Equal(t, billing.Accepted, receipt.Result, receipt.Reason)
	}
	require.EqualValues(t, 18, f.Billed())
}

// testFault: a receipt never claims more than is true, and sending again as
// the worker does ends in one billing.
func testFault(t *testing.T, f Fixture, fault Fault) {
	d := f.delivery(7)
	f.Fail(fault)
	epoch := byte('1')
	for range 5 {
		receipt, err := f.Reporter.Report(t.Context(), d)
		require.NoError(t, err)
		switch receipt.Result {
		case billing.Accepted, billing.AlreadyAccepted:
			require.EqualValues(t, 7, f.Billed(), "accepted and not billed once")
			return
		case billing.NotApplied, billing.Unauthorized, billing.Rejected:
			require.Zero(t, f.Billed(), "said not to be applied and is billed")
		}
		require.NotEqual(t, billing.Rejected, receipt.Result, receipt.Reason)
		require.NotEmpty(t, receipt.Reason)
		if receipt.NewEpoch {
			epoch++
			d.IdempotencyKey = d.IdempotencyKey[:len(d.IdempotencyKey)-1] + string(epoch)
		}
		f.Advance(max(receipt.RetryAfter, 2*time.Second))
	}
	require.Fail(t, "five attempts did not get it through")
}

// testVerify: once the totals must show it, they tell whether it was applied.
func testVerify(t *testing.T, f Fixture, fault Fault) {
	d := f.delivery(7)
	d.FirstSent, d.LastSent = f.Now(), f.Now()
	f.Fail(fault)
	_, err := f.Reporter.Report(t.Context(), d)
	require.NoError(t, err)
	f.Advance(f.Reporter.Caps(f.Target).VerifyLag + 25*time.Hour)
	presence, err := f.Reporter.Verify(t.Context(), d)
	require.NoError(t, err)
	switch f.Billed() {
	case 7:
		require.Contains(t, []billing.Presence{billing.Present, billing.Unsupported}, presence)
	default:
		require.Contains(t, []billing.Presence{billing.Absent, billing.Unsupported}, presence)
	}
}

// window returns n deliveries at slots side by side in one window.
func (f Fixture) window(n int, quantity int64) []billing.Delivery {
	caps := f.Reporter.Caps(f.Target)
	step := max(caps.SlotGranularity, time.Second)
	if w := caps.VerifyWindow; w > 0 {
		f.Advance(f.Now().Truncate(w).Add(w).Add(10 * step).Sub(f.Now()))
	}
	all := make([]billing.Delivery, n)
	for i := range all {
		all[i] = f.delivery(quantity)
		all[i].Slot = all[i].Slot.Add(time.Duration(i) * step)
	}
	return all
}

func (f Fixture) accept(t *testing.T, deliveries ...billing.Delivery) {
	t.Helper()
	for _, d := range deliveries {
		receipt, err := f.Reporter.Report(t.Context(), d)
		require.NoError(t, err)
		require.Equal(t, billing.Accepted, receipt.Result, receipt.Reason)
	}
	f.Advance(f.Reporter.Caps(f.Target).VerifyLag)
}

// testVerifyAmong: a total holds other batches of the window, which don't hide
// that one is there, nor that it isn't.
func testVerifyAmong(t *testing.T, f Fixture) {
	d := f.window(3, 7)
	d[1].WindowConfirmed = 14
	f.accept(t, d[0], d[2])
	presence, err := f.Reporter.Verify(t.Context(), d[1])
	require.NoError(t, err)
	require.Contains(t, []billing.Presence{billing.Absent, billing.Unsupported}, presence)
	f.accept(t, d[1])
	presence, err = f.Reporter.Verify(t.Context(), d[1])
	require.NoError(t, err)
	require.Contains(t, []billing.Presence{billing.Present, billing.Unsupported}, presence)
	d[1].WindowConfirmed = 7
	presence, err = f.Reporter.Verify(t.Context(), d[1])
	require.NoError(t, err)
	require.Contains(t, []billing.Presence{billing.Ambiguous, billing.Unsupported}, presence)
}

// testVerifyDoubt: of two batches of one size one is there; that is no proof
// for either.
func testVerifyDoubt(t *testing.T, f Fixture) {
	d := f.window(2, 7)
	d[1].WindowUnproved = true
	presence, err := f.Reporter.Verify(t.Context(), d[1])
	require.NoError(t, err)
	require.Contains(t, []billing.Presence{billing.Ambiguous, billing.Absent, billing.Unsupported}, presence)
	f.accept(t, d[0])
	presence, err = f.Reporter.Verify(t.Context(), d[1])
	require.NoError(t, err)
	require.Contains(t, []billing.Presence{billing.Ambiguous, billing.Unsupported}, presence)
}

func testRefusal(t *testing.T, f Fixture) {
	f.Fail(Refused)
	receipt, err := f.Reporter.Report(t.Context(), f.delivery(7))
	require.NoError(t, err)
	require.Equal(t, billing.Rejected, receipt.Result)
	require.NotEmpty(t, receipt.Reason)
	require.Zero(t, f.Billed())
}

func testCancelled(t *testing.T, f Fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	receipt, err := f.Reporter.Report(ctx, f.delivery(7))
	if err == nil {
		require.Contains(t, []billing.Result{billing.Unknown, billing.NotApplied}, receipt.Result)
	} else {
		require.Equal(t, billing.Unknown, receipt.Result)
	}
}

func testForeign(t *testing.T, f Fixture) {
	d := f.delivery(7)
	d.Target.Provider, d.Target.Mode = "nobody", "none"
	receipt, err := f.Reporter.Report(t.Context(), d)
	require.Error(t, err)
	require.Equal(t, billing.Unknown, receipt.Result)
	require.Zero(t, f.Billed())
}
