package metering_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
)

func runLeased(t testing.TB, limiter metering.Limiter, opts *metering.LeasedOptions) *metering.Leased {
	t.Helper()
	leased, err := metering.NewLeased(limiter, opts)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- leased.Run(ctx) }()
	require.Eventually(t, leased.Runs, 10*time.Second, time.Millisecond)
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return leased
}

func TestLeasedLimiter(t *testing.T) {
	t.Parallel()
	meteringtest.TestLimiter(t, func(t *testing.T) meteringtest.LimiterFixture {
		memory, clock := meteringtest.NewLimiter()
		leased := runLeased(t, memory, &metering.LeasedOptions{MinUnits: 1, Now: clock.Now})
		return meteringtest.LimiterFixture{
			Limiter: leased, Now: clock.Now, Advance: clock.Advance, Calls: 20_000, Lends: true, Late: 200 * time.Millisecond,
		}
	})
}
