package metering_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Units that are lent count as used, so that no process needs to ask for the
// threshold to be found. Mutation: with decisions of a block left out by see, the
// first threshold is found late, by a call that asks, or never.
func TestAlertsOfLeases(t *testing.T) {
	t.Parallel()
	limiter, clock := meteringtest.NewLimiter()
	store := metering.NewMemoryAlerts(clock.Now)
	e := &ear{}
	var leased, admitted atomic.Int64
	var fleet []*bench
	for range 3 {
		b := newBenchOn(t, &limiterFunc{Limiter: limiter}, clock, &metering.Options{
			Plans:  map[tenant.Plan]metering.Plan{tenant.Pro: {Limits: []metering.Limit{metering.PerDay(10_000)}, Attempts: metering.PerHour(1_000_000)}},
			Alerts: &metering.AlertOptions{Tell: e.tell, Store: store, Timeout: 10 * time.Millisecond},
			Observe: func(o metering.Observation) {
				if o.Source == metering.SourceLease {
					leased.Add(1)
				}
				admitted.Add(o.Units)
			},
		})
		run(t, b.meter)
		require.Eventually(t, b.meter.Lends, time.Minute, time.Millisecond)
		fleet = append(fleet, b)
	}
	owner := newTenant(tenant.Pro)
	use := func(more func(calls int, err error) bool) {
		var group sync.WaitGroup
		for _, b := range fleet {
			h := metering.WithMetering(b.meter, "search", ok)
			group.Go(func() {
				var err error
				for n := 0; more(n, err); n++ {
					_, err = invoke(tenant.NewContext(t.Context(), owner), h, "search", nil)
				}
			})
		}
		group.Wait()
	}
	each := func(most int) func(int, error) bool {
		return func(calls int, _ error) bool { return calls < most }
	}
	percents := func(want ...int) {
		t.Helper()
		var heard []int
		require.Eventually(t, func() bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			heard = nil
			for _, a := range e.alerts {
				require.GreaterOrEqual(t, a.Used*100, int64(a.Percent)*a.Allowed)
				heard = append(heard, a.Percent)
			}
			return len(heard) >= len(want)
		}, time.Minute, time.Millisecond)
		slices.Sort(heard)
		require.Equal(t, want, heard)
	}
	use(each(2_400)) // 7,200, and a block of each at most beyond
	percents()
	use(each(267))
	require.EqualValues(t, 8_001, admitted.Load())
	percents(80)
	use(func(_ int, err error) bool { return err == nil }) // whoever was lent units has used them when it is refused
	require.EqualValues(t, 10_000, admitted.Load())
	percents(80, 95, 100)
	require.Greater(t, leased.Load(), admitted.Load()/2)
}
