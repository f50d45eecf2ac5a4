package metering_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// slow is a limiter in memory that answers when it is told to, whoever has given
// up meanwhile, as a server does that was sent a command. While a context is asked
// about, the function in giveUp ends it.
func slow(t *testing.T) (l *metering.Leased, memory *metering.Memory, answer chan struct{}, giveUp *atomic.Pointer[context.CancelFunc]) {
	memory, _ = meteringtest.NewLimiter()
	answer, giveUp = make(chan struct{}), &atomic.Pointer[context.CancelFunc]{}
	asked := func() {
		if cancel := giveUp.Swap(nil); cancel != nil {
			(*cancel)()
		}
		<-answer
	}
	behind := &limiterFunc{Limiter: memory}
	behind.take = func(ctx context.Context, r metering.Request) (metering.Decision, error) {
		asked()
		return memory.Take(context.WithoutCancel(ctx), r)
	}
	behind.settle = func(ctx context.Context, d metering.Decision, units int64) (int64, error) {
		asked()
		return memory.Settle(context.WithoutCancel(ctx), d, units)
	}
	l, err := metering.NewLeased(behind, nil)
	require.NoError(t, err)
	return l, memory, answer, giveUp
}

// release lets one question be answered.
func release(t *testing.T, answer chan struct{}) {
	t.Helper()
	select {
	case answer <- struct{}{}:
	case <-time.After(time.Minute):
		require.Fail(t, "nobody asks")
	}
}

// What a limiter took for a call that has given up is given back when the answer
// comes. Mutation seen here: without that, the units stay.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	leased, memory, answer, giveUp := slow(t)
	r := metering.Request{
		Tenant: tenant.NewID(), Units: 20, ID: "first", Key: "key", KeyTTL: time.Hour,
		Bounds: []metering.Bound{{Limit: metering.PerHour(100)}, {Limit: metering.Concurrent(1)}},
	}
	untouched := func() bool {
		d, err := memory.Peek(t.Context(), metering.Request{Tenant: r.Tenant, Bounds: r.Bounds})
		require.NoError(t, err)
		return d.Allowed && d.Limits[0].Remaining == 100
	}
	ctx, cancel := context.WithCancel(t.Context())
	giveUp.Store(&cancel)
	_, err := leased.Take(ctx, r)
	require.ErrorIs(t, err, context.Canceled)
	release(t, answer)
	release(t, answer) // the question to give it back
	require.Eventually(t, untouched, time.Minute, time.Millisecond)

	// Nothing of it is left under the key either.
	close(answer)
	r.ID = "second"
	d, err := leased.Take(t.Context(), r)
	require.NoError(t, err)
	require.False(t, d.Replay)
	require.Equal(t, "second", d.ID)
}

// A call is billed what it had taken if it asked for more and gave up.
//
// Mutation seen here: without giving back, the limiter counts more than the bill.
func TestLateSettlement(t *testing.T) {
	t.Parallel()
	leased, memory, answer, giveUp := slow(t)
	r := metering.Request{Tenant: tenant.NewID(), Units: 20, Bounds: []metering.Bound{{Limit: metering.PerHour(100)}}}
	d, err := memory.Take(t.Context(), r)
	require.NoError(t, err)
	left := func() int64 {
		d, err := memory.Peek(t.Context(), metering.Request{Tenant: r.Tenant, Bounds: r.Bounds})
		require.NoError(t, err)
		return d.Limits[0].Remaining
	}
	settle := func(units int64) {
		ctx, cancel := context.WithCancel(t.Context())
		giveUp.Store(&cancel)
		_, err = leased.Settle(ctx, d, units)
		require.ErrorIs(t, err, context.Canceled)
	}
	settle(50)
	release(t, answer)
	require.Eventually(t, func() bool { return left() == 50 }, time.Minute, time.Millisecond)
	release(t, answer)
	require.Eventually(t, func() bool { return left() == 80 }, time.Minute, time.Millisecond)

	settle(0)
	close(answer)
	require.Eventually(t, func() bool { return left() == 100 }, time.Minute, time.Millisecond)
}

// Redis hangs in the middle of a crowd of calls, which are refused. It runs
// their scripts when it goes on; what they took is given back.
//
// Mutation seen here: without giving back, what is left is less than the limit.
func TestLateRedis(t *testing.T) {
	t.Parallel()
	b, server := onRedis(t, time.Second)
	report := metering.WithMetering(b.meter, "report", ok)
	stop := run(t, b.meter)
	ctx := b.ctx(t)
	require.Eventually(t, func() bool { return b.meter.Check(ctx) == nil }, time.Minute, time.Millisecond)
	scripts := server.Scripts()
	server.Freeze()
	var all sync.WaitGroup
	for range 4 { // of 20 units: more would be refused by the limit
		all.Go(func() {
			_, err := invoke(ctx, report, "report", nil)
			if !errors.Is(err, metering.ErrUnavailable) {
				t.Error("a call was decided while Redis hung:", err)
			}
		})
	}
	all.Wait()
	server.Thaw()
	require.Eventually(t, func() bool { return server.Scripts() == scripts+8 }, time.Minute, time.Millisecond, "each was taken and given back")
	stop()
	b.requireCharged(t, 0)
}

// A block comes back when the limiter does, once, whatever became of the first
// tries. Mutations seen here: without a second try a block stays used, and
// without the name of the loan it is given back twice.
func TestBlockReturnedLater(t *testing.T) {
	t.Parallel()
	memory, clock := meteringtest.NewLimiter()
	behind := &limiterFunc{Limiter: memory}
	var mu sync.Mutex
	tries := 0
	behind.settle = func(ctx context.Context, d metering.Decision, units int64) (int64, error) {
		mu.Lock()
		defer mu.Unlock()
		switch tries++; tries {
		case 1:
			return 0, errors.New("it was not done")
		case 2:
			_, err := memory.Settle(ctx, d, units)
			return 0, fmt.Errorf("it was done, but who knows: %w", err)
		}
		return memory.Settle(ctx, d, units)
	}
	leased := runLeased(t, behind, &metering.LeasedOptions{Now: clock.Now})
	r := metering.Request{Tenant: tenant.NewID(), Units: 1, Bounds: []metering.Bound{{Limit: metering.PerHour(10_000)}}}
	taken := int64(0)
	for leases := 0; leases < 10; taken++ {
		d, err := leased.Take(t.Context(), r)
		require.NoError(t, err)
		if d.Source == metering.SourceLease {
			leases++
		}
	}
	clock.Advance(time.Second)
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return tries >= 3
	}, time.Minute, time.Millisecond)
	require.Eventually(t, func() bool {
		d, err := memory.Peek(t.Context(), metering.Request{Tenant: r.Tenant, Bounds: r.Bounds})
		require.NoError(t, err)
		require.LessOrEqual(t, d.Limits[0].Remaining, 10_000-taken, "given back twice")
		return d.Limits[0].Remaining == 10_000-taken
	}, time.Minute, time.Millisecond)
}
