package metering_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func withKey(key any) mcp.Meta { return mcp.Meta{metering.MetaIdempotencyKey: key} }

func TestSentAgain(t *testing.T) {
	t.Parallel()
	for _, plan := range []tenant.Plan{tenant.Free, tenant.Enterprise} {
		t.Run(string(plan), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			b.tenant = newTenant(plan)
			report := metering.WithMetering(b.meter, "report", ok)
			for range 3 {
				_, err := invoke(b.ctx(t), report, "report", withKey("first"))
				require.NoError(t, err)
			}
			require.EqualValues(t, 20, b.sink.Units(b.tenant.ID))
			_, err := invoke(b.ctx(t), report, "report", withKey("second"))
			require.NoError(t, err)
			_, err = invoke(b.ctx(t), metering.WithMetering(b.meter, "search", ok), "search", withKey("first"))
			require.NoError(t, err)
			require.EqualValues(t, 41, b.sink.Units(b.tenant.ID))
			if plan == tenant.Free {
				b.requireCharged(t, 41)
				require.EqualValues(t, 2, b.meter.Stats().Replayed)
			}
			require.Equal(t, "first", b.sink.Events()[0].RequestID)

			other := newTenant(plan)
			_, err = invoke(tenant.NewContext(t.Context(), other), report, "report", withKey("first"))
			require.NoError(t, err)
			require.EqualValues(t, 20, b.sink.Units(other.ID), "keys of tenants must not meet")
		})
	}
}

func TestSentAgainAfterFailure(t *testing.T) {
	t.Parallel()
	for _, plan := range []tenant.Plan{tenant.Free, tenant.Enterprise} {
		b := newBench(t, nil)
		b.tenant = newTenant(plan)
		_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "report", fails), "report", withKey("k"))
		require.Error(t, err)
		require.Zero(t, b.sink.Units(b.tenant.ID))
		for range 2 {
			_, err = invoke(b.ctx(t), metering.WithMetering(b.meter, "report", ok), "report", withKey("k"))
			require.NoError(t, err)
		}
		_, err = invoke(b.ctx(t), metering.WithMetering(b.meter, "report", fails), "report", withKey("k"))
		require.Error(t, err)
		require.EqualValues(t, 20, b.sink.Units(b.tenant.ID))
		if plan == tenant.Free {
			b.requireCharged(t, 20)
		}
	}
}

// Duplicates that run at the same time end in every order, some fail, some
// panic, some ask for another amount: what the events say is what the limiter
// counts.
//
// Mutation seen here: without the count of holders, the failure of one gives
// back what another has been billed for.
func TestDuplicatesAtOnce(t *testing.T) {
	t.Parallel()
	endings := []handler{ok, fails, panics, charges(5), charges(0)}
	for first := range endings {
		for second := range endings {
			for _, order := range [][2]int{{0, 1}, {1, 0}} {
				b := newBench(t, nil)
				var started, ended sync.WaitGroup
				var release [2]chan struct{}
				var done [2]chan struct{}
				for i, end := range []handler{endings[first], endings[second]} {
					release[i], done[i] = make(chan struct{}), make(chan struct{})
					started.Add(1)
					h := metering.WithMetering(b.meter, "report", func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
						started.Done()
						<-release[i]
						return end(ctx, req, in)
					})
					ended.Go(func() {
						defer close(done[i])
						_, _ = invoke(b.ctx(t), guarded(h), "report", withKey("k"))
					})
				}
				started.Wait()
				for _, i := range order {
					close(release[i])
					<-done[i]
				}
				ended.Wait()
				events, counted := b.units(t)
				require.Equal(t, counted, events, "endings %d and %d in order %v", first, second, order)
			}
		}
	}
}

func TestInvalidKey(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	for _, key := range []any{"", 7, nil, "a\x00b", "ü", strings.Repeat("x", 201), []string{"a"}} {
		_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "search", ok), "search", withKey(key))
		require.ErrorIs(t, err, metering.ErrInvalidKey, "%v", key)
	}
	b.requireCharged(t, 0)
}

func TestKeyOverHTTP(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	server := newServer()
	mcp.AddTool(server, &mcp.Tool{Name: "report"}, metering.WithMetering(b.meter, "report", ok))
	s := b.serve(t, server, true)
	for i := range 3 {
		res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "report", Meta: withKey("k")})
		require.NoError(t, err)
		require.False(t, res.IsError)
		if i > 0 {
			require.Equal(t, true, quota(t, res)["replay"])
		}
		require.EqualValues(t, 80, quota(t, res)["remaining"])
	}
	b.requireCharged(t, 20)
}

// A key that the limiter has forgotten is a new call, with an event of its own.
func TestKeyForgotten(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	report := metering.WithMetering(b.meter, "report", ok)
	ids := make(map[string]bool)
	for range 3 {
		_, err := invoke(b.ctx(t), report, "report", withKey("k"))
		require.NoError(t, err)
		b.clock.Advance(24 * time.Hour)
	}
	for _, e := range b.sink.Events() {
		require.Equal(t, usage.OK, e.Outcome)
		ids[e.ID] = true
	}
	require.Len(t, ids, 3)
}
