package pgledger_test

import (
	"errors"
	"iter"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func offered(events ...usage.Event) iter.Seq2[usage.Event, error] {
	return func(yield func(usage.Event, error) bool) {
		for _, e := range events {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// TestBackfill: what is missing is added once, what is there stays as it is, and
// what may have been billed and dropped is left out.
//
// Seen failing when a dry run adds.
func TestBackfill(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, free := tenant.NewID(), tenant.NewID()
	sub := b.subscribe(t, id, billing.ModeMeter)
	there, missing, unbilled, denied := b.event(id, 5), b.event(id, 6), b.event(free, 8), b.event(id, 0)
	missing.Time = missing.Time.Add(-2 * time.Hour)
	b.append(t, there)
	conflicting, foreign := there, b.event(free, 9)
	conflicting.Units = 50
	b.append(t, foreign)
	foreign.Tenant = id
	old := b.event(id, 10)
	old.Time = start.AddDate(0, 0, -36)
	all := []usage.Event{there, missing, missing, unbilled, denied, conflicting, foreign, old}
	counts := func() int64 {
		var n int64
		require.NoError(t, b.pool.QueryRow(t.Context(), `select count(*) from mcpsaas.usage_events`).Scan(&n))
		return n
	}

	dry, err := b.Backfill(t.Context(), offered(all...), "", "", true)
	require.NoError(t, err)
	require.EqualValues(t, 2, counts())
	want := dry
	want.DryRun = false
	require.Equal(t, 8, dry.Read)
	require.Equal(t, 3, dry.Added)
	require.EqualValues(t, 14, dry.Units)
	require.EqualValues(t, 6, dry.Billable)
	require.Equal(t, 1, dry.TooOld)
	// One of the two events of the same id is named first, so the other is the known one.
	require.Equal(t, 1, dry.Conflicting)
	require.Equal(t, 3, dry.Known)
	require.Equal(t, []string{foreign.ID}, dry.Conflicts)
	require.Equal(t, missing.Time, dry.First)
	require.Equal(t, start, dry.Last)

	_, err = b.Backfill(t.Context(), offered(all...), "ann", "", false)
	require.ErrorContains(t, err, "reason")
	did, err := b.Backfill(t.Context(), offered(all...), "ann", "disk of host 7", false)
	require.NoError(t, err)
	require.Equal(t, want, did)
	require.EqualValues(t, 5, counts())
	again, err := b.Backfill(t.Context(), offered(all...), "ann", "disk of host 7", false)
	require.NoError(t, err)
	require.Zero(t, again.Added)
	require.Zero(t, again.Units)
	require.EqualValues(t, 5, counts())
	var noted int64
	require.NoError(t, b.pool.QueryRow(t.Context(), `
		select count(*) from mcpsaas.billing_operations where verb = 'backfill' and actor = 'ann' and reason = 'disk of host 7'`).Scan(&noted))
	require.EqualValues(t, 4, noted, "each is on record when it begins and when it ends")

	provider := billingtest.NewProvider(billing.ModeMeter, b.clock.Now)
	require.NoError(t, b.worker(t, provider).Tick(t.Context()))
	require.EqualValues(t, 11, billed(provider, sub.Targets[0]))
}

// TestBackfillPages: more than fits a page, an event of the same id on two pages,
// and a file that ends in the middle of one.
func TestBackfillPages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	events := make([]usage.Event, 5001)
	for i := range events {
		events[i] = b.event(id, 1)
	}
	events = append(events, events[0])
	did, err := b.Backfill(t.Context(), offered(events...), "ann", "test", false)
	require.NoError(t, err)
	require.Equal(t, 5001, did.Added)
	require.Equal(t, 1, did.Known)

	broken := errors.New("unreadable")
	last := b.event(id, 3)
	did, err = b.Backfill(t.Context(), func(yield func(usage.Event, error) bool) {
		_ = yield(last, nil) && yield(usage.Event{}, broken)
	}, "ann", "test", false)
	require.ErrorIs(t, err, broken)
	require.Equal(t, 1, did.Added, "what came before is added")
	_, err = b.Backfill(t.Context(), offered(usage.Event{ID: tenant.NewID().String()}), "ann", "test", false)
	require.ErrorContains(t, err, "Tenant: is empty")
}
