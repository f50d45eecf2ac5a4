package pgledger_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestRun: what is stored is billed without anybody asking; Run ends when told
// to, after the call under way, whose answer is kept.
func TestRun(t *testing.T) {
	devtest.NoLeaks(t)
	b := setup(t)
	id := tenant.NewID()
	b.subscribe(t, id, billing.ModeMeter)
	b.append(t, b.event(id, 5))
	provider := billingtest.NewProvider(billing.ModeMeter, b.clock.Now)
	called, answer := make(chan struct{}), make(chan struct{})
	w, err := billing.NewWorker(b.Ledger, reporterFunc{provider, func(ctx context.Context, d billing.Delivery) (billing.Receipt, error) {
		close(called)
		<-answer
		return provider.Report(ctx, d)
	}}, &billing.WorkerOptions{Now: b.clock.Now, Interval: 20 * time.Millisecond, StallAfter: time.Minute})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	<-called
	cancel()
	close(answer)
	require.NoError(t, <-done)
	require.EqualValues(t, 5, billed(provider, target(id, billing.ModeMeter)))
	require.Equal(t, "confirmed", b.text(t, `select state from mcpsaas.usage_batches`))
}

// TestContinuous: with a short interval usage arrives within one pass, however
// many batches a minute that takes.
//
// Seen failing with slots of a minute, in the sixth second.
func TestContinuous(t *testing.T) {
	t.Parallel()
	for _, mode := range []billing.Mode{billing.ModeMeter, billing.ModeUsageRecord} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			id := tenant.NewID()
			// A tenant of long standing has free slots in its past.
			b.save(t, id, billing.Subscription{
				ID: "sub_1", Customer: "cus_1", Status: billing.Active, PeriodStart: start, PeriodEnd: start.AddDate(0, 1, 0),
				Targets: []billing.Target{target(id, mode)},
			})
			provider := billingtest.NewProvider(mode, b.clock.Now)
			w := b.worker(t, provider)
			for second := range int64(130) {
				b.append(t, b.event(id, 1))
				b.clock.Advance(time.Second)
				require.NoError(t, w.Tick(t.Context()))
				require.Equal(t, second+1, billed(provider, target(id, mode)))
			}
		})
	}
}

// TestDatabaseLost: the database goes away while the provider is being told;
// the batch is found again and billed once.
func TestDatabaseLost(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := tenant.NewID()
	b.subscribe(t, id, billing.ModeMeter)
	b.append(t, b.event(id, 5))
	provider := billingtest.NewProvider(billing.ModeMeter, b.clock.Now)
	admin := b.db.Conn(t, "postgres")
	calls := 0
	w := b.worker(t, reporterFunc{provider, func(ctx context.Context, d billing.Delivery) (billing.Receipt, error) {
		if calls++; calls == 1 {
			_, err := admin.Exec(ctx, `alter database `+b.db.Name+` connection limit 0`)
			if err != nil {
				return billing.Receipt{}, err
			}
			_, err = admin.Exec(ctx, `select pg_terminate_backend(pid, 10000) from pg_stat_activity
				where datname = current_database() and pid <> pg_backend_pid()`)
			if err != nil {
				return billing.Receipt{}, err
			}
		}
		return provider.Report(ctx, d)
	}})
	require.ErrorContains(t, w.Tick(t.Context()), "settle batch")
	_, err := admin.Exec(t.Context(), `alter database `+b.db.Name+` connection limit -1`)
	require.NoError(t, err)
	require.Equal(t, "sending", b.text(t, `select state from mcpsaas.usage_batches`))
	require.NoError(t, w.Tick(t.Context()))
	require.Equal(t, 1, calls, "its lease has not run out")
	b.clock.Advance(3 * time.Minute)
	require.NoError(t, w.Tick(t.Context()))
	require.Equal(t, 2, calls)
	require.EqualValues(t, 5, billed(provider, target(id, billing.ModeMeter)))
	require.NoError(t, w.CheckTenant(t.Context(), id))
}

// TestStatsPlans: no number behind the health checks is counted, and no batch
// claimed, by reading a table from end to end.
func TestStatsPlans(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, q := range []struct{ sql, index string }{
		{`select recorded_at from mcpsaas.usage_events where due order by recorded_at limit 1`, "recorded_at"},
		{`select recorded_at from mcpsaas.usage_events where due and tenant_id = '00000000-0000-0000-0000-000000000007' order by bill_at limit 1`, "tenant_id_bill_at"},
		{`select from mcpsaas.usage_batches where state = 'parked' limit 1000`, "unsettled"},
		{`select from mcpsaas.usage_batches where state in ('sealed', 'sending', 'verifying', 'unknown')
			and tenant_id = '00000000-0000-0000-0000-000000000007' limit 1000`, "usage_batches"},
		{`select id from mcpsaas.usage_batches where target_id = 7 and state in ('sending', 'verifying', 'unknown')
			order by first_sent_at desc limit 1`, "usage_batches_doubt"},
		{`select id from mcpsaas.usage_batches where target_id = 7 and state = 'sealed' order by slot limit 1`, "usage_batches_open"},
		{`select received_at from mcpsaas.billing_notices where state in ('new', 'working') order by received_at limit 1`, "waiting"},
	} {
		tx, err := b.pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `set local enable_seqscan = off`)
		require.NoError(t, err)
		rows, err := tx.Query(t.Context(), `explain `+q.sql)
		require.NoError(t, err)
		var plan []string
		for rows.Next() {
			var line string
			require.NoError(t, rows.Scan(&line))
			plan = append(plan, line)
		}
		require.NoError(t, tx.Rollback(t.Context()))
		require.Contains(t, strings.Join(plan, "\n"), q.index)
		require.NotContains(t, strings.Join(plan, "\n"), "Seq Scan")
	}
}
