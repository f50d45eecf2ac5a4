package stripebill_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
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

// TestCrashMatrix plays the matrix (a part of it without SOAK) with all that
// billing has: the ledger on PostgreSQL, the worker, Stripe's client, and
// Stripe's rules over HTTP, with summaries that lag and invoices that are drawn
// up. In every scenario what the invoices bill is what was produced: through
// meters, usage records, both items of one subscription, and usage records that
// billing thresholds let nobody overwrite, and, where every period ends before its
// usage is sent, items of the next invoice.
//
// Mutations seen by it: another identifier for each attempt, usage records
// incremented instead of set, Verify never answering Present, WindowConfirmed
// ignored; of invoice items, of 364 scenarios each: one made again under another
// key, 63 of late records and 15 of late events; one not found by its batch, the
// same.
func TestCrashMatrix(t *testing.T) {
	t.Parallel()
	for name, d := range map[string]deal{
		"meter":        {},
		"usage record": {legacy: true},
		"migrating":    {legacy: true, meter: true},
		"thresholds":   {legacy: true, thresholds: true},
		"late records": {legacy: true, late: true},
		"late events":  {late: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenarios := sample(billingtest.Matrix())
			if d.late {
				closing(scenarios)
			}
			var next, wrong, items atomic.Int64
			var wg sync.WaitGroup
			for range 2 {
				p := newPlayer(t, d)
				wg.Go(func() {
					for i := next.Add(1) - 1; i < int64(len(scenarios)); i = next.Add(1) - 1 {
						outcome, err := p.play(t, scenarios[i])
						items.Add(p.items)
						if err != nil || !outcome.Honest() || scenarios[i].Open() && !outcome.Exact() {
							wrong.Add(1)
							t.Errorf("%s: %+v, %v", scenarios[i], outcome, err)
						}
					}
				})
			}
			wg.Wait()
			t.Logf("%d scenarios, %d mismatches; %d invoice items", len(scenarios), wrong.Load(), items.Load())
			require.Equal(t, d.late, items.Load() > 0)
		})
	}
}

// closing has the billing period end in every scenario, before anything is sent
// where it else wouldn't.
func closing(scenarios []billingtest.Scenario) {
	for i := range scenarios {
		if scenarios[i].Close == billingtest.Never {
			scenarios[i].Close = billingtest.AfterSeal
		}
	}
}

// sample returns the scenarios that there is time for.
func sample(all []billingtest.Scenario) (some []billingtest.Scenario) {
	if devtest.Soak() {
		return all
	}
	for i := 0; i < len(all); i += 5 {
		some = append(some, all[i])
	}
	return some
}

// deal is what a customer has: a meter, unless it is usage records, or both while
// moving from these to that.
type deal struct {
	legacy, meter bool
	thresholds    bool // of the subscription
	late          bool // what comes too late is charged for by itself
}

// player has a ledger of its own, and a Stripe account for each scenario.
type player struct {
	deal
	clock  *billingtest.Clock
	pool   *pgxpool.Pool
	ledger *pgledger.Ledger
	seq    int64
	items  int64 // of the last account's invoices that are charges by themselves
}

func newPlayer(t *testing.T, d deal) *player {
	t.Helper()
	p := &player{deal: d, clock: billingtest.NewClock(start)}
	config, err := pgxpool.ParseConfig(devtest.DB(t, ledgerTemplate).URL)
	require.NoError(t, err)
	config.ConnConfig.RuntimeParams["role"] = tenancy.ControlRole
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	p.pool = pool
	opts := &pgledger.Options{Now: p.clock.Now, InvoiceItem: stripebill.InvoiceItem}
	if d.late {
		opts.Late = map[tenant.Plan]billing.LatePolicy{tenant.Pro: billing.LateInvoiceItem}
	}
	p.ledger, err = pgledger.New(pool, opts)
	require.NoError(t, err)
	return p
}

func (p *player) play(t *testing.T, s billingtest.Scenario) (billingtest.Outcome, error) {
	stripe := stripetest.NewServer(&stripetest.Options{Now: p.clock.Now, SummaryLag: s.Lag})
	defer stripe.Close()
	client, err := stripebill.New(stripe.SecretKey, &stripebill.Options{APIBase: stripe.URL, Now: p.clock.Now})
	if err != nil {
		return billingtest.Outcome{}, err
	}
	w := world{stripe: stripe, client: client, source: stripebill.NewSource(client, nil)}
	sub, err := p.subscribe(t.Context(), w)
	if err != nil {
		return billingtest.Outcome{}, err
	}
	id, end := sub.Targets[0].Tenant, sub.PeriodEnd
	p.clock.Advance(time.Hour)
	return s.Run(t.Context(), billingtest.World{
		Now: p.clock.Now, Advance: p.clock.Advance, PeriodEnd: end,
		Renew: func(ctx context.Context) error {
			_, err := p.hear(ctx, w, billing.Notice{Type: "customer.subscription.updated", ObjectID: sub.ID})
			return err
		},
		Produce: func(ctx context.Context, units int64) error { return p.produce(ctx, id, units) },
		Fail: func(f billingtest.Fault) {
			for _, target := range sub.Targets {
				w.injectAt(t, f, pathOf(target))
			}
			if p.late {
				w.injectAt(t, f, "/v1/invoiceitems")
			}
		},
		Start: func(process *billingtest.Process) (billingtest.Ticker, error) {
			reporter := stripebill.NewReporter(client, &stripebill.ReporterOptions{MaxPerSecond: -1})
			return billing.NewWorker(process.Ledger(p.ledger), process.Reporter(reporter), &billing.WorkerOptions{Now: p.clock.Now})
		},
		Stats: func(ctx context.Context) (billing.Stats, error) { return p.ledger.Stats(ctx, id) },
		Accounts: func(ctx context.Context) (all []billingtest.Account, err error) {
			p.clock.Advance(2 * time.Hour) // by then the invoices are final
			for _, target := range sub.Targets {
				a, err := p.account(ctx, target, end)
				if err == nil {
					a.Billed, p.items, err = w.invoiced(ctx, sub.ID, target, end)
				}
				if err != nil {
					return nil, err
				}
				all = append(all, a)
			}
			return all, nil
		},
	})
}

const (
	keptSQL = `
select b.quantity, b.first_sent_at is not null, b.period_start >= $2
from mcpsaas.usage_batches b join mcpsaas.billing_targets t on t.id = b.target_id
where b.tenant_id = $1 and t.mode in ($3, 'invoice_item') and b.state in ('parked', 'rejected')`

	movedSQL = `
select (select coalesce(sum(units), 0)::bigint from mcpsaas.usage_events
		where tenant_id = $1 and mark = 'late' and occurred_at < $2)
	+ (select coalesce(sum(b.quantity), 0)::bigint
		from mcpsaas.usage_batches b join mcpsaas.usage_batches old on old.id = b.moved_from
		join mcpsaas.billing_targets t on t.id = b.target_id
		where b.tenant_id = $1 and t.mode = $3 and old.period_start < $2 and b.period_start >= $2)`
)

// account is what the ledger has on record of a target whose first billing
// period ended at end.
func (p *player) account(ctx context.Context, to billing.Target, end time.Time) (a billingtest.Account, err error) {
	rows, err := p.pool.Query(ctx, keptSQL, to.Tenant, end, to.Mode)
	if err != nil {
		return a, err
	}
	var quantity int64
	var sent, second bool
	_, err = pgx.ForEachRow(rows, []any{&quantity, &sent, &second}, func() error {
		period := 0
		if second {
			period = 1
		}
		if sent {
			a.Doubt[period] = append(a.Doubt[period], quantity)
		} else {
			a.Kept[period] += quantity
		}
		return nil
	})
	if err != nil {
		return a, err
	}
	return a, p.pool.QueryRow(ctx, movedSQL, to.Tenant, end, to.Mode).Scan(&a.Moved)
}

// invoiced is the usage on a subscription's invoices: of the period that ended at
// end, and of all after it, with the one that is yet to be drawn up; and how many
// items charge for some by itself.
func (w world) invoiced(ctx context.Context, sub string, target billing.Target, end time.Time) (billed [2]int64, items int64, err error) {
	type invoice struct {
		Lines struct {
			Data []struct {
				Item     string `json:"subscription_item"`
				Charge   string `json:"invoice_item"`
				Quantity int64
				Period   struct{ Start int64 }
			}
		}
	}
	var drawn struct{ Data []invoice }
	var upcoming invoice
	for path, into := range map[string]any{"/v1/invoices?limit=100&subscription=" + sub: &drawn, "/v1/invoices/upcoming?subscription=" + sub: &upcoming} {
		if err := w.call(ctx, http.MethodGet, path, "", into); err != nil {
			return billed, items, err
		}
	}
	for _, inv := range append(drawn.Data, upcoming) {
		for _, l := range inv.Lines.Data {
			switch {
			case l.Item != target.Item && l.Charge == "":
			case l.Period.Start < end.Unix():
				billed[0] += l.Quantity
			default:
				billed[1] += l.Quantity
			}
			if l.Charge != "" {
				items++
			}
		}
	}
	return billed, items, nil
}

// pathOf is where the usage of a target is sent.
func pathOf(t billing.Target) string {
	if t.Mode == billing.ModeUsageRecord {
		return "/v1/subscription_items/" + t.Item
	}
	return "/v1/billing/meter_events"
}

// call makes a request of the API that must succeed.
func (w world) call(ctx context.Context, method, path, form string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, w.stripe.URL+path, strings.NewReader(form))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+w.stripe.SecretKey)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
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
	for name, d := range map[string]deal{"meter": {}, "usage record": {legacy: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlayer(t, d)
			p.clock.Advance(23 * time.Second) // a period begins when it likes
			w := setup(t, &stripetest.Options{Now: p.clock.Now})
			sub, err := p.subscribe(t.Context(), w)
			require.NoError(t, err)
			target := sub.Targets[0]
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
			if target.Mode == billing.ModeMeter {
				from = from.Truncate(time.Minute).Add(time.Minute)
			}
			total, err := w.client.UsageTotal(t.Context(), target, from, from.AddDate(0, 0, 20))
			require.NoError(t, err)
			require.EqualValues(t, 70, total)
		})
	}
}

// subscribe goes the way of a webhook: checkout, payment, fetch, save.
func (p *player) subscribe(ctx context.Context, w world) (billing.Subscription, error) {
	sold := catalog
	sold.UsageRecords = p.legacy
	if _, err := w.client.EnsureCatalog(ctx, sold); err != nil {
		return billing.Subscription{}, err
	}
	checkout, err := w.client.CreateCheckout(ctx, request(tenant.NewID(), "pro", ""))
	if err != nil {
		return billing.Subscription{}, err
	}
	if err := w.stripe.Pay(checkout.ID); err != nil {
		return billing.Subscription{}, err
	}
	sub, err := p.hear(ctx, w, billing.Notice{Type: "checkout.session.completed", ObjectID: checkout.ID})
	if err != nil || !p.meter && !p.thresholds {
		return sub, err
	}
	form := "billing_thresholds[amount_gte]=99999999"
	if p.meter {
		// Who buys now gets a meter; who has bought gets it beside the old item.
		if _, err := w.client.EnsureCatalog(ctx, catalog); err != nil {
			return sub, err
		}
		var prices struct{ Data []struct{ ID string } }
		if err := w.call(ctx, http.MethodGet, "/v1/prices?lookup_keys[]=mcpsaas:pro:usage", "", &prices); err != nil {
			return sub, err
		}
		form = "items[0][price]=" + prices.Data[0].ID
	}
	if err := w.call(ctx, http.MethodPost, "/v1/subscriptions/"+sub.ID, form, new(any)); err != nil {
		return sub, err
	}
	return p.hear(ctx, w, billing.Notice{Type: "customer.subscription.updated", ObjectID: sub.ID})
}

// hear applies a notice of what happened just now.
func (p *player) hear(ctx context.Context, w world, n billing.Notice) (billing.Subscription, error) {
	n.ID, n.Created = tenant.NewID().String(), p.clock.Now()
	// Each item decides where its usage goes.
	each := billing.Route(w.source, func(t billing.Target) []billing.Target { return []billing.Target{t} })
	change, err := each.Fetch(ctx, n)
	if err != nil {
		return billing.Subscription{}, err
	}
	p.seq++
	change.Seq = p.seq
	change, err = p.ledger.Save(ctx, p.clock.Now(), n, change)
	if err != nil {
		return billing.Subscription{}, err
	}
	return *change.Subscription, nil
}
