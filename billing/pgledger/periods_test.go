package pgledger_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestRenewal: usage belongs to the period in which it occurred, also when it
// is sealed after the period's end, or before the next is known.
func TestRenewal(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	s := b.subscribe(t, id, billing.ModeMeter)
	end := s.PeriodEnd
	b.clock.Advance(end.Sub(start) - time.Second)
	b.append(t, b.event(id, 1)) // the last second
	b.clock.Advance(time.Second)
	b.append(t, b.event(id, 20)) // the first of the next period, of which nobody has told us
	provider := billingtest.NewProvider(billing.ModeMeter, b.clock.Now)
	w := b.worker(t, provider)
	b.clock.Advance(time.Minute)
	require.NoError(t, w.Tick(t.Context()))
	require.EqualValues(t, 1, provider.Total(s.Targets[0], s.PeriodStart, end))
	require.Equal(t, 1, b.stats(t, id).Unsealed, "it is due, and waits for its period")
	s.PeriodStart, s.PeriodEnd = end, end.AddDate(0, 1, 0)
	b.save(t, id, s)
	b.save(t, id, s) // said twice
	require.NoError(t, w.Tick(t.Context()))
	require.EqualValues(t, 20, provider.Total(s.Targets[0], end, s.PeriodEnd))
	require.NoError(t, w.CheckTenant(t.Context(), id))
}

// TestPlanChange: in the middle of a period the targets change; usage before
// the change goes to the old one and after it to the new one, to the second,
// though the notice comes late.
func TestPlanChange(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	s := b.subscribe(t, id, billing.ModeMeter)
	old := s.Targets[0]
	next := old
	next.Meter, next.MeterID = "pro_calls", "mtr_pro"
	b.append(t, b.event(id, 1))
	b.clock.Advance(10 * time.Minute)
	changed := b.clock.Now()
	b.append(t, b.event(id, 20)) // the very moment
	b.clock.Advance(10 * time.Minute)
	b.append(t, b.event(id, 300))
	s.Targets = []billing.Target{next}
	b.seq++
	_, err := b.Save(t.Context(), b.clock.Now(), billing.Notice{ObjectID: s.ID, Created: changed},
		billing.Change{Tenant: id, Customer: s.Customer, Subscription: &s, Seq: b.seq})
	require.NoError(t, err)
	provider := billingtest.NewProvider(billing.ModeMeter, b.clock.Now)
	w := b.worker(t, provider)
	require.NoError(t, w.Tick(t.Context()))
	require.EqualValues(t, 1, billed(provider, old))
	require.EqualValues(t, 320, billed(provider, next))

	// An older word, fetched before the change and arriving after it.
	s.Targets = []billing.Target{old}
	_, err = b.Save(t.Context(), b.clock.Now(), billing.Notice{ObjectID: s.ID, Created: changed},
		billing.Change{Tenant: id, Customer: s.Customer, Subscription: &s, Seq: b.seq - 1})
	require.NoError(t, err)
	b.append(t, b.event(id, 4000))
	require.NoError(t, w.Tick(t.Context()))
	require.EqualValues(t, 4320, billed(provider, next))

	// And back again, within the same period.
	b.clock.Advance(time.Minute)
	b.save(t, id, s)
	b.clock.Advance(time.Minute)
	b.append(t, b.event(id, 50000))
	require.NoError(t, w.Tick(t.Context()))
	require.EqualValues(t, 50001, billed(provider, old))
	require.EqualValues(t, 4320, billed(provider, next))
}

// TestCancel: usage up to the end is billed, usage after it is nobody's debt,
// and whoever comes back starts anew.
func TestCancel(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	s := b.subscribe(t, id, billing.ModeMeter)
	b.append(t, b.event(id, 1))
	b.clock.Advance(10 * time.Minute)
	s.Status, s.EndedAt = billing.Canceled, b.clock.Now()
	b.clock.Advance(time.Minute)
	b.append(t, b.event(id, 20))
	require.Equal(t, 2, b.stats(t, id).Unsealed)
	b.save(t, id, s)
	require.Equal(t, 1, b.stats(t, id).Unsealed)
	b.append(t, b.event(id, 300))
	require.Equal(t, 1, b.stats(t, id).Unsealed)
	b.clock.Advance(time.Hour)

	again := s
	again.ID, again.Status, again.EndedAt = "sub_again", billing.Active, time.Time{}
	again.PeriodStart, again.PeriodEnd = b.clock.Now(), b.clock.Now().AddDate(0, 1, 0)
	b.save(t, id, again)
	b.clock.Advance(time.Minute)
	b.append(t, b.event(id, 4000))
	provider := billingtest.NewProvider(billing.ModeMeter, b.clock.Now)
	w := b.worker(t, provider)
	require.NoError(t, w.Tick(t.Context()))
	require.EqualValues(t, 4001, billed(provider, s.Targets[0]))
	require.Zero(t, b.stats(t, id).Unsealed)

	got, err := b.Subscription(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "sub_again", got.ID)
}

// TestIncomplete: a first payment that comes through late makes the period
// count from its start.
func TestIncomplete(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	s := billing.Subscription{
		ID: "sub_1", Customer: "cus_1", Status: billing.Incomplete, PeriodStart: start, PeriodEnd: start.AddDate(0, 1, 0),
		Targets: []billing.Target{target(id, billing.ModeMeter)},
	}
	b.save(t, id, s)
	b.append(t, b.event(id, 5))
	require.Zero(t, b.stats(t, id).Unsealed)
	b.clock.Advance(time.Hour)
	s.Status = billing.Active
	b.save(t, id, s)
	require.Equal(t, 1, b.stats(t, id).Unsealed)
}

// TestSlots: every batch has a slot of its own, within the period, not further
// ahead than the provider allows, whatever the order in which usage arrives.
//
// Seen failing with the slot's search and its unique constraint taken out.
func TestSlots(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	s := b.subscribe(t, id, billing.ModeMeter)
	s.ID, s.PeriodStart = "sub_young", start.Add(-150*time.Second)
	s.Targets[0].Meter = "young"
	b.save(t, id, billing.Subscription{ID: "sub_" + id.String(), Customer: s.Customer, Status: billing.Canceled, EndedAt: start.Add(-time.Hour)})
	b.save(t, id, s)
	n := 0
	seal := func() {
		b.append(t, b.event(id, 1))
		sealed, err := b.Seal(t.Context(), id, b.clock.Now(), func(billing.Target) billing.Caps {
			return billing.Caps{SlotGranularity: time.Minute, MaxFuture: 5 * time.Minute}
		})
		require.NoError(t, err)
		n += sealed
	}
	for range 12 { // more than there are minutes, in the same second
		seal()
	}
	require.Equal(t, 8, n, "9:15 to 9:22")
	require.Equal(t, "8 09:15:00 09:22:00", b.text(t, `
		select count(distinct slot) || ' ' || to_char(min(slot) at time zone 'UTC', 'HH24:MI:SS') || ' ' ||
			to_char(max(slot) at time zone 'UTC', 'HH24:MI:SS') from mcpsaas.usage_batches`))
	b.clock.Advance(time.Minute)
	seal()
	require.Equal(t, 9, n, "the rest goes with the next free slot")
	require.Zero(t, b.stats(t, id).Unsealed)
}

// TestSlotsAtBounds: slots keep out of the windows that a period's bounds fall
// into, which a provider may count to either of two periods; unless there is
// nothing else.
//
// Seen failing with VerifyWindow ignored in slots.
func TestSlotsAtBounds(t *testing.T) {
	t.Parallel()
	records := billing.Caps{SlotGranularity: time.Second}
	for name, tc := range map[string]struct {
		start, until  time.Duration // of the period, from 09:17:23
		canceled      bool
		occurs, seals time.Duration
		caps          billing.Caps
		want          string // slots of two batches
	}{
		"first minute":          {0, time.Hour, false, 5 * time.Second, 10 * time.Second, meterCaps(billing.Target{}), "09:18:00 09:18:01"},
		"second minute":         {0, time.Hour, false, 50 * time.Second, 60 * time.Second, meterCaps(billing.Target{}), "09:18:13 09:18:14"},
		"last minute":           {-time.Hour, 20 * time.Second, false, 10 * time.Second, 15 * time.Second, meterCaps(billing.Target{}), "09:16:59 09:16:58"},
		"last minute, later":    {-time.Hour, 20 * time.Second, false, 10 * time.Second, 80 * time.Second, meterCaps(billing.Target{}), "09:16:59 09:16:58"},
		"within one minute":     {0, 20 * time.Second, true, 10 * time.Second, 40 * time.Second, meterCaps(billing.Target{}), "09:17:33 09:17:34"},
		"within one second":     {0, time.Second, true, 0, 40 * time.Second, meterCaps(billing.Target{}), "09:17:24 09:17:25"},
		"record, first second":  {0, time.Hour, false, 0, 10 * time.Second, records, "09:17:24 09:17:25"},
		"record, first minute":  {0, time.Hour, false, 5 * time.Second, 10 * time.Second, records, "09:17:28 09:17:29"},
		"record, last second":   {-time.Hour, 20 * time.Second, false, 19 * time.Second, 19 * time.Second, records, "09:17:42 09:17:41"},
		"record, not yet begun": {0, time.Hour, false, 0, 0, records, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			id := tenant.NewID()
			s := billing.Subscription{
				ID: "sub_1", Customer: "cus_1", Status: billing.Active, PeriodStart: start.Add(tc.start), PeriodEnd: start.Add(tc.until),
				Targets: []billing.Target{target(id, billing.ModeMeter)},
			}
			if tc.canceled {
				s.PeriodEnd = start.Add(time.Hour)
			}
			b.save(t, id, s)
			b.clock.Advance(tc.occurs)
			events := []usage.Event{b.event(id, 1), b.event(id, 1)}
			b.append(t, events...)
			b.clock.Advance(tc.seals - tc.occurs)
			if tc.canceled {
				s.Status, s.EndedAt = billing.Canceled, start.Add(tc.until)
				b.save(t, id, s)
			}
			caps := tc.caps
			caps.MaxQuantity = 1 // a batch for each event
			_, err := b.Seal(t.Context(), id, b.clock.Now(), func(billing.Target) billing.Caps { return caps })
			require.NoError(t, err)
			require.Equal(t, tc.want, b.text(t, `
				select coalesce(string_agg(to_char(slot at time zone 'UTC', 'HH24:MI:SS'), ' '
					order by events_in), '') from mcpsaas.usage_batches`))
		})
	}
}

// TestMaxQuantity: no batch is larger than the provider takes.
func TestMaxQuantity(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	b.subscribe(t, id, billing.ModeUsageRecord)
	for _, units := range []int64{60, 30, 20, 500, 1} {
		b.append(t, b.event(id, units))
		b.clock.Advance(time.Second)
	}
	sealed, err := b.Seal(t.Context(), id, b.clock.Now(), func(billing.Target) billing.Caps {
		return billing.Caps{SlotGranularity: time.Second, MaxQuantity: 100}
	})
	require.NoError(t, err)
	require.Equal(t, 4, sealed)
	require.Equal(t, "90 20 500 1", b.text(t, `select string_agg(quantity::text, ' ' order by slot) from mcpsaas.usage_batches`))
}

// TestClosingFirst: tenants whose period ends soon are worked on before all
// others.
func TestClosingFirst(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var closing tenant.ID
	for i := range 5 {
		id := tenant.NewID()
		s := b.subscribe(t, id, billing.ModeMeter)
		if i == 3 {
			closing = id
			s.PeriodEnd = start.Add(5 * time.Minute)
			b.save(t, id, s)
		}
		b.append(t, b.event(id, 1))
	}
	soon := start.Add(10 * time.Minute)
	backlog, err := b.Backlog(t.Context(), start, soon)
	require.NoError(t, err)
	require.Len(t, backlog.Tenants, 5)
	require.Equal(t, closing, backlog.Tenants[0])
	require.Equal(t, start.Add(5*time.Minute), backlog.NextClose)
	for _, id := range backlog.Tenants {
		_, err := b.Seal(t.Context(), id, b.clock.Now(), meterCaps)
		require.NoError(t, err)
	}
	open, err := b.Open(t.Context(), tenant.ID{}, soon)
	require.NoError(t, err)
	require.Len(t, open, 5)
	require.Equal(t, closing, open[0].Target.Tenant)
}
