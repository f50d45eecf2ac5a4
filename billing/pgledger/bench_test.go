package pgledger_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// BenchmarkAppend reports events per second for batches of one thousand and
// five thousand events of a hundred tenants.
func BenchmarkAppend(bm *testing.B) {
	for _, size := range []int{1000, 5000} {
		bm.Run(fmt.Sprint(size), func(bm *testing.B) {
			b := setup(bm)
			tenants := make([]tenant.ID, 100)
			for i := range tenants {
				tenants[i] = tenant.NewID()
				b.subscribe(bm, tenants[i], billing.ModeMeter)
			}
			events := make([]usage.Event, size)
			for bm.Loop() {
				bm.StopTimer()
				for i := range events {
					events[i] = b.event(tenants[i%len(tenants)], 1)
				}
				b.clock.Advance(time.Second)
				bm.StartTimer()
				_, err := b.Append(bm.Context(), events)
				require.NoError(bm, err)
			}
			bm.ReportMetric(float64(size*bm.N)/bm.Elapsed().Seconds(), "events/s")
		})
	}
}

// fillSQL stores n events of 1,000 tenants, all but the last 10,000 of them
// sealed long ago.
const fillSQL = `
insert into mcpsaas.usage_events (event_id, tenant_id, tool, plan, units, outcome, occurred_at, recorded_at,
	duration_us, unmetered, request_id, due, batch_id)
select gen_random_uuid(), lpad(to_hex(i % 1000 + 1), 32, '0')::uuid, 'search', 'pro', 1, 'ok',
	$1::timestamptz + i * interval '1 ms', $1::timestamptz + i * interval '1 ms', 1000, false, '',
	i > $2::bigint - 10000, case when i <= $2::bigint - 10000 then gen_random_uuid() end
from generate_series(1, $2::bigint) as i`

// BenchmarkStats is the query behind the health checks on a large table, for
// everything and for one tenant.
func BenchmarkStats(bm *testing.B) {
	b := setup(bm)
	const rows = 300_000
	_, err := b.pool.Exec(bm.Context(), fillSQL, start, rows)
	require.NoError(bm, err)
	_, err = b.db.Conn(bm, "postgres").Exec(bm.Context(), `vacuum analyze mcpsaas.usage_events`)
	require.NoError(bm, err)
	for name, id := range map[string]tenant.ID{
		"all": {}, "tenant": tenant.MustParseID("00000000-0000-0000-0000-000000000007"),
	} {
		bm.Run(name, func(bm *testing.B) {
			for bm.Loop() {
				s, err := b.Stats(bm.Context(), id)
				require.NoError(bm, err)
				require.Positive(bm, s.Unsealed)
			}
		})
	}
}
