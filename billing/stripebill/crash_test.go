package stripebill_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
	"github.com/stretchr/testify/require"
)

var ledgerTemplate = devtest.Template{
	Name: "stripebill",
	Migrate: func(ctx context.Context, conn *pgx.Conn) error {
		if err := tenancy.Migrate(ctx, conn); err != nil {
			return err
		}
		return pgledger.Migrate(ctx, conn)
	},
}

// TestCrashMatrix plays the whole matrix with all that billing has: the ledger
// on PostgreSQL, the worker, Stripe's client, and Stripe's rules over HTTP,
// with summaries that lag. In every scenario what is billed is what was
// produced.
//
// Mutations seen by it: another identifier for each attempt, usage records
// incremented instead of set, Verify never answering Present, WindowConfirmed
// ignored.
func TestCrashMatrix(t *testing.T) {
	t.Parallel()
	for _, mode := range []billing.Mode{billing.ModeMeter, billing.ModeUsageRecord} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			scenarios := billingtest.Matrix()
			require.GreaterOrEqual(t, len(scenarios), 200)
			var next, wrong atomic.Int64
			var wg sync.WaitGroup
			for range 2 {
				p := newPlayer(t, mode)
				wg.Go(func() {
					for i := next.Add(1) - 1; i < int64(len(scenarios)); i = next.Add(1) - 1 {
						outcome, err := p.play(t, scenarios[i])
						if err != nil || !outcome.Exact() {
							wrong.Add(1)
							t.Errorf("%s: %+v, %v", scenarios[i], outcome, err)
						}
					}
				})
			}
			wg.Wait()
			t.Logf("%d scenarios, %d mismatches", len(scenarios), wrong.Load())
		})
	}
}

// player has a ledger of its own, and a Stripe account for each scenario.
type player struct {
	mode   billing.Mode
	clock  *billingtest.Clock
	ledger *pgledger.Ledger
}

func newPlayer(t *testing.T, mode billing.Mode) *player {
	t.Helper()
	p := &player{mode: mode, clock: billingtest.NewClock(start)}
	config, err := pgxpool.ParseConfig(devtest.DB(t, ledgerTemplate).URL)
	require.NoError(t, err)
	config.ConnConfig.RuntimeParams["role"] = tenancy.ControlRole
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	p.ledger, err = pgledger.New(pool, &pgledger.Options{Now: p.clock.Now})
	require.NoError(t, err)
	return p
}

func (p *player) play(t *testing.T, s billingtest.Scenario) (billingtest.Outcome, error) {
	stripe := stripetest.NewServer(&stripetest.Options{Now: p.clock.Now, SummaryLag: 10 * time.Minute})
	defer stripe.Close()
	client, err := stripebill.New(stripe.SecretKey, &stripebill.Options{APIBase: stripe.URL, Now: p.clock.Now})
	if err != nil {
		return billingtest.Outcome{}, err
	}
	w := world{stripe: stripe, client: client, source: stripebill.NewSource(client, nil)}
	target, err := p.subscribe(t.Context(), w)
	if err != nil {
		return billingtest.Outcome{}, err
	}
	p.clock.Advance(time.Hour)
	return s.Run(t.Context(), billingtest.World{
		Now: p.clock.Now, Advance: p.clock.Advance,
		Produce: func(ctx context.Context, units int64) error { return p.produce(ctx, target.Tenant, units) },
		Fail:    func(f billingtest.Fault) { w.inject(t, f) },
		Start: func(process *billingtest.Process) (billingtest.Ticker, error) {
			reporter := stripebill.NewReporter(client, &stripebill.ReporterOptions{MaxPerSecond: -1})
			return billing.NewWorker(process.Ledger(p.ledger), process.Reporter(reporter), &billing.WorkerOptions{Now: p.clock.Now})
		},
		Stats:  func(ctx context.Context) (billing.Stats, error) { return p.ledger.Stats(ctx, target.Tenant) },
		Billed: func() int64 { return w.counted(target) },
	})
}

// produce stores a call of the tenant that occurs now.
func (p *player) produce(ctx context.Context, id tenant.ID, units int64) error {
	_, err := p.ledger.Append(ctx, []usage.Event{{
		ID: tenant.NewID().String(), Tenant: id, Plan: tenant.Pro, Tool: "search", Units: units,
		Outcome: usage.OK, Time: p.clock.Now(),
	}})
	return err
}

// TestContinuous: whoever subscribes and calls at once, every two seconds, has
// each call at Stripe two seconds later, and all of them in the period.
func TestContinuous(t *testing.T) {
	t.Parallel()
	for _, mode := range []billing.Mode{billing.ModeMeter, billing.ModeUsageRecord} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			p := newPlayer(t, mode)
			p.clock.Advance(23 * time.Second) // a period begins when it likes
			w := setup(t, &stripetest.Options{Now: p.clock.Now})
			target, err := p.subscribe(t.Context(), w)
			require.NoError(t, err)
			from := p.clock.Now()
			worker, err := billing.NewWorker(p.ledger, stripebill.NewReporter(w.client, &stripebill.ReporterOptions{MaxPerSecond: -1}),
				&billing.WorkerOptions{Now: p.clock.Now, Interval: 2 * time.Second})
			require.NoError(t, err)
			for call := range int64(70) {
				require.NoError(t, p.produce(t.Context(), target.Tenant, 1))
				p.clock.Advance(2 * time.Second)
				require.NoError(t, worker.Tick(t.Context()))
				require.Equal(t, call+1, w.counted(target))
			}
			// The usage of the period alone, which is what its invoice has.
			if mode == billing.ModeMeter {
				from = from.Truncate(time.Minute).Add(time.Minute)
			}
			total, err := w.client.UsageTotal(t.Context(), target, from, from.AddDate(0, 0, 20))
			require.NoError(t, err)
			require.EqualValues(t, 70, total)
		})
	}
}

// subscribe goes the way of a webhook: checkout, payment, fetch, save.
func (p *player) subscribe(ctx context.Context, w world) (billing.Target, error) {
	sold := catalog
	sold.UsageRecords = p.mode == billing.ModeUsageRecord
	if _, err := w.client.EnsureCatalog(ctx, sold); err != nil {
		return billing.Target{}, err
	}
	checkout, err := w.client.CreateCheckout(ctx, request(tenant.NewID(), "pro", ""))
	if err != nil {
		return billing.Target{}, err
	}
	if err := w.stripe.Pay(checkout.ID); err != nil {
		return billing.Target{}, err
	}
	notice := billing.Notice{ID: "evt_1", Type: "checkout.session.completed", ObjectID: checkout.ID, Created: p.clock.Now()}
	change, err := w.source.Fetch(ctx, notice)
	if err != nil {
		return billing.Target{}, err
	}
	change.Seq = 1
	change, err = p.ledger.Save(ctx, p.clock.Now(), notice, change)
	if err != nil {
		return billing.Target{}, err
	}
	return change.Subscription.Targets[0], nil
}
