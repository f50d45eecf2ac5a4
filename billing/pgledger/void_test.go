package pgledger_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
)

// TestVoidInTime: the provider's 24 hours count from the first send; a usage record
// can be taken back while its period is open.
//
// Seen failing without the condition on the age.
func TestVoidInTime(t *testing.T) {
	t.Parallel()
	d := newDesk(t, billing.ModeMeter)
	window := d.provider.Caps(target(d.tenant, d.mode)).VoidWindow
	require.Less(t, window, 24*time.Hour)
	// It is confirmed an hour after it was sent, by a repetition.
	d.provider.Fail(billingtest.DropAfter)
	late := d.sealed(t, 5)
	_ = d.worker.Tick(t.Context())
	d.clock.Advance(time.Hour)
	require.NoError(t, d.worker.Tick(t.Context()))
	require.Equal(t, billing.StateConfirmed, d.state(t, late))
	early := d.confirmed(t, 7)
	d.clock.Advance(window - time.Hour)
	_, err := d.Do(t.Context(), order(billing.VerbVoid, late))
	var refused *billing.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Reason, "credit it")
	out, err := d.Do(t.Context(), order(billing.VerbVoid, early))
	require.NoError(t, err)
	require.Equal(t, billing.StateVoided, out.State)
	require.EqualValues(t, 5, d.billed())
	require.Equal(t, billing.StateConfirmed, d.state(t, late))

	d = newDesk(t, billing.ModeUsageRecord)
	first := d.confirmed(t, 5)
	d.clock.Advance(time.Minute)
	second := d.confirmed(t, 7)
	d.clock.Advance(10 * 24 * time.Hour)
	_, err = d.Do(t.Context(), order(billing.VerbVoid, first))
	require.NoError(t, err)
	require.EqualValues(t, 7, d.billed())
	d.clock.Advance(30 * 24 * time.Hour)
	_, err = d.Do(t.Context(), order(billing.VerbVoid, second))
	require.ErrorAs(t, err, &refused)
	require.EqualValues(t, 7, d.billed())
}

// TestVoidFaults: whatever the provider answers, the books say no more than is
// known, and asking again ends in one void.
//
// Seen failing when an unknown answer counts as voided.
func TestVoidFaults(t *testing.T) {
	t.Parallel()
	for _, mode := range []billing.Mode{billing.ModeMeter, billing.ModeUsageRecord} {
		for _, fault := range append(billingtest.Faults(), billingtest.Refused) {
			t.Run(fmt.Sprintf("%s %s", mode, fault), func(t *testing.T) {
				t.Parallel()
				d := newDesk(t, mode)
				kept := d.confirmed(t, 11)
				d.clock.Advance(time.Second)
				id := d.confirmed(t, 7)
				d.provider.Fail(fault)
				out, err := d.Do(t.Context(), order(billing.VerbVoid, id))
				require.Equal(t, out.State, d.state(t, id))
				switch out.State {
				case billing.StateVoided:
					require.NoError(t, err)
					require.EqualValues(t, 11, d.billed())
				case billing.StateConfirmed:
					require.Error(t, err)
					require.False(t, out.Changed)
					require.EqualValues(t, 18, d.billed())
				default:
					require.Equal(t, billing.StateVoiding, out.State)
					require.ErrorContains(t, err, "ask again")
					require.Error(t, d.worker.Check(t.Context()), "it waits for an operator")
				}
				d.clock.Advance(5 * time.Second)
				out, err = d.Do(t.Context(), order(billing.VerbVoid, id))
				require.NoError(t, err)
				require.Equal(t, billing.StateVoided, out.State)
				require.EqualValues(t, 11, d.billed())
				require.Equal(t, billing.StateConfirmed, d.state(t, kept))
				require.NoError(t, d.worker.Tick(t.Context()))
				require.NoError(t, d.worker.Check(t.Context()))
			})
		}
	}
}

// TestVoidHalfDone: an operator's process dies between the provider's answer and
// the books, and the provider knows the event no longer: its totals tell.
func TestVoidHalfDone(t *testing.T) {
	t.Parallel()
	for name, reached := range map[string]bool{"taken back": true, "not taken back": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, billing.ModeMeter)
			id := d.confirmed(t, 7)
			d.clock.Advance(time.Hour)
			_, claim, err := d.Operate(t.Context(), order(billing.VerbVoid, id), time.Minute, d.provider.Caps)
			require.NoError(t, err)
			require.Equal(t, billing.StateConfirmed, claim.State)
			if reached {
				_, err := d.provider.Void(t.Context(), claim.Delivery)
				require.NoError(t, err)
			}
			// Somebody else asks at once: the first one may still be at it.
			_, err = d.Do(t.Context(), order(billing.VerbVoid, id))
			require.ErrorContains(t, err, "somebody is at it")
			d.clock.Advance(2 * time.Minute)
			d.provider.Fail(billingtest.Refused) // it has forgotten
			_, err = d.Do(t.Context(), order(billing.VerbVoid, id))
			require.ErrorContains(t, err, "ask again")
			require.Equal(t, billing.StateVoiding, d.state(t, id), "the totals don't show it yet")
			// The dead one comes back to life: it has no say any more.
			err = d.SettleVoid(t.Context(), *claim, order(billing.VerbVoid, id), billing.StateConfirmed, billing.Receipt{})
			require.ErrorIs(t, err, billing.ErrFenced)

			d.clock.Advance(time.Hour)
			d.provider.Fail(billingtest.Refused)
			out, err := d.Do(t.Context(), order(billing.VerbVoid, id))
			if reached {
				require.NoError(t, err)
				require.Equal(t, billing.StateVoided, out.State)
				require.Zero(t, d.billed())
				return
			}
			require.ErrorContains(t, err, "did not take it back")
			require.Equal(t, billing.StateConfirmed, d.state(t, id))
			require.EqualValues(t, 7, d.billed())
		})
	}
}

// TestVoidBesideDoubt: two batches of one size in one minute, one in doubt and one
// taken back. The one in doubt is looked up a day later, and is billed once.
//
// Seen failing with the time of a void left out of WindowSent: the total still had
// what was taken back, and the one that was lost passed for it.
func TestVoidBesideDoubt(t *testing.T) {
	t.Parallel()
	for name, applied := range map[string]bool{"applied": true, "lost": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, billing.ModeMeter)
			d.clock.Advance(40 * time.Second) // the beginning of a minute
			void := d.confirmed(t, 7)
			d.clock.Advance(5 * time.Second)
			doubt := d.sealed(t, 7)
			if applied {
				d.provider.Fail(billingtest.DropAfter)
			} else {
				d.provider.Fail(billingtest.DropBefore)
			}
			_ = d.worker.Tick(t.Context())
			require.Equal(t, billing.StateUnknown, d.state(t, doubt))
			d.clock.Advance(23*time.Hour + 5*time.Minute) // too late to repeat, in time to take back
			_, err := d.Do(t.Context(), order(billing.VerbVoid, void))
			require.NoError(t, err)
			for range 10 {
				require.NoError(t, d.worker.Tick(t.Context()))
				d.clock.Advance(6 * time.Minute)
			}
			require.Equal(t, billing.StateConfirmed, d.state(t, doubt))
			require.EqualValues(t, 7, d.billed())
		})
	}
}

// TestVoidUnderWay: while nobody knows whether a batch was taken back, the total of
// its minute proves nothing of another: one that was lost is parked, not taken for
// confirmed.
//
// Seen failing with voiding left out of what is unproved.
func TestVoidUnderWay(t *testing.T) {
	t.Parallel()
	d := newDesk(t, billing.ModeMeter)
	d.clock.Advance(40 * time.Second) // the beginning of a minute
	void := d.confirmed(t, 7)
	d.clock.Advance(5 * time.Second)
	doubt := d.sealed(t, 7)
	d.provider.Fail(billingtest.DropBefore)
	_ = d.worker.Tick(t.Context())
	d.clock.Advance(23*time.Hour + 5*time.Minute)
	_, _, err := d.Operate(t.Context(), order(billing.VerbVoid, void), time.Minute, d.provider.Caps)
	require.NoError(t, err)
	for range 10 {
		require.NoError(t, d.worker.Tick(t.Context()))
		d.clock.Advance(6 * time.Minute)
	}
	require.Equal(t, billing.StateVoiding, d.state(t, void))
	require.Equal(t, billing.StateParked, d.state(t, doubt))
}

// TestVoidWaitsForALookUp: nothing is taken back while a worker reads a total that
// it is in.
//
// Seen failing without the look for batches in verifying.
func TestVoidWaitsForALookUp(t *testing.T) {
	t.Parallel()
	d := newDesk(t, billing.ModeMeter)
	id := d.confirmed(t, 7)
	_, err := d.pool.Exec(t.Context(), `update mcpsaas.usage_batches set state = 'verifying' where id = $1`, d.sealed(t, 3))
	require.NoError(t, err)
	_, err = d.Do(t.Context(), order(billing.VerbVoid, id))
	require.ErrorContains(t, err, "is being looked up")
	require.EqualValues(t, 7, d.billed())
}
