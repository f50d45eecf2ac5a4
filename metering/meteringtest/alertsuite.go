package meteringtest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestAlertStore is what a metering.AlertStore must pass. open returns a handle
// of the same store each time, as replicas have them; nobody else uses it.
// Mutations seen here: Add that forgets what was told, Claim without a lease, Release
// by a claim that is over.
func TestAlertStore(t *testing.T, open func(t *testing.T) metering.AlertStore) {
	newAlert := func(id string) metering.Alert {
		start := time.Now().UTC().Truncate(time.Hour)
		return metering.Alert{
			ID: id, Tenant: tenant.NewID(), Plan: tenant.Pro, Limit: "hour", Mode: metering.Soft, Percent: 80, Used: 81, Allowed: 100,
			Start: start, End: start.Add(time.Hour), Time: start.Add(time.Minute),
		}
	}
	later := func() time.Time { return time.Now().Add(time.Hour) }
	// claimed waits until so many alerts have been claimed.
	claimed := func(t *testing.T, s metering.AlertStore, want int, lease time.Duration) []metering.Alert {
		t.Helper()
		var all []metering.Alert
		require.Eventually(t, func() bool {
			alerts, err := s.Claim(t.Context(), 100, lease)
			require.NoError(t, err)
			all = append(all, alerts...)
			return len(all) >= want
		}, time.Minute, time.Millisecond)
		require.Len(t, all, want)
		return all
	}
	none := func(t *testing.T, s metering.AlertStore) {
		t.Helper()
		alerts, err := s.Claim(t.Context(), 100, time.Hour)
		require.NoError(t, err)
		require.Empty(t, alerts)
	}

	t.Run("once", func(t *testing.T) {
		one, two := open(t), open(t)
		a := newAlert("once")
		for i, s := range []metering.AlertStore{one, two, one} {
			added, err := s.Add(t.Context(), a, later())
			require.NoError(t, err)
			require.Equal(t, i == 0, added)
		}
		got := claimed(t, two, 1, time.Hour)[0]
		a.Attempt = 1
		require.Equal(t, a, got)
		none(t, one)
		require.NoError(t, two.Release(t.Context(), got, -1))
		added, err := one.Add(t.Context(), a, later())
		require.NoError(t, err)
		require.False(t, added, "told alerts are remembered")
		none(t, two)
	})
	t.Run("at once", func(t *testing.T) {
		const replicas = 8
		var mu sync.Mutex
		var group sync.WaitGroup
		added, told := make(map[string]int), make(map[string]int)
		for range replicas {
			s := open(t)
			group.Go(func() {
				for i := range 20 {
					id := fmt.Sprint("at once ", i)
					ok, err := s.Add(t.Context(), newAlert(id), later())
					if err != nil {
						t.Error(err)
					}
					alerts, err := s.Claim(t.Context(), 2, time.Hour)
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					if ok {
						added[id]++
					}
					for _, a := range alerts {
						told[a.ID]++
					}
					mu.Unlock()
				}
			})
		}
		group.Wait()
		for i := range 20 {
			id := fmt.Sprint("at once ", i)
			require.Equal(t, 1, added[id])
			require.Equal(t, 1, told[id])
		}
	})
	t.Run("lease", func(t *testing.T) {
		one, two := open(t), open(t)
		_, err := one.Add(t.Context(), newAlert("lease"), later())
		require.NoError(t, err)
		first := claimed(t, one, 1, 20*time.Millisecond)[0]
		second := claimed(t, two, 1, time.Hour)[0] // the first has died
		require.Equal(t, 1, first.Attempt)
		require.Equal(t, 2, second.Attempt)
		require.NoError(t, one.Release(t.Context(), first, 0))
		none(t, one) // it lives, and is too late to say anything
		require.NoError(t, two.Release(t.Context(), second, 0))
		third := claimed(t, one, 1, time.Hour)[0]
		require.Equal(t, 3, third.Attempt)
		require.NoError(t, one.Release(t.Context(), third, 10*time.Millisecond))
		fourth := claimed(t, two, 1, time.Hour)[0]
		require.NoError(t, two.Release(t.Context(), fourth, -1))
		none(t, one)
	})
	t.Run("most", func(t *testing.T) {
		s := open(t)
		for i := range 5 {
			_, err := s.Add(t.Context(), newAlert(fmt.Sprint("most ", i)), later())
			require.NoError(t, err)
		}
		alerts, err := s.Claim(t.Context(), 3, time.Hour)
		require.NoError(t, err)
		require.Len(t, alerts, 3)
		require.Len(t, claimed(t, s, 2, time.Hour), 2)
	})
}
