package pgledger_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestCrashMatrixTellsApart plays the same matrix with the reporter that is
// commonly written: sum what is unreported, tell the provider, mark it as
// reported. A suite that can't tell it from ours would prove nothing.
func TestCrashMatrixTellsApart(t *testing.T) {
	t.Parallel()
	scenarios := sample(billingtest.Matrix(), 3)
	wrong := play(t, scenarios, common, func(_ billingtest.Scenario, o billingtest.Outcome) bool { return o.Exact() })
	share := 100 * len(wrong) / len(scenarios)
	t.Logf("common approach: %d of %d scenarios wrong, %d %%", len(wrong), len(scenarios), share)
	require.GreaterOrEqual(t, share, 40)
}

// commonReporter is that approach, generously: it bills units, not calls, and
// its client repeats a lost request under one idempotency key.
type commonReporter struct {
	pool     *pgxpool.Pool
	now      func() time.Time
	process  *billingtest.Process
	provider *billingtest.Provider
	target   billing.Target
}

func (r commonReporter) Tick(ctx context.Context) error {
	if err := r.process.Step(billingtest.BeforeSeal); err != nil {
		return err
	}
	var units *int64
	err := r.pool.QueryRow(ctx, `
		select sum(units)::bigint from mcpsaas.common_events
		where tenant_id = $1 and reported_at is null and created_at < $2::timestamptz - interval '1 minute'`,
		r.target.Tenant, r.now()).Scan(&units)
	if err != nil || units == nil {
		return err
	}
	for _, p := range []billingtest.Point{
		billingtest.AfterSeal, billingtest.BeforeClaim, billingtest.AfterClaim, billingtest.BeforeReport,
	} {
		if err := r.process.Step(p); err != nil {
			return err
		}
	}
	key := tenant.NewID().String() // the client's own, new for each call
	for range 3 {
		if err = r.provider.Increment(key, r.target, *units, r.now()); !errors.Is(err, billingtest.ErrLost) {
			break
		}
	}
	if err := errors.Join(err, r.process.Step(billingtest.AfterReport), r.process.Step(billingtest.BeforeSettle)); err != nil {
		return err
	}
	_, err = r.pool.Exec(ctx, `
		update mcpsaas.common_events set reported_at = $2 where tenant_id = $1 and reported_at is null`,
		r.target.Tenant, r.now())
	return errors.Join(err, r.process.Step(billingtest.AfterSettle))
}

// common is a new tenant whose usage goes through the common approach.
func common(b *bench, s billingtest.Scenario) billingtest.World {
	to := target(tenant.NewID(), billing.ModeUsageRecord)
	end := b.clock.Now().AddDate(0, 1, 0)
	provider := billingtest.NewProvider(billing.ModeUsageRecord, b.clock.Now)
	provider.Lag(s.Lag)
	return billingtest.World{
		Now: b.clock.Now, Advance: b.clock.Advance, PeriodEnd: end,
		Renew: func(context.Context) error { return nil }, // it knows nothing of periods
		Produce: func(ctx context.Context, units int64) error {
			_, err := b.pool.Exec(ctx, `insert into mcpsaas.common_events values ($1, $2, $3)`, to.Tenant, units, b.clock.Now())
			return err
		},
		Fail: func(f billingtest.Fault) { provider.Fail(f) },
		Start: func(p *billingtest.Process) (billingtest.Ticker, error) {
			return commonReporter{pool: b.pool, now: b.clock.Now, process: p, provider: provider, target: to}, nil
		},
		Stats: func(ctx context.Context) (s billing.Stats, err error) {
			err = b.pool.QueryRow(ctx, `select count(*) from mcpsaas.common_events
				where tenant_id = $1 and reported_at is null`, to.Tenant).Scan(&s.Unsealed)
			return s, err
		},
		Accounts: func(context.Context) ([]billingtest.Account, error) {
			return []billingtest.Account{{
				Billed: [2]int64{provider.Total(to, end.AddDate(-1, 0, 0), end), provider.Total(to, end, end.AddDate(1, 0, 0))},
			}}, nil
		},
	}
}
