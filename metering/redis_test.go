package metering_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// A thousand calls at once, one unit short of the quota: one is admitted, and
// the crowd is not taken for an outage.
func TestThousandCallsOnRedis(t *testing.T) {
	t.Parallel()
	b, _ := onRedis(t, 5*time.Second)
	search := metering.WithMetering(b.meter, "search", ok)
	for range 99 {
		_, err := invoke(b.ctx(t), search, "search", nil)
		require.NoError(t, err)
	}
	var admitted, denied atomic.Int64
	var all sync.WaitGroup
	for range 1_000 {
		all.Go(func() {
			_, err := invoke(b.ctx(t), search, "search", nil)
			switch {
			case err == nil:
				admitted.Add(1)
			case errors.Is(err, metering.ErrQuotaExceeded):
				denied.Add(1)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, admitted.Load())
	require.EqualValues(t, 999, denied.Load())
	b.requireCharged(t, 100)
	require.Zero(t, b.meter.Stats().Unavailable)
}

func BenchmarkWithMetering(b *testing.B) {
	plans := map[string]metering.Plan{
		"unlimited": {},
		"memory":    {Limits: []metering.Limit{metering.PerHour(metering.MaxUnits)}},
	}
	for name, plan := range plans {
		b.Run(name, func(b *testing.B) {
			discard := usage.SinkFunc(func(context.Context, usage.Event) error { return nil })
			meter, err := metering.New(metering.NewMemory(nil), discard, &metering.Options{Plans: map[tenant.Plan]metering.Plan{tenant.Free: plan}})
			require.NoError(b, err)
			h := metering.WithMetering(meter, "search", ok)
			ctx := tenant.NewContext(b.Context(), newTenant(tenant.Free))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := invoke(ctx, h, "search", nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("bare", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := invoke(b.Context(), ok, "search", nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
