package pgledger_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestOutage: the database is away while 1,000 events a second come, for an
// hour (a minute without SOAK): all wait on the disk within the default size,
// not in memory, and all are stored when it is back.
func TestOutage(t *testing.T) {
	n := 60_000
	if devtest.Soak() {
		n *= 60
	}
	b := setup(t)
	tenants := make([]tenant.ID, 100)
	for i := range tenants {
		tenants[i] = tenant.NewID()
	}
	s, err := usage.OpenSpool(t.TempDir(), nil)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, b.Ledger) }()

	b.db.Stop(t)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	runtime.GC()
	before, most := heap(), uint64(0)
	var units int64
	began := time.Now()
	for i := range n {
		e := b.event(tenants[i%len(tenants)], int64(i%20))
		e.RequestID = ""
		require.NoError(t, s.Record(t.Context(), e))
		units += e.Units
		b.clock.Advance(time.Millisecond)
		if i%1000 == 0 {
			most = max(most, heap())
		}
	}
	recorded, stats := time.Since(began), s.Stats()
	require.EqualValues(t, n, stats.Events)
	b.db.Start(t)
	for flushed := false; !flushed; {
		if s.Stats().Stored == 0 {
			began = time.Now() // the spool waits for up to 10 seconds before it tries again
		}
		short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		flushed = s.Flush(short) == nil
		cancel()
		most = max(most, heap())
	}
	drained := time.Since(began)
	stop()
	require.NoError(t, <-done)
	require.NoError(t, s.Close())
	grown := max(int64(most)-int64(before), 0)
	require.Less(t, grown, int64(64<<20))
	for _, table := range []string{"usage_events", "usage_hourly"} {
		calls := map[string]string{"usage_events": "count(*)", "usage_hourly": "sum(calls)"}[table]
		require.Equal(t, fmt.Sprint(n, units), b.text(t, `select `+calls+` || ' ' || sum(units) from mcpsaas.`+table), table)
	}
	t.Logf("%d events of %d bytes recorded in %v, drained at %.0f/s, heap grown by %.1f MiB",
		n, stats.Bytes/int64(n), recorded.Round(time.Millisecond), float64(n)/drained.Seconds(), float64(grown)/(1<<20))
}
