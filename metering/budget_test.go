package metering_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// sluggish is a limiter in memory that takes as long as it may to answer, or hangs,
// or refuses. It counts what it is asked.
type sluggish struct {
	limiterFunc
	hangs, refuses atomic.Bool
	asked          atomic.Int64
}

func newSluggish(takes time.Duration) *sluggish {
	memory := metering.NewMemory(nil)
	l := &sluggish{}
	answer := func(ctx context.Context) error {
		l.asked.Add(1)
		if l.refuses.Load() {
			return errAway
		}
		if l.hangs.Load() {
			<-ctx.Done()
			return ctx.Err()
		}
		<-time.After(takes)
		return nil
	}
	l.Limiter = memory
	l.take = func(ctx context.Context, r metering.Request) (metering.Decision, error) {
		if err := answer(ctx); err != nil {
			return metering.Decision{}, err
		}
		return memory.Take(ctx, r)
	}
	l.settle = func(ctx context.Context, d metering.Decision, units int64) (int64, error) {
		if err := answer(ctx); err != nil {
			return 0, err
		}
		return memory.Settle(ctx, d, units)
	}
	return l
}

// Check hangs as well; nothing that it does is for a call.
func (l *sluggish) Check(ctx context.Context) error {
	if l.hangs.Load() {
		<-ctx.Done()
	}
	return ctx.Err()
}

// By default a call is held up for 25 ms by one question before its tool runs and
// for 25 ms by one after, for 50 ms in a crowd that finds the limiter gone, and by
// nothing once the breaker is open. The clock stands still while anything runs.
//
// Mutations seen here: a budget of 250 ms, or none; a question that is asked again
// within its budget or after it; a breaker that never opens, or lets two through a
// second; calls that are the probe although Run is.
func TestBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const budget, slow = 25 * time.Millisecond, 24 * time.Millisecond
		defer func() { <-time.After(time.Minute) }() // what is waited for behind the calls ends
		limiter, sink := newSluggish(slow), &meteringtest.Sink{}
		meter, err := metering.New(limiter, sink, &metering.Options{Tools: map[string]metering.Tool{"report": {Units: 20}}})
		require.NoError(t, err)
		who := newTenant(tenant.Pro)
		call := func(h handler) (took time.Duration) {
			began := time.Now()
			_, _ = invoke(tenant.NewContext(t.Context(), who), metering.WithMetering(meter, "report", h), "report", nil)
			return time.Since(began)
		}
		held := func(h handler, want time.Duration, questions int64) {
			t.Helper()
			before := limiter.asked.Load()
			require.Equal(t, want, call(h))
			require.Equal(t, questions, limiter.asked.Load()-before)
		}
		held(ok, slow, 1)
		held(fails, 2*slow, 2)
		hangsMeanwhile := func(h handler) handler {
			return func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
				limiter.hangs.Store(true)
				return h(ctx, req, in)
			}
		}
		for _, h := range []handler{fails, charges(7), charges(70)} {
			held(hangsMeanwhile(h), slow+budget, 2)
			held(h, budget, 1)
			limiter.hangs.Store(false)
			held(ok, slow, 1)
		}

		limiter.refuses.Store(true)
		held(fails, 0, 1)
		limiter.refuses.Store(false)
		held(func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
			limiter.refuses.Store(true)
			return fails(ctx, req, in)
		}, slow, 2)
		limiter.refuses.Store(false)

		// Nothing is known of the event of a call either: its units are to go back.
		sink.Fail(errors.New("disk full"))
		held(hangsMeanwhile(ok), slow+budget, 2)
		limiter.hangs.Store(false)
		held(charges(7), 3*slow, 3)
		sink.Fail(nil)
		limiter.hangs.Store(true)

		var crowd sync.WaitGroup
		var longest atomic.Int64
		for range 500 {
			crowd.Go(func() {
				took := int64(call(fails))
				for was := longest.Load(); took > was && !longest.CompareAndSwap(was, took); was = longest.Load() {
				}
			})
		}
		crowd.Wait()
		require.LessOrEqual(t, time.Duration(longest.Load()), 2*budget)
		require.True(t, meter.Stats().BreakerOpen)
		for range 3 {
			for range 20 {
				held(fails, 0, 0)
			}
			<-time.After(time.Second - 1)
			held(fails, 0, 0)
			<-time.After(1)
			held(fails, budget, 1)
		}

		// While Run runs, it is what asks whether the limiter is there again.
		<-time.After(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- meter.Run(ctx) }()
		synctest.Wait()
		for range 20 {
			held(fails, 0, 0)
			<-time.After(300 * time.Millisecond)
		}
		cancel()
		require.NoError(t, <-ended)
	})
}
