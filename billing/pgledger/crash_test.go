package pgledger_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/billingtest"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestCrashMatrix plays every scenario on a real database, in both modes, with
// both at once, where the provider only adds, always or now and then, and where
// what is late becomes invoice items: whatever happens, what is billed is what was produced.
//
// Mutations, and how many of 1,092 scenarios (without SOAK) saw them: a claim that
// does not record the send before it is made, 159 of "meter", 65 of "usage record"
// and 249 of "additive"; batches that share slots, 328 of "usage record" (what is
// added may share one); an answer that counts whatever its attempt, 3 of "meter" and
// 3 of "additive" (and TestFence); a claim that is used after its lease, 13 of three
// modes together; a delivery that is repeated however old it is, 86 of "meter".
// Where the key is all that a repetition is known by: one that is sent under it
// however old it is, 83 of "additive"; one under another key after a failure was
// saved, 95.
func TestCrashMatrix(t *testing.T) {
	t.Parallel()
	all := billingtest.Matrix()
	require.GreaterOrEqual(t, len(all), 1800)
	meter := func(id tenant.ID) billing.Target { return target(id, billing.ModeMeter) }
	record := func(id tenant.ID) billing.Target { return target(id, billing.ModeUsageRecord) }
	additive := func(id tenant.ID) billing.Target {
		to := record(id)
		to.Additive = true
		return to
	}
	for name, c := range map[string]course{
		"meter":        {targets: []func(tenant.ID) billing.Target{meter}},
		"usage record": {targets: []func(tenant.ID) billing.Target{record}},
		"migrating":    {targets: []func(tenant.ID) billing.Target{meter, record}},
		"additive":     {targets: []func(tenant.ID) billing.Target{additive}},
		"thresholds come and go": {targets: []func(tenant.ID) billing.Target{record}, turns: func(to *billing.Target) {
			to.Additive = !to.Additive
		}},
		"invoice items": {targets: []func(tenant.ID) billing.Target{meter, record}, late: billing.LateInvoiceItem},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenarios := sample(all, 3)
			if c.turns != nil || c.late != "" {
				scenarios = sample(all, 1)
			}
			if c.late != "" {
				closing(scenarios)
			}
			var mu sync.Mutex
			kept := 0
			wrong := play(t, scenarios, func(b *bench, s billingtest.Scenario) billingtest.World {
				return pipeline(t, b, s.Lag, c)
			}, func(s billingtest.Scenario, o billingtest.Outcome) bool {
				mu.Lock()
				defer mu.Unlock()
				if !o.Exact() {
					kept++
				}
				return o.Honest() && (o.Exact() || !s.Open())
			})
			for _, w := range wrong[:min(len(wrong), 10)] {
				t.Errorf("%s: %+v", w.scenario, w.outcome)
			}
			t.Logf("%d scenarios, %d mismatches; %d with something for a person to decide", len(scenarios), len(wrong), kept)
			require.Empty(t, len(wrong))
		})
	}
}

// closing has the billing period end in every scenario.
func closing(scenarios []billingtest.Scenario) {
	for i := range scenarios {
		if scenarios[i].Close == billingtest.Never {
			scenarios[i].Close = billingtest.AfterSeal
		}
	}
}

// sample returns the scenarios that there is time for: some of five.
func sample(all []billingtest.Scenario, most int) (some []billingtest.Scenario) {
	if devtest.Soak() {
		return slices.Clone(all)
	}
	for i, s := range all {
		if i%5 < most {
			some = append(some, s)
		}
	}
	return some
}

type mismatch struct {
	scenario billingtest.Scenario
	outcome  billingtest.Outcome
}

// play runs the scenarios, a few worlds side by side, and returns those that
// ended otherwise than they may. Each player has one database, and each scenario
// a tenant of its own in it.
func play(t *testing.T, scenarios []billingtest.Scenario, world func(*bench, billingtest.Scenario) billingtest.World,
	may func(billingtest.Scenario, billingtest.Outcome) bool) []mismatch {
	t.Helper()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		wrong []mismatch
		next  int
	)
	take := func() (s billingtest.Scenario, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if next == len(scenarios) {
			return s, false
		}
		next++
		return scenarios[next-1], true
	}
	for range 2 {
		b := setup(t)
		wg.Go(func() {
			for s, ok := take(); ok; s, ok = take() {
				o, err := s.Run(t.Context(), world(b, s))
				if err != nil {
					t.Errorf("%s: %v", s, err)
				}
				if !may(s, o) {
					mu.Lock()
					wrong = append(wrong, mismatch{s, o})
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, len(scenarios), next)
	return wrong
}

// course is where usage goes, and what becomes of each target whenever a process
// starts.
type course struct {
	targets []func(tenant.ID) billing.Target
	turns   func(*billing.Target)
	late    billing.LatePolicy
}

// pipeline is a new tenant whose usage goes through the ledger and the worker.
func pipeline(t *testing.T, b *bench, lag time.Duration, c course) billingtest.World {
	id := tenant.NewID()
	now := b.clock.Now()
	sub := billing.Subscription{
		ID: "sub_" + id.String(), Customer: "cus_" + id.String(), Status: billing.Active,
		PeriodStart: now.Add(-time.Hour), PeriodEnd: now.AddDate(0, 1, 0),
	}
	reporter := byMode{}
	for _, mode := range []billing.Mode{billing.ModeMeter, billing.ModeUsageRecord, billing.ModeInvoiceItem} {
		reporter[mode] = billingtest.NewProvider(mode, b.clock.Now)
		reporter[mode].Lag(lag)
	}
	ledger := b.Ledger
	if c.late != "" {
		var err error
		ledger, err = pgledger.New(b.pool, &pgledger.Options{
			Now: b.clock.Now, Late: map[tenant.Plan]billing.LatePolicy{"": c.late}, InvoiceItem: invoiceItem,
		})
		require.NoError(t, err)
	}
	for _, to := range c.targets {
		sub.Targets = append(sub.Targets, to(id))
	}
	b.save(t, id, sub)
	end := sub.PeriodEnd
	return billingtest.World{
		Now: b.clock.Now, Advance: b.clock.Advance, PeriodEnd: end,
		Renew: func(context.Context) error {
			sub.PeriodStart, sub.PeriodEnd = end, end.AddDate(0, 2, 0)
			b.save(t, id, sub)
			return nil
		},
		Produce: func(ctx context.Context, units int64) error {
			_, err := b.Append(ctx, []usage.Event{b.event(id, units)})
			return err
		},
		Fail: func(f billingtest.Fault) {
			for _, p := range reporter {
				p.Fail(f)
			}
		},
		Start: func(p *billingtest.Process) (billingtest.Ticker, error) {
			if c.turns != nil {
				for i := range sub.Targets {
					c.turns(&sub.Targets[i])
				}
				b.save(t, id, sub)
			}
			return billing.NewWorker(p.Ledger(ledger), p.Reporter(reporter), &billing.WorkerOptions{Now: b.clock.Now, Concurrency: 1})
		},
		Stats: func(ctx context.Context) (billing.Stats, error) { return b.Stats(ctx, id) },
		Accounts: func(ctx context.Context) (accounts []billingtest.Account, err error) {
			for _, to := range sub.Targets {
				a, err := b.account(ctx, to, end)
				if err != nil {
					return nil, err
				}
				charged, _ := invoiceItem(to)
				for _, to := range []billing.Target{to, charged} {
					provider := reporter[to.Mode]
					a.Billed[0] += provider.Total(to, end.AddDate(-1, 0, 0), end)
					a.Billed[1] += provider.Total(to, end, end.AddDate(1, 0, 0))
				}
				accounts = append(accounts, a)
			}
			return accounts, nil
		},
	}
}

// invoiceItem is the target of invoice items beside t.
func invoiceItem(t billing.Target) (billing.Target, bool) {
	t.Mode, t.Additive = billing.ModeInvoiceItem, false
	return t, true
}

const (
	// Of a target, and of the invoice items beside it.
	beside = `t.key = (select key from mcpsaas.billing_targets where tenant_id = $1 and mode = $2)`

	keptSQL = `
select b.quantity, b.first_sent_at is not null, b.period_start >= $3
from mcpsaas.usage_batches b join mcpsaas.billing_targets t on t.id = b.target_id
where t.tenant_id = $1 and ` + beside + ` and b.state in ('parked', 'rejected')`

	movedSQL = `
select (select coalesce(sum(units), 0)::bigint from mcpsaas.usage_events
		where tenant_id = $1 and mark = 'late' and occurred_at < $3)
	+ (select coalesce(sum(b.quantity), 0)::bigint
		from mcpsaas.usage_batches b
		join mcpsaas.usage_batches old on old.id = b.moved_from
		join mcpsaas.billing_targets t on t.id = b.target_id
		where t.tenant_id = $1 and ` + beside + ` and old.period_start < $3 and b.period_start >= $3)`
)

// account is what the ledger has on record of a target whose first billing
// period ends at end.
func (b *bench) account(ctx context.Context, to billing.Target, end time.Time) (a billingtest.Account, err error) {
	rows, err := b.pool.Query(ctx, keptSQL, to.Tenant, to.Mode, end)
	if err != nil {
		return a, err
	}
	defer rows.Close()
	for rows.Next() {
		var quantity int64
		var sent, second bool
		if err := rows.Scan(&quantity, &sent, &second); err != nil {
			return a, err
		}
		period := 0
		if second {
			period = 1
		}
		if sent {
			a.Doubt[period] = append(a.Doubt[period], quantity)
		} else {
			a.Kept[period] += quantity
		}
	}
	if err := rows.Err(); err != nil {
		return a, err
	}
	return a, b.pool.QueryRow(ctx, movedSQL, to.Tenant, to.Mode, end).Scan(&a.Moved)
}
