package billingtest

import (
	"context"
	"errors"
	"sync"
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

	// Fail has the next report, or void, meet the fault.
	Fail func(Fault)

	// Cut takes the provider away for good. Nil: it can't be.
	Cut func()

	// Billed returns what the provider would bill the target for the period,
	// without any lag.
	Billed func() int64

	// Exact is set when Verify finds a delivery by itself, and not in a total.
	Exact bool
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
	t.Run("a repetition at the end of the window", func(t *testing.T) { testLateRepetition(t, newFixture(t)) })
	t.Run("many at once", func(t *testing.T) { testMany(t, newFixture(t)) })
	t.Run("the largest quantity", func(t *testing.T) { testLargest(t, newFixture(t)) })
	t.Run("a provider that is away", func(t *testing.T) { testAway(t, newFixture(t)) })
	t.Run("verify among others", func(t *testing.T) { testVerifyAmong(t, newFixture(t)) })
	t.Run("verify beside a doubt", func(t *testing.T) { testVerifyDoubt(t, newFixture(t)) })
	t.Run("a refusal for good", func(t *testing.T) { testRefusal(t, newFixture(t)) })
	t.Run("the total", func(t *testing.T) { testTotal(t, newFixture(t)) })
	t.Run("a cancelled context", func(t *testing.T) { testCancelled(t, newFixture(t)) })
	t.Run("another provider's target", func(t *testing.T) { testForeign(t, newFixture(t)) })
	for _, fault := range Faults() {
		t.Run("void with "+string(fault), func(t *testing.T) { testVoid(t, newFixture(t), fault) })
	}
	t.Run("void of nothing", func(t *testing.T) { testVoidNothing(t, newFixture(t)) })
}

func testCaps(t *testing.T, f Fixture) {
	caps := f.Reporter.Caps(f.Target)
	require.Positive(t, caps.SlotGranularity, "every batch needs a slot")
	require.True(t, caps.Overwrite || caps.DedupeWindow > 0, "no repetition is ever safe")
	require.False(t, caps.Overwrite && caps.KeyOnly, "what is overwritten is not applied again, whatever the key")
	require.GreaterOrEqual(t, caps.VerifyWindow, time.Duration(0))
	require.Zero(t, caps.VerifyWindow%caps.SlotGranularity, "windows must hold whole slots")
	require.GreaterOrEqual(t, caps.MaxFuture, time.Duration(0))
	require.GreaterOrEqual(t, caps.VerifyLag, time.Duration(0))
	require.GreaterOrEqual(t, caps.MaxPerSecond, 0.0)
	require.GreaterOrEqual(t, caps.MaxQuantity, int64(0))
	require.GreaterOrEqual(t, caps.LateGrace, time.Duration(0))
	require.Equal(t, caps, f.Reporter.Caps(f.Target), "they are the same each time")
	_, voids := f.Reporter.(billing.Voider)
	require.True(t, voids || caps.VoidWindow == 0, "nothing can be taken back, whatever the time")
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
		if epoch == 2 && !f.Reporter.Caps(f.Target).KeyOnly { // what the provider keeps under a key is beside the point
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

// testLateRepetition: Caps promise no more than the provider keeps. A repetition
// is recognised until DedupeWindow ends, or, if it overwrites, until the period
// does.
func testLateRepetition(t *testing.T, f Fixture) {
	caps := f.Reporter.Caps(f.Target)
	d := f.delivery(7)
	f.accept(t, d)
	last := f.PeriodEnd
	if !caps.Overwrite {
		last = f.Now().Add(min(caps.DedupeWindow, 400*24*time.Hour))
		if taken := f.PeriodEnd.Add(caps.LateGrace); taken.Before(last) {
			last = taken // the worker doesn't send it after that
		}
	}
	f.Advance(last.Add(-caps.VerifyLag - time.Second).Sub(f.Now()))
	d.FirstSent, d.LastSent = f.Now().Add(-time.Hour), f.Now().Add(-time.Hour)
	if !caps.KeyOnly {
		d.IdempotencyKey += "x"
	}
	receipt, err := f.Reporter.Report(t.Context(), d)
	require.NoError(t, err)
	require.Contains(t, []billing.Result{billing.Accepted, billing.AlreadyAccepted}, receipt.Result, receipt.Reason)
	require.EqualValues(t, 7, f.Billed())
}

// testMany: the reporter is safe for concurrent use, and none of many gets lost.
func testMany(t *testing.T, f Fixture) {
	const n = 20
	step := max(f.Reporter.Caps(f.Target).SlotGranularity, time.Second)
	var wg sync.WaitGroup
	for i := range n {
		d := f.delivery(int64(i) + 1)
		d.Slot = d.Slot.Add(-time.Duration(i) * step)
		for range 2 { // as when a lease runs out while the call is under way
			wg.Go(func() {
				for range 10 {
					receipt, err := f.Reporter.Report(t.Context(), d)
					if err != nil {
						t.Errorf("report: %v", err)
						return
					}
					switch receipt.Result {
					case billing.Accepted, billing.AlreadyAccepted:
						return
					case billing.NotApplied, billing.Unknown: // too many at once
						f.Advance(time.Second)
					default:
						t.Errorf("refused: %v %s", receipt.Result, receipt.Reason)
						return
					}
				}
				t.Error("ten attempts did not get it through")
			})
		}
	}
	wg.Wait()
	require.EqualValues(t, n*(n+1)/2, f.Billed())
}

func testLargest(t *testing.T, f Fixture) {
	most := f.Reporter.Caps(f.Target).MaxQuantity
	if most == 0 {
		t.Skip("no limit")
	}
	receipt, err := f.Reporter.Report(t.Context(), f.delivery(most+1))
	require.NoError(t, err)
	require.Equal(t, billing.Rejected, receipt.Result)
	require.NotEmpty(t, receipt.Reason)
	require.Zero(t, f.Billed())
	f.accept(t, f.delivery(most))
	require.Equal(t, most, f.Billed())
}

// testAway: whoever can't ask knows nothing.
func testAway(t *testing.T, f Fixture) {
	if f.Cut == nil {
		t.Skip("the provider can't be taken away")
	}
	f.Cut()
	d := f.delivery(7)
	receipt, err := f.Reporter.Report(t.Context(), d)
	require.NoError(t, err)
	require.Contains(t, []billing.Result{billing.Unknown, billing.NotApplied}, receipt.Result)
	require.NotEmpty(t, receipt.Reason)
	d.FirstSent, d.LastSent = f.Now(), f.Now()
	presence, err := f.Reporter.Verify(t.Context(), d)
	if err == nil {
		require.Equal(t, billing.Unsupported, presence)
	} else {
		require.NotContains(t, []billing.Presence{billing.Present, billing.Absent}, presence)
	}
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
			if f.Reporter.Caps(f.Target).KeyOnly && f.present(t, d) {
				require.EqualValues(t, 7, f.Billed(), "said to be there and is not billed once")
				return
			}
		}
		f.Advance(max(receipt.RetryAfter, 2*time.Second))
	}
	require.Fail(t, "five attempts did not get it through")
}

// present asks, as the worker does before it sends under another key where only
// the key keeps a repetition from being applied.
func (f Fixture) present(t *testing.T, d billing.Delivery) bool {
	t.Helper()
	f.Advance(f.Reporter.Caps(f.Target).VerifyLag)
	presence, err := f.Reporter.Verify(t.Context(), d)
	require.NoError(t, err)
	require.Contains(t, []billing.Presence{billing.Present, billing.Absent}, presence)
	return presence == billing.Present
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
	require.Contains(t, []billing.Presence{f.sure(billing.Present), billing.Unsupported}, presence)
}

// sure is what one who sees the delivery itself says where a total can't tell.
func (f Fixture) sure(p billing.Presence) billing.Presence {
	if f.Exact {
		return p
	}
	return billing.Ambiguous
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
	require.Contains(t, []billing.Presence{f.sure(billing.Absent), billing.Unsupported}, presence)
}

func testRefusal(t *testing.T, f Fixture) {
	f.Fail(Refused)
	receipt, err := f.Reporter.Report(t.Context(), f.delivery(7))
	require.NoError(t, err)
	require.Equal(t, billing.Rejected, receipt.Result)
	require.NotEmpty(t, receipt.Reason)
	require.Zero(t, f.Billed())
}

// testTotal: what is compared with the ledger is what is billed, once it must
// show it.
func testTotal(t *testing.T, f Fixture) {
	totals, ok := f.Reporter.(billing.Totaler)
	if !ok {
		t.Skip("the provider doesn't tell its totals")
	}
	first, second := f.delivery(7), f.delivery(11)
	second.Slot = first.Slot.Add(-max(f.Reporter.Caps(f.Target).SlotGranularity, time.Second))
	f.accept(t, first, second)
	from, to := f.PeriodStart, f.PeriodEnd
	if f.Reporter.Caps(f.Target).VerifyWindow > 0 {
		from, to = from.Truncate(time.Hour), to.Truncate(time.Hour).Add(time.Hour)
	}
	total, err := totals.UsageTotal(t.Context(), f.Target, from, to)
	if errors.Is(err, billing.ErrNoTotals) {
		t.Skip("the provider doesn't tell its totals")
	}
	require.NoError(t, err)
	require.EqualValues(t, 18, total)
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
	presence, err := f.Reporter.Verify(t.Context(), d)
	require.Error(t, err)
	require.NotContains(t, []billing.Presence{billing.Present, billing.Absent}, presence)
}
