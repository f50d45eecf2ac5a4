package billingtest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
)

// testVoid: a void never claims more than is true, and asking until there is an
// answer takes the delivery back once, and no other.
func testVoid(t *testing.T, f Fixture, fault Fault) {
	v, ok := f.Reporter.(billing.Voider)
	if !ok {
		t.Skip("nothing can be taken back")
	}
	if caps := f.Reporter.Caps(f.Target); caps.VoidWindow == 0 && !caps.Overwrite {
		t.Skip("nothing of this target can be taken back")
	}
	kept, d := f.delivery(11), f.delivery(7)
	kept.Slot = d.Slot.Add(-max(f.Reporter.Caps(f.Target).SlotGranularity, time.Second))
	f.accept(t, kept, d)
	d.FirstSent, d.LastSent = f.Now(), f.Now()
	f.Fail(fault)
	gone := 0
	for range 6 {
		receipt, err := v.Void(t.Context(), d)
		require.NoError(t, err)
		switch receipt.Result {
		case billing.Accepted, billing.AlreadyAccepted:
			require.EqualValues(t, 11, f.Billed(), "said to be taken back and is billed")
			if gone++; gone == 2 { // asked twice it is gone once
				return
			}
		case billing.NotApplied, billing.Unauthorized:
			require.EqualValues(t, 18, f.Billed(), "said to be billed and is taken back")
			fallthrough
		default:
			require.NotEqual(t, billing.Rejected, receipt.Result, receipt.Reason)
			require.NotEmpty(t, receipt.Reason)
			f.Advance(max(receipt.RetryAfter, 2*time.Second))
		}
	}
	require.Fail(t, "six attempts did not take it back")
}

func testVoidNothing(t *testing.T, f Fixture) {
	v, ok := f.Reporter.(billing.Voider)
	if !ok {
		t.Skip("nothing can be taken back")
	}
	d := f.delivery(7)
	f.Fail(Refused)
	receipt, err := v.Void(t.Context(), d)
	require.NoError(t, err)
	if f.Exact && receipt.Result == billing.AlreadyAccepted {
		require.Zero(t, f.Billed()) // who sees the delivery itself sees that it isn't there
	} else {
		require.Equal(t, billing.Rejected, receipt.Result)
		require.NotEmpty(t, receipt.Reason)
	}
	d.Target.Provider, d.Target.Mode = "nobody", "none"
	receipt, err = v.Void(t.Context(), d)
	require.Error(t, err)
	require.Equal(t, billing.Unknown, receipt.Result)
}
