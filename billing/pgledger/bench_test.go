package pgledger_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
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
	duration_us, unmetered, request_id, due, batch_id, bill_at)
select gen_random_uuid(), lpad(to_hex(i % 1000 + 1), 32, '0')::uuid, 'search', 'pro', 1, 'ok',
	$1::timestamptz + i * interval '1 ms', $1::timestamptz + i * interval '1 ms', 1000, false, '',
	i > $2::bigint - 10000, case when i <= $2::bigint - 10000 then gen_random_uuid() end, $1::timestamptz + i * interval '1 ms'
from generate_series(1, $2::bigint) as i`

// lagSQL is the first number of Stats.
const lagSQL = `select recorded_at from mcpsaas.usage_events where due order by recorded_at limit 1`

// BenchmarkStats is the query behind the health checks on a large table (3
// million events with SOAK), for everything and for one tenant; and the age of
// the oldest event that is not reported alone.
func BenchmarkStats(bm *testing.B) {
	b := setup(bm)
	rows := 300_000
	if devtest.Soak() {
		rows *= 10
	}
	_, err := b.pool.Exec(bm.Context(), fillSQL, start, rows)
	require.NoError(bm, err)
	_, err = b.db.Conn(bm, "postgres").Exec(bm.Context(), `vacuum analyze mcpsaas.usage_events`)
	require.NoError(bm, err)
	plan, err := b.pool.Query(bm.Context(), `explain (analyze, buffers, costs off) `+lagSQL)
	require.NoError(bm, err)
	lines, err := pgx.CollectRows(plan, pgx.RowTo[string])
	require.NoError(bm, err)
	bm.Logf("%d events:\n%s", rows, strings.Join(lines, "\n"))
	bm.Run("lag", func(bm *testing.B) {
		for bm.Loop() {
			var oldest time.Time
			require.NoError(bm, b.pool.QueryRow(bm.Context(), lagSQL).Scan(&oldest))
		}
	})
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

// fillTenantsSQL has n tenants pay for a month and make one call each.
const fillTenantsSQL = `
with t as (
	select i, lpad(to_hex(i), 32, '0')::uuid as id, 'cus_' || i as customer from generate_series(1, $3::int) as i
), s as (
	insert into mcpsaas.billing_subscriptions (id, tenant_id, customer, status, plan, period_start, period_end,
		cancel_at_period_end, collection_paused, seq, updated_at)
	select 'sub_' || i, id, customer, 'active', 'pro', $1, $2, false, false, i, $1 from t
), targets as (
	insert into mcpsaas.billing_targets (tenant_id, provider, mode, customer, meter, meter_id, item, key)
	select id, 'test', 'meter', customer, 'calls', 'mtr_calls', '', customer || '/calls' from t
	returning id, tenant_id, customer
), periods as (
	insert into mcpsaas.billing_periods (tenant_id, target_id, subscription_id, period_start, period_end, since, until, live)
	select tenant_id, id, 'sub_' || substr(customer, 5), $1, $2, $1, $2, true from targets
)
insert into mcpsaas.usage_events (event_id, tenant_id, tool, plan, units, outcome, occurred_at, recorded_at,
	duration_us, unmetered, request_id, due, bill_at)
select gen_random_uuid(), id, 'search', 'pro', 1, 'ok', $4::timestamptz, $4::timestamptz, 1000, false, '', true, $4::timestamptz from t`

// thousandASecond answers after a while, at the rate of a meter.
type thousandASecond struct {
	*billingtest.Provider
	latency time.Duration
}

func (r thousandASecond) Report(ctx context.Context, d billing.Delivery) (billing.Receipt, error) {
	timer := time.NewTimer(r.latency)
	defer timer.Stop()
	select {
	case <-timer.C:
		return r.Provider.Report(ctx, d)
	case <-ctx.Done():
		return billing.Receipt{}, ctx.Err()
	}
}

func (r thousandASecond) Caps(t billing.Target) billing.Caps {
	caps := r.Provider.Caps(t)
	caps.MaxPerSecond = 1000
	return caps
}

// BenchmarkTick is one pass over ten thousand targets, each with a call to
// report, at a provider that answers after 100 milliseconds and takes a thousand
// requests a second. It has five minutes.
func BenchmarkTick(bm *testing.B) {
	const targets = 10_000
	b := setup(bm)
	_, err := b.pool.Exec(bm.Context(), fillTenantsSQL, start.AddDate(0, 0, -1), start.AddDate(0, 1, -1), targets, start)
	require.NoError(bm, err)
	_, err = b.db.Conn(bm, "postgres").Exec(bm.Context(), `vacuum analyze`)
	require.NoError(bm, err)
	for bm.Loop() {
		bm.StopTimer()
		_, err = b.pool.Exec(bm.Context(), `update mcpsaas.usage_events set due = true, batch_id = null`)
		require.NoError(bm, err)
		b.clock.Advance(time.Second)
		provider := thousandASecond{billingtest.NewProvider(billing.ModeMeter, b.clock.Now), 100 * time.Millisecond}
		w, err := billing.NewWorker(b.Ledger, provider, &billing.WorkerOptions{Now: b.clock.Now})
		require.NoError(bm, err)
		bm.StartTimer()
		require.NoError(bm, w.Tick(bm.Context()))
		bm.StopTimer()
		require.Equal(bm, targets, provider.Calls())
		stats := b.stats(bm, tenant.ID{})
		require.Zero(bm, stats.Unsealed+stats.Open)
		bm.StartTimer()
	}
	bm.ReportMetric(bm.Elapsed().Seconds()/float64(bm.N), "s/tick")
	bm.ReportMetric(float64(targets*bm.N)/bm.Elapsed().Seconds(), "targets/s")
}

// fillBatchesSQL gives a target a batch every so many seconds, n of them, all
// confirmed.
const fillBatchesSQL = `
insert into mcpsaas.usage_batches (id, events_in, tenant_id, target_id, period_start, period_end, quantity, events,
	first_event, last_event, slot, state, sealed_at, first_sent_at, last_sent_at, next_at, confirmed_at)
select gen_random_uuid(), gen_random_uuid(), t.tenant_id, t.id, $1, $2, 1, 1, s, s, s, 'confirmed', s, s, s, s, s
from mcpsaas.billing_targets t, (
	select $3::timestamptz - i * $4::interval as s from generate_series(1, $5::int) as i) as slots`

// BenchmarkSeal is an event made into a batch, and that batch claimed when it
// is in doubt, beside 200,000 earlier ones: one each two seconds, or each
// second, where the newest is the only free one.
func BenchmarkSeal(bm *testing.B) {
	for name, every := range map[string]time.Duration{"sparse": 2 * time.Second, "dense": time.Second} {
		b := setup(bm)
		id := tenant.NewID()
		s := b.subscribe(bm, id, billing.ModeMeter)
		_, err := b.pool.Exec(bm.Context(), fillBatchesSQL, s.PeriodStart, s.PeriodEnd, start, every, 200_000)
		require.NoError(bm, err)
		_, err = b.db.Conn(bm, "postgres").Exec(bm.Context(), `vacuum analyze mcpsaas.usage_batches`)
		require.NoError(bm, err)
		send := func(billing.Batch) billing.Decision { return billing.Decision{Step: billing.StepSend} }
		open := func() int64 {
			targets, err := b.Open(bm.Context(), id, b.clock.Now())
			require.NoError(bm, err)
			return targets[0].ID
		}
		bm.Run(name+"/seal", func(bm *testing.B) {
			for bm.Loop() {
				bm.StopTimer()
				b.clock.Advance(every)
				b.append(bm, b.event(id, 1))
				bm.StartTimer()
				n, err := b.Seal(bm.Context(), id, b.clock.Now(), meterCaps)
				require.NoError(bm, err)
				require.Equal(bm, 1, n)
			}
		})
		bm.Run(name+"/claim", func(bm *testing.B) {
			to := open()
			for bm.Loop() {
				c, err := b.Claim(bm.Context(), to, b.clock.Now(), 0, meterCaps(billing.Target{}), send)
				require.NoError(bm, err)
				require.NotNil(bm, c)
			}
		})
	}
}
