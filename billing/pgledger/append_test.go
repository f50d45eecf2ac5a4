package pgledger_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestAppendOnce: an event is stored and counted once, however often, in
// whatever company and by how many it is sent.
//
// Seen failing with on conflict taken out of appendSQL.
func TestAppendOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	var events []usage.Event
	for range 200 {
		events = append(events, b.event(id, 2))
		b.clock.Advance(time.Second)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for i := range 8 {
		wg.Go(func() {
			mine := append([]usage.Event(nil), events[i*20:]...)
			if i%2 == 1 { // the other way round, and twice in one call
				for l, r := 0, len(mine)-1; l < r; l, r = l+1, r-1 {
					mine[l], mine[r] = mine[r], mine[l]
				}
				mine = append(mine, mine[0])
			}
			added, err := b.Append(t.Context(), mine)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			total += added
		})
	}
	wg.Wait()
	require.Equal(t, 200, total)
	got, err := b.Usage(t.Context(), id, start, start.Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, []pgledger.ToolUsage{{Tool: "search", Units: 400, Calls: 200, OK: 200}}, got)
	require.Equal(t, "200 400", b.text(t, `select sum(calls) || ' ' || sum(units) from mcpsaas.usage_hourly`))
}

// TestAppendRefuses names what is wrong and stores nothing of the batch.
func TestAppendRefuses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	for name, tc := range map[string]struct {
		spoil func(*usage.Event)
		want  string
	}{
		"id":     {func(e *usage.Event) { e.ID = "' or 1=1" }, "is not a UUID"},
		"tenant": {func(e *usage.Event) { e.Tenant = tenant.ID{} }, "Tenant: is empty"},
		"time":   {func(e *usage.Event) { e.Time = time.Time{} }, "Time: is zero"},
		"units":  {func(e *usage.Event) { e.Units = -1 }, "Units: -1 is negative"},
	} {
		good, bad := b.event(id, 1), b.event(id, 1)
		tc.spoil(&bad)
		_, err := b.Append(t.Context(), []usage.Event{good, bad})
		require.ErrorContains(t, err, tc.want, name)
	}
	require.Equal(t, "0", b.text(t, `select count(*)::text from mcpsaas.usage_events`))
	added, err := b.Append(t.Context(), nil)
	require.NoError(t, err)
	require.Zero(t, added)
}

// TestAppendMends: text that can't be stored must not hold up what is behind
// it.
func TestAppendMends(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	e := b.event(id, 1)
	e.Tool, e.RequestID, e.Plan = "a\x00b\xff", strings.Repeat("é", 5000), "\x00"
	b.append(t, e)
	for got, err := range b.Events(t.Context(), id) {
		require.NoError(t, err)
		require.Equal(t, "ab", got.Tool)
		require.Equal(t, strings.Repeat("é", 128), got.RequestID)
	}
}

// TestUsage adds up by tool and outcome, to the event at both ends.
func TestUsage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	var want []usage.Event
	for i := range 300 { // five hours, a call each minute
		e := b.event(id, int64(i))
		if i%3 == 0 {
			e.Tool, e.Outcome, e.Units = "report", usage.Denied, 0
		}
		if i%7 == 0 {
			e.Outcome = usage.Panicked
		}
		want = append(want, e)
		b.clock.Advance(time.Minute)
	}
	b.append(t, want...)
	b.append(t, b.event(tenant.NewID(), 1000))
	for _, span := range [][2]int{{0, 300}, {0, 1}, {1, 299}, {43, 103}, {10, 40}, {50, 50}, {42, 44}} {
		from, to := start.Add(time.Duration(span[0])*time.Minute), start.Add(time.Duration(span[1])*time.Minute)
		sums := map[string]pgledger.ToolUsage{}
		for _, e := range want[span[0]:span[1]] {
			u := sums[e.Tool]
			u.Tool = e.Tool
			u.Calls++
			u.Units += e.Units
			switch e.Outcome {
			case usage.OK:
				u.OK++
			case usage.Denied:
				u.Denied++
			default:
				u.Failed++
			}
			sums[e.Tool] = u
		}
		got, err := b.Usage(t.Context(), id, from, to)
		require.NoError(t, err)
		require.Len(t, got, len(sums), span)
		for _, u := range got {
			require.Equal(t, sums[u.Tool], u, span)
		}
	}
}

// TestEvents gives back every event as it came in, over several pages.
func TestEvents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	var want []usage.Event
	for i := range 4500 {
		e := b.event(id, int64(i))
		e.Unmetered = i%2 == 0
		want = append(want, e)
		if i%10 == 0 { // many at the same time
			b.clock.Advance(time.Second)
		}
	}
	b.append(t, want...)
	b.append(t, b.event(tenant.NewID(), 1))
	n := 0
	seen := map[string]usage.Event{}
	for e, err := range b.Events(t.Context(), id) {
		require.NoError(t, err)
		seen[e.ID] = e
		n++
	}
	require.Equal(t, len(want), n)
	for _, e := range want {
		require.Equal(t, e, seen[e.ID])
	}
	for range b.Events(t.Context(), id) {
		break // an early end is no error
	}
}

// TestFreeTenant: usage of who has no subscription is kept, is nobody's debt,
// and does not become one; what occurs in a later subscription's period is.
func TestFreeTenant(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	b.append(t, b.event(id, 100))
	require.Equal(t, billing.Stats{}, b.stats(t, tenant.ID{}))
	b.clock.Advance(time.Hour)
	// Occurs after the checkout, and is stored before its webhook is applied.
	paid := b.clock.Now()
	b.append(t, b.event(id, 7))
	b.clock.Advance(time.Minute)
	s := billing.Subscription{
		ID: "sub_1", Customer: "cus_1", Status: billing.Active, PeriodStart: paid, PeriodEnd: paid.AddDate(0, 1, 0),
		Targets: []billing.Target{target(id, billing.ModeMeter)},
	}
	b.save(t, id, s)
	require.Equal(t, 1, b.stats(t, id).Unsealed)
	sealed, err := b.Seal(t.Context(), id, b.clock.Now(), meterCaps)
	require.NoError(t, err)
	require.Equal(t, 1, sealed)
	require.Equal(t, "7", b.text(t, `select quantity::text from mcpsaas.usage_batches`))
	// Calls that were charged nothing are in no batch.
	b.append(t, b.event(id, 0))
	require.Zero(t, b.stats(t, id).Unsealed)
}

func meterCaps(billing.Target) billing.Caps {
	return billing.Caps{SlotGranularity: time.Second, VerifyWindow: time.Minute, MaxFuture: 5 * time.Minute, LateGrace: 50 * time.Minute}
}

// TestAppendRace: usage on its way in while the subscription is being saved is
// billed, whichever of the two commits first.
//
// Seen failing with lockAppendSQL taken out of Append.
func TestAppendRace(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for range 40 {
		id := tenant.NewID()
		events := make([]usage.Event, 300)
		for i := range events {
			events[i] = b.event(id, 1)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := b.Append(t.Context(), events); err != nil {
				t.Error(err)
			}
		})
		b.subscribe(t, id, billing.ModeMeter)
		wg.Wait()
		require.Equal(t, 300, b.stats(t, id).Unsealed, fmt.Sprint(id))
	}
}

// TestUnits: whole hours by the rollup and the rest by the events make one sum, to
// the event, for one tool and for all. Some events are on the hour.
//
// Mutations seen here: <= for <, or > for >=, in each of the six places, and either
// half for all tools.
func TestUnits(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	now := b.clock.Now()
	b.clock.Advance(now.Truncate(time.Hour).Add(time.Hour).Sub(now))
	var events []usage.Event
	for i := range 40 {
		e := b.event(id, int64(1)<<i)
		e.Tool = []string{"search", "report"}[i%2]
		events = append(events, e)
		b.clock.Advance(6 * time.Minute)
	}
	b.append(t, events...)
	b.append(t, b.event(tenant.NewID(), 1))
	for from := range events {
		for to := from; to < len(events); to += 3 {
			want := map[string]int64{}
			for _, e := range events[from:to] {
				want[""] += e.Units
				want[e.Tool] += e.Units
			}
			for _, tool := range []string{"", "search", "report"} {
				units, err := b.Units(t.Context(), id, tool, events[from].Time, events[to].Time)
				require.NoError(t, err)
				require.Equal(t, want[tool], units, "%d to %d of %q", from, to, tool)
			}
		}
	}
}
