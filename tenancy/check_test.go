package tenancy_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestCheckPool keeps callers waiting for the only connection, until the check
// sees the queue; without it, it is green, also right after connections were
// opened.
//
// Mutation that it saw: a bound that no queue reaches.
func TestCheckPool(t *testing.T) {
	t.Parallel()
	b := setup(t)
	db := b.open(t, b.As(tenancy.AppRole), &tenancy.Options{MaxConns: 1})
	require.NoError(t, db.Check(t.Context()))

	ctx, stop := context.WithCancel(as(t.Context(), tenant.NewID()))
	var callers sync.WaitGroup
	for range 4 { // one at work, so that three wait
		callers.Go(func() {
			for ctx.Err() == nil {
				_, _ = db.Exec(ctx, `select pg_sleep(0.01)`)
			}
		})
	}
	var err error
	require.Eventually(t, func() bool {
		err = db.Check(t.Context())
		return errors.Is(err, tenancy.ErrPoolExhausted)
	}, 30*time.Second, 50*time.Millisecond)
	var degraded interface{ HealthDegraded() bool }
	require.ErrorAs(t, err, &degraded)
	require.True(t, degraded.HealthDegraded(), "calls get through")

	stop()
	callers.Wait()
	require.Eventually(t, func() bool { return db.Check(t.Context()) == nil }, 30*time.Second, 50*time.Millisecond)
}
