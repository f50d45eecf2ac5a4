package cloudevents_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/billing/cloudevents"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var template = devtest.Template{
	Name: "cloudevents",
	Migrate: func(ctx context.Context, conn *pgx.Conn) error {
		if err := tenancy.Migrate(ctx, conn); err != nil {
			return err
		}
		return pgledger.Migrate(ctx, conn)
	},
}

// TestCrashMatrix plays the matrix (a part of it without SOAK) on the ledger, the
// worker and a receiver that knows a repetition by source and id for 32 days, over
// HTTP: what it bills is what was produced. A receiver that tells no totals has
// none wrong either; what it may have counted, and no longer recognises, is parked.
//
// An event with another id at each send is seen by 101 of 364 scenarios with totals,
// and 106 without.
func TestCrashMatrix(t *testing.T) {
	t.Parallel()
	for name, totals := range map[string]bool{"totals": true, "no totals": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenarios := slices.Clone(billingtest.Matrix())
			if !devtest.Soak() {
				i := 0
				scenarios = slices.DeleteFunc(scenarios, func(billingtest.Scenario) bool { i++; return i%5 != 1 })
			}
			var next, wrong atomic.Int64
			var wg sync.WaitGroup
			for range 2 {
				p := newPlayer(t)
				wg.Go(func() {
					for i := next.Add(1) - 1; i < int64(len(scenarios)); i = next.Add(1) - 1 {
						s := scenarios[i]
						outcome, err := p.play(t, s, totals)
						if err != nil || !outcome.Honest() || totals && s.Open() && !outcome.Exact() {
							wrong.Add(1)
							t.Errorf("%s: %+v, %v", s, outcome, err)
						}
					}
				})
			}
			wg.Wait()
			t.Logf("%d scenarios, %d mismatches", len(scenarios), wrong.Load())
		})
	}
}

// player has a ledger of its own, and a receiver for each scenario.
type player struct {
	clock  *billingtest.Clock
	pool   *pgxpool.Pool
	ledger *pgledger.Ledger
	seq    int64
}

func newPlayer(t *testing.T) *player {
	t.Helper()
	p := &player{clock: billingtest.NewClock(start)}
	config, err := pgxpool.ParseConfig(devtest.DB(t, template).URL)
	require.NoError(t, err)
	config.ConnConfig.RuntimeParams["role"] = tenancy.ControlRole
	p.pool, err = pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(p.pool.Close)
	p.ledger, err = pgledger.New(p.pool, &pgledger.Options{Now: p.clock.Now})
	require.NoError(t, err)
	return p
}

func (p *player) play(t *testing.T, s billingtest.Scenario, totals bool) (billingtest.Outcome, error) {
	o := newOpenMeter(t, p.clock.Now)
	defer o.Close()
	opts := &cloudevents.Options{Token: token, MaxPerSecond: -1, VerifyLag: s.Lag + 5*time.Minute}
	if totals {
		opts.Meters = o.URL + "/api/v1/meters"
	}
	reporter, err := cloudevents.New(o.URL+"/api/v1/events", opts)
	if err != nil {
		return billingtest.Outcome{}, err
	}
	to := target()
	to.Customer = "cus_" + to.Tenant.String()
	now := p.clock.Now()
	sub := billing.Subscription{
		ID: "sub_" + to.Tenant.String(), Customer: to.Customer, Status: billing.Active, Plan: tenant.Pro,
		PeriodStart: now.Add(-time.Hour), PeriodEnd: now.AddDate(0, 1, 0), Targets: []billing.Target{to},
	}
	save := func(ctx context.Context) error {
		p.seq++
		_, err := p.ledger.Save(ctx, p.clock.Now(), billing.Notice{ObjectID: sub.ID, Created: p.clock.Now()},
			billing.Change{Tenant: to.Tenant, Customer: sub.Customer, Subscription: &sub, Seq: p.seq})
		return err
	}
	if err := save(t.Context()); err != nil {
		return billingtest.Outcome{}, err
	}
	end := sub.PeriodEnd
	o.lag, o.end = s.Lag, end
	return s.Run(t.Context(), billingtest.World{
		Now: p.clock.Now, Advance: p.clock.Advance, PeriodEnd: end,
		Renew: func(ctx context.Context) error {
			sub.PeriodStart, sub.PeriodEnd = end, end.AddDate(0, 2, 0)
			return save(ctx)
		},
		Produce: func(ctx context.Context, units int64) error {
			_, err := p.ledger.Append(ctx, []usage.Event{{
				ID: tenant.NewID().String(), Tenant: to.Tenant, Plan: tenant.Pro, Tool: "search", Units: units,
				Outcome: usage.OK, Time: p.clock.Now(),
			}})
			return err
		},
		Fail: o.fail,
		Start: func(process *billingtest.Process) (billingtest.Ticker, error) {
			return billing.NewWorker(process.Ledger(p.ledger), process.Reporter(reporter), &billing.WorkerOptions{Now: p.clock.Now})
		},
		Stats: func(ctx context.Context) (billing.Stats, error) { return p.ledger.Stats(ctx, to.Tenant) },
		Accounts: func(ctx context.Context) ([]billingtest.Account, error) {
			a, err := p.account(ctx, to.Tenant, end)
			a.Billed = [2]int64{o.billed(to.Customer, end.AddDate(-1, 0, 0), end), o.billed(to.Customer, end, end.AddDate(1, 0, 0))}
			return []billingtest.Account{a}, err
		},
	})
}

// lateSQL is what was moved before it was in a batch.
const lateSQL = `
select coalesce(sum(units), 0)::bigint from mcpsaas.usage_events where tenant_id = $1 and mark = 'late' and occurred_at < $2`

// account is what the ledger has on record of a tenant whose first billing
// period ended at end.
func (p *player) account(ctx context.Context, id tenant.ID, end time.Time) (a billingtest.Account, err error) {
	for i, at := range []time.Time{end.Add(-time.Second), end} {
		periods, err := p.ledger.Explain(ctx, pgledger.Question{Tenant: id, At: at})
		if err != nil {
			return a, err
		}
		for _, x := range periods {
			for _, b := range x.Batches {
				switch open := b.State == billing.StateParked || b.State == billing.StateRejected; {
				case open && b.FirstSent.IsZero():
					a.Kept[i] += b.Quantity
				case open:
					a.Doubt[i] = append(a.Doubt[i], b.Quantity)
				}
				if b.MovedFrom != "" {
					a.Moved += b.Quantity
				}
			}
		}
	}
	var late int64
	err = p.pool.QueryRow(ctx, lateSQL, id, end).Scan(&late)
	a.Moved += late
	return a, err
}
