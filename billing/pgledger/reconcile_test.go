package pgledger_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// million is a tenant with a million units confirmed, over a day's hours.
func million(t *testing.T, b *bench, mode billing.Mode) (*billingtest.Provider, *billing.Worker, billing.Target) {
	t.Helper()
	id := tenant.NewID()
	s := b.subscribe(t, id, mode)
	provider := billingtest.NewProvider(mode, b.clock.Now)
	w := b.worker(t, provider)
	for range 25 {
		b.append(t, b.event(id, 40_000))
		require.NoError(t, w.Tick(t.Context()))
		b.clock.Advance(time.Hour)
	}
	require.EqualValues(t, 1_000_000, billed(provider, s.Targets[0]))
	return provider, w, s.Targets[0]
}

func (b *bench) drifts(t *testing.T) string {
	t.Helper()
	drifts, err := b.Drifts(t.Context(), tenant.ID{})
	require.NoError(t, err)
	out := ""
	for _, d := range drifts {
		out += fmt.Sprintf("%s+%v: %d of %d, %+d;", d.From.Format("02T15:04"), d.To.Sub(d.From), d.Provider, d.Confirmed, d.Units)
	}
	return out
}

// TestReconcile: one unit that is missing or too many among a million is found
// by the next run, to the hour where the provider tells hours; shown until it is
// gone, or accepted by a person; and never corrected.
//
// Seen failing with compare not dividing (the hour), and with a drift of one
// unit let pass.
func TestReconcile(t *testing.T) {
	t.Parallel()
	for mode, want := range map[billing.Mode][2]string{
		billing.ModeMeter:       {"10T20:00+1h0m0s: 40001 of 40000, +1;", "10T20:00+1h0m0s: 39999 of 40000, -1;"},
		billing.ModeUsageRecord: {"09T09:17+768h0m0s: 1000001 of 1000000, +1;", "09T09:17+768h0m0s: 999999 of 1000000, -1;"},
	} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			provider, w, to := million(t, b, mode)
			reconcile := func() {
				t.Helper()
				require.NoError(t, w.Reconcile(t.Context()))
			}
			reconcile()
			require.Empty(t, b.drifts(t))
			require.NoError(t, w.Check(t.Context()))
			require.Equal(t, b.clock.Now(), b.stats(t, tenant.ID{}).LastReconcile)

			at := start.Add(11 * time.Hour)
			provider.Add(to, 1, at) // somebody else reports for the customer
			reconcile()
			require.Equal(t, want[0], b.drifts(t))
			require.ErrorContains(t, w.Check(t.Context()), "1 windows differ from the provider's totals, by 1 units")
			require.ErrorContains(t, w.CheckTenant(t.Context(), to.Tenant), "1 windows differ")
			require.NoError(t, w.CheckTenant(t.Context(), tenant.NewID()))
			stats := b.stats(t, to.Tenant)
			require.Equal(t, 1, stats.Drifting)
			require.EqualValues(t, 1, stats.Drift)

			provider.Add(to, -2, at) // the provider loses some
			reconcile()
			require.Equal(t, want[1], b.drifts(t))
			require.EqualValues(t, 999_999, billed(provider, to), "nothing is corrected")

			drifts, err := b.Drifts(t.Context(), to.Tenant)
			require.NoError(t, err)
			require.NoError(t, b.AcceptDrift(t.Context(), drifts[0].ID, "ann", "credited by hand"))
			require.NoError(t, b.AcceptDrift(t.Context(), drifts[0].ID, "bob", "asking twice is asking once"))
			require.ErrorIs(t, b.AcceptDrift(t.Context(), -1, "ann", ""), pgledger.ErrNotFound)
			require.Error(t, b.AcceptDrift(t.Context(), drifts[0].ID, "", ""))
			reconcile()
			require.Empty(t, b.drifts(t), "accepted as it is")
			require.NoError(t, w.Check(t.Context()))
			require.Equal(t, "ann credited by hand", b.text(t, `select settled_by || ' ' || reason from mcpsaas.billing_drift`))
			provider.Add(to, -1, at)
			reconcile()
			require.NotEmpty(t, b.drifts(t), "not any more")
			provider.Add(to, 2, at)
			reconcile()
			require.Empty(t, b.drifts(t))
			require.Equal(t, "gone", b.text(t, `select reason from mcpsaas.billing_drift`))
			require.NoError(t, w.Check(t.Context()))
		})
	}
}

// TestReconcileHours: several hours that differ are each found, and the hour that
// was closed last even if another makes up for it.
func TestReconcileHours(t *testing.T) {
	t.Parallel()
	b := setup(t)
	provider, w, to := million(t, b, billing.ModeMeter)
	provider.Add(to, 3, start.Add(2*time.Hour))
	provider.Add(to, -5, start.Add(9*time.Hour))
	require.NoError(t, w.Reconcile(t.Context()))
	require.Equal(t, "10T11:00+1h0m0s: 40003 of 40000, +3;10T18:00+1h0m0s: 39995 of 40000, -5;", b.drifts(t))
	stats := b.stats(t, tenant.ID{})
	require.Equal(t, 2, stats.Drifting)
	require.EqualValues(t, 8, stats.Drift)
	provider.Add(to, 4, start.Add(24*time.Hour+20*time.Minute)) // all of them together: nothing
	provider.Add(to, -2, start.Add(4*time.Hour))
	require.NoError(t, w.Reconcile(t.Context()))
	require.Contains(t, b.drifts(t), "11T09:00+1h0m0s: 40004 of 40000, +4;")
}

// TestReconcileUnderWay: what is on its way, in doubt or not yet shown is no
// drift, and hides none of another hour.
//
// Seen failing with Doubt left out of account, and with Fresh: what the totals
// did not show yet was a drift.
func TestReconcileUnderWay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	provider, w, to := million(t, b, billing.ModeMeter)
	b.append(t, b.event(to.Tenant, 7))
	provider.Fail(billingtest.DropAfter)
	require.NoError(t, w.Tick(t.Context()))
	require.Equal(t, 1, b.stats(t, to.Tenant).Unknown)
	b.clock.Advance(2 * time.Hour)
	require.NoError(t, w.Reconcile(t.Context()))
	require.Empty(t, b.drifts(t), "in doubt")
	// An old event, confirmed just now, belongs to an hour long closed.
	late := b.event(to.Tenant, 9)
	late.Time = start.Add(3*time.Hour + time.Minute)
	b.append(t, late)
	require.NoError(t, w.Tick(t.Context()))
	require.NoError(t, w.Tick(t.Context()))
	require.Zero(t, b.stats(t, to.Tenant).Open)
	provider.Add(to, 1, start.Add(5*time.Hour))
	require.NoError(t, w.Reconcile(t.Context()))
	require.Equal(t, "10T14:00+1h0m0s: 40001 of 40000, +1;", b.drifts(t))
}

// meanwhile does something before it tells a total.
type meanwhile struct {
	*billingtest.Provider
	do func()
}

func (r meanwhile) UsageTotal(ctx context.Context, t billing.Target, from, to time.Time) (int64, error) {
	r.do()
	return r.Provider.UsageTotal(ctx, t, from, to)
}

// TestReconcileMeanwhile: usage of an hour long closed that is confirmed while
// that hour is being compared is no drift.
//
// Seen failing with the ledger read before the total alone.
func TestReconcileMeanwhile(t *testing.T) {
	t.Parallel()
	b := setup(t)
	provider, w, to := million(t, b, billing.ModeMeter)
	provider.Lag(0)
	late := func() {
		e := b.event(to.Tenant, 9)
		e.Time = start.Add(3*time.Hour + time.Minute)
		b.append(t, e)
		require.NoError(t, w.Tick(t.Context()))
	}
	require.NoError(t, b.worker(t, meanwhile{provider, late}).Reconcile(t.Context()))
	require.Greater(t, billed(provider, to), int64(1_000_000))
	require.Empty(t, b.drifts(t))
}

// TestReconcileTwoPeriods: usage around the end of a billing period is in one
// span, so that nothing differs for being counted to the one or the other.
func TestReconcileTwoPeriods(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	s := b.subscribe(t, id, billing.ModeMeter)
	b.clock.Advance(s.PeriodEnd.Add(-90 * time.Second).Sub(start))
	provider := billingtest.NewProvider(billing.ModeMeter, b.clock.Now)
	w := b.worker(t, provider)
	for range 6 {
		b.append(t, b.event(id, 5))
		require.NoError(t, w.Tick(t.Context()))
		b.clock.Advance(30 * time.Second)
		if b.clock.Now().Equal(s.PeriodEnd.Add(30 * time.Second)) {
			s.PeriodStart, s.PeriodEnd = s.PeriodEnd, s.PeriodEnd.AddDate(0, 1, 0)
			b.save(t, id, s)
		}
	}
	require.NoError(t, w.Tick(t.Context()))
	b.clock.Advance(3 * time.Hour)
	require.EqualValues(t, 30, provider.Total(s.Targets[0], start, start.AddDate(1, 0, 0)))
	require.NoError(t, w.Reconcile(t.Context()))
	require.Empty(t, b.drifts(t))
}

// blindly reports, and doesn't tell totals of one tenant.
type blindly struct {
	*billingtest.Provider
	tenant tenant.ID
}

func (r blindly) UsageTotal(ctx context.Context, t billing.Target, from, to time.Time) (int64, error) {
	if t.Tenant == r.tenant {
		return 0, context.DeadlineExceeded
	}
	return r.Provider.UsageTotal(ctx, t, from, to)
}

// silent is a reporter that knows no totals.
type silent struct{ billing.Reporter }

// TestReconcileFailure: a target whose total can't be read keeps no other from
// being compared, and the run from counting as done.
func TestReconcileFailure(t *testing.T) {
	t.Parallel()
	b := setup(t)
	provider, _, to := million(t, b, billing.ModeMeter)
	other := tenant.NewID()
	b.subscribe(t, other, billing.ModeMeter)
	provider.Add(to, 1, start.Add(time.Hour))
	w := b.worker(t, blindly{provider, other})
	require.ErrorContains(t, w.Reconcile(t.Context()), other.String())
	require.NotEmpty(t, b.drifts(t))
	require.Zero(t, b.stats(t, tenant.ID{}).LastReconcile)
	require.ErrorIs(t, b.worker(t, silent{provider}).Reconcile(t.Context()), billing.ErrNoTotals)

	// One of all processes runs it each hour.
	for i, want := range []bool{true, false, false, true} {
		now := start.Add(time.Duration(i) * 25 * time.Minute)
		mine, err := b.BeginReconcile(t.Context(), now, now.Add(-time.Hour))
		require.NoError(t, err)
		require.Equal(t, want, mine, i)
	}
}
