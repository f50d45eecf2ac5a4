package pgledger_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// secretKey is known to all processes.
const secretKey = "sk_test_killed"

// reporting is the worker of a replica, in a hurry: what a killed one had in
// hand is taken over after a second.
func reporting(ledger *pgledger.Ledger, base string, wrap func(billing.Reporter) billing.Reporter) (*billing.Worker, error) {
	client, err := stripebill.New(secretKey, &stripebill.Options{APIBase: base})
	if err != nil {
		return nil, err
	}
	return billing.NewWorker(ledger, wrap(stripebill.NewReporter(client, &stripebill.ReporterOptions{VerifyLag: -1, MaxPerSecond: -1})),
		&billing.WorkerOptions{Interval: 10 * time.Millisecond, Lease: time.Second, CallTimeout: 900 * time.Millisecond})
}

// telling says on standard output when it sends.
type telling struct{ billing.Reporter }

func (r telling) Report(ctx context.Context, d billing.Delivery) (billing.Receipt, error) {
	fmt.Println("sending")
	return r.Reporter.Report(ctx, d)
}

// TestReplicasKilled: three processes report the usage of tenants in both modes,
// some with billing thresholds, so that nothing but its key tells a repetition,
// and each is killed at a random moment, every other time right when it sends,
// again and again (510 times with SOAK, in the course of 102,000 events). What Stripe has counted is what was
// produced.
func TestReplicasKilled(t *testing.T) {
	t.Parallel()
	kills, events := 30, 6_000
	if devtest.Soak() {
		kills, events = 510, 102_000
	}
	const replicas, tenants = 3, 12
	b := setup(t)
	ledger, err := pgledger.New(b.pool, nil)
	require.NoError(t, err)
	var ahead atomic.Int64 // of Stripe's clock: subscriptions are a day old, so that there are slots
	ahead.Store(int64(-24 * time.Hour))
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	stripe := stripetest.NewServer(&stripetest.Options{Now: now, SecretKey: secretKey})
	t.Cleanup(stripe.Close)
	targets := subscribeAt(t, ledger, stripe, now, tenants)
	ahead.Store(0)
	stripe.Inject(stripetest.Fault{Kind: stripetest.Slow, Delay: 10 * time.Millisecond, Times: -1})

	produced := make([]int64, tenants)
	var mu sync.Mutex
	left := kills
	next := func() bool { // stores some usage for each process that is started
		mu.Lock()
		defer mu.Unlock()
		if left == 0 {
			return false
		}
		left--
		for range 10 {
			batch := make([]usage.Event, events/kills/10)
			for i := range batch {
				to := rand.IntN(tenants)
				units := int64(1 + rand.IntN(20))
				batch[i] = usage.Event{ID: tenant.NewID().String(), Tenant: targets[to].Tenant, Plan: tenant.Pro, Tool: "search",
					Units: units, Outcome: usage.OK, Time: time.Now()}
				produced[to] += units
			}
			if _, err := ledger.Append(t.Context(), batch); err != nil {
				t.Error(err)
				return false
			}
		}
		return true
	}
	var wg sync.WaitGroup
	for range replicas {
		wg.Go(func() {
			for next() {
				cmd, lines := b.startChild(t, childStripe+"="+stripe.URL)
				if !lines.Scan() || lines.Text() != "ready" {
					t.Errorf("replica: %s", lines.Text())
					return
				}
				wait := time.Duration(rand.Int64N(int64(300 * time.Millisecond)))
				if rand.IntN(2) == 0 {
					sent := time.AfterFunc(2*time.Second, func() { _ = cmd.Process.Kill() }) // nothing to send
					lines.Scan()
					sent.Stop()
					wait = time.Duration(rand.Int64N(int64(20 * time.Millisecond)))
				}
				<-time.After(wait)
				_ = cmd.Process.Kill() // SIGKILL
				_ = cmd.Wait()
			}
		})
	}
	wg.Wait()
	require.Zero(t, left)
	interrupted := b.text(t, `select count(*)::text from mcpsaas.usage_batches where state = 'sending'`)
	w, err := reporting(ledger, stripe.URL, func(r billing.Reporter) billing.Reporter { return r })
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	require.Eventually(t, func() bool {
		s, err := ledger.Stats(t.Context(), tenant.ID{})
		return err == nil && s.Unsealed+s.Open == 0
	}, 3*time.Minute, 50*time.Millisecond)
	stop()
	require.NoError(t, <-done)
	for i, to := range targets {
		counted := stripe.UsageTotal(to.Customer, to.Meter)
		if to.Mode == billing.ModeUsageRecord {
			counted = stripe.RecordTotal(to.Item)
		}
		require.Equal(t, produced[i], counted, "%s %v", to.Mode, to.Tenant)
	}
	require.Equal(t, "confirmed", b.text(t, `select string_agg(distinct state, ' ') from mcpsaas.usage_batches`))
	t.Logf("%d kills, %d events in %s batches, %s sent more than once; %s were under way in the end", kills, events,
		b.text(t, `select count(*)::text from mcpsaas.usage_batches`),
		b.text(t, `select count(*)::text from mcpsaas.usage_batches where attempt > 1`), interrupted)
}

// subscribeAt has n tenants pay at Stripe, half of them in each mode, and every
// other subscription with usage records get billing thresholds.
func subscribeAt(t *testing.T, ledger *pgledger.Ledger, stripe *stripetest.Server, now func() time.Time, n int) (targets []billing.Target) {
	t.Helper()
	client, err := stripebill.New(stripe.SecretKey, &stripebill.Options{APIBase: stripe.URL, Now: now})
	require.NoError(t, err)
	source := stripebill.NewSource(client, nil)
	for i := range n {
		if i%(n/2) == 0 {
			_, err := client.EnsureCatalog(t.Context(), stripebill.Catalog{
				UsageRecords: i == 0, Plans: []stripebill.CatalogPlan{{Plan: tenant.Pro, Name: "Pro", Amount: 4900, Unit: "0.1"}},
			})
			require.NoError(t, err)
		}
		open, err := client.CreateCheckout(t.Context(), stripebill.CheckoutRequest{
			Tenant: tenant.NewID(), Plan: tenant.Pro, Email: "ada@example.com",
			SuccessURL: "https://shop.example/welcome?session_id={CHECKOUT_SESSION_ID}", CancelURL: "https://shop.example/pricing",
		})
		require.NoError(t, err)
		require.NoError(t, stripe.Pay(open.ID))
		if i < n/2 && i%2 == 1 {
			paid, err := client.Checkout(t.Context(), open.ID)
			require.NoError(t, err)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, stripe.URL+"/v1/subscriptions/"+paid.Subscription,
				strings.NewReader("billing_thresholds[amount_gte]=99999999"))
			require.NoError(t, err)
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.SetBasicAuth(stripe.SecretKey, "")
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusOK, resp.StatusCode)
		}
		notice := billing.Notice{ID: open.ID, Type: "checkout.session.completed", ObjectID: open.ID, Created: now()}
		change, err := source.Fetch(t.Context(), notice)
		require.NoError(t, err)
		change.Seq = int64(i + 1)
		change, err = ledger.Save(t.Context(), now(), notice, change)
		require.NoError(t, err)
		require.Len(t, change.Subscription.Targets, 1)
		require.Equal(t, i < n/2 && i%2 == 1, change.Subscription.Targets[0].Additive)
		targets = append(targets, change.Subscription.Targets[0])
	}
	return targets
}
