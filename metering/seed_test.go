package metering_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// books is a ledger that has the events of a sink, all at once or not at all.
type books struct {
	sink  *meteringtest.Sink
	away  atomic.Bool
	asked atomic.Int64
}

func (l *books) Units(_ context.Context, id tenant.ID, tool string, from, to time.Time) (units int64, err error) {
	l.asked.Add(1)
	if l.away.Load() {
		return 0, errors.New("no database")
	}
	for _, e := range l.sink.Events() {
		if e.Tenant == id && (tool == "" || e.Tool == tool) && !e.Time.Before(from) && e.Time.Before(to) {
			units += e.Units
		}
	}
	return units, nil
}

// monthly is a bench on a Redis that forgets when it is told to, with limits of a
// month that a ledger knows of.
func monthly(t testing.TB) (b *bench, g *gate, ledger *books, forget func()) {
	t.Helper()
	client, err := redisquota.NewClient(devtest.SharedRedis(t))
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	limiter, err := redisquota.New(client, nil)
	require.NoError(t, err)
	g = &gate{Limiter: limiter}
	b = &bench{limiter: g, sink: &meteringtest.Sink{}, tenant: newTenant(tenant.Starter)}
	ledger = &books{sink: b.sink}
	b.meter = b.monthlyMeter(t, g, ledger)
	return b, g, ledger, func() { forgetAll(t, client) }
}

func (b *bench) monthlyMeter(t testing.TB, g *gate, ledger metering.Ledger) *metering.Meter {
	t.Helper()
	m, err := metering.New(g, b.sink, journaled(t, t.TempDir(), metering.Options{
		Ledger: ledger,
		Plans: map[tenant.Plan]metering.Plan{tenant.Starter: {
			Limits:   []metering.Limit{metering.PerMonth(100_000), metering.PerBillingPeriod(90_000)},
			Tools:    map[string][]metering.Limit{"report": {metering.PerMonth(80_000)}},
			OnOutage: metering.Allow,
		}},
	}))
	require.NoError(t, err)
	m.LookSoon(10*time.Millisecond, 100*time.Millisecond, time.Second, time.Hour)
	return m
}

// forgetAll takes no less than a millisecond, as a restart does: a limiter's times
// are no finer.
func forgetAll(t testing.TB, client *redis.Client) {
	t.Helper()
	<-time.After(2 * time.Millisecond)
	require.NoError(t, client.FlushDB(context.WithoutCancel(t.Context())).Err())
}

func (b *bench) call(t testing.TB, tool string, h handler) {
	t.Helper()
	_, _ = invoke(b.ctx(t), guarded(metering.WithMetering(b.meter, tool, h)), tool, nil)
}

// The counter of a month that Redis forgets, in mid-load, is what it was: with the
// calls that were under way, those that are given back afterwards, and those that
// were let through meanwhile.
//
// Mutations seen here: without seeding, the month begins anew; a journal that does not
// ask since when a counter counts doubles what the ledger says too.
func TestForgottenMonth(t *testing.T) {
	t.Parallel()
	b, g, _, forget := monthly(t)
	run(t, b.meter)
	for range 20 {
		b.call(t, "report", ok)
		b.call(t, "search", charges(3))
	}
	b.requireAgreement(t, b.tenant)

	forget()
	b.call(t, "search", ok)
	b.requireAgreement(t, b.tenant)

	var load sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		load.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					b.call(t, []string{"search", "report"}[i%2], []handler{ok, fails, charges(5)}[i%3])
				}
			}
		})
	}
	for range 5 {
		before := b.sink.Units(b.tenant.ID)
		require.Eventually(t, func() bool { return b.sink.Units(b.tenant.ID) > before+100 }, time.Minute, time.Millisecond)
		b.shutDoor(t, g)
		let := b.meter.Stats().Unmetered
		require.Eventually(t, func() bool { return b.meter.Stats().Unmetered > let+20 }, time.Minute, time.Millisecond)
		forget()
		b.openDoor(t, g)
	}
	close(stop)
	load.Wait()
	b.requireAgreement(t, b.tenant)
	require.Greater(t, b.sink.Units(b.tenant.ID), int64(1_000))

	// The tool's own month too.
	now := time.Now().UTC()
	start := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	var units int64
	for _, e := range b.sink.Events() {
		if e.Tool == "report" {
			units += e.Units
		}
	}
	ctx := t.Context()
	require.Eventually(t, func() bool { // it is filled by itself
		d, err := g.Peek(ctx, metering.Request{Tenant: b.tenant.ID, Bounds: []metering.Bound{{Limit: metering.PerMonth(80_000), Tool: "report", Start: start, End: start.AddDate(0, 1, 0)}}})
		return err == nil && units == 80_000-d.Limits[0].Remaining
	}, time.Minute, 10*time.Millisecond)
}

// A call that Redis has forgotten, and that gives its units back, does not take
// others' with it.
func TestGivenBackAfterTheLoss(t *testing.T) {
	t.Parallel()
	b, _, _, forget := monthly(t)
	run(t, b.meter)
	for range 3 {
		b.call(t, "report", ok)
	}
	b.requireAgreement(t, b.tenant)
	b.call(t, "report", func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
		forget()
		b.call(t, "search", ok)
		return fails(ctx, req, in)
	})
	b.requireAgreement(t, b.tenant)
	require.EqualValues(t, 61, b.sink.Units(b.tenant.ID))
}

// Whoever saw a counter begin may die, and the ledger may be away: the next process
// that meets the tenant sees to it, and nobody asks twice without need.
func TestForgottenMonthOfADeadProcess(t *testing.T) {
	t.Parallel()
	b, g, ledger, forget := monthly(t)
	for range 5 {
		b.call(t, "report", ok)
	}
	forget()
	b.call(t, "search", ok) // seen by a meter that does not run
	require.Error(t, b.agrees(t, b.tenant))

	ledger.away.Store(true)
	b.meter = b.monthlyMeter(t, g, ledger)
	stop := run(t, b.meter)
	b.call(t, "search", ok)
	require.Eventually(t, func() bool { return ledger.asked.Load() > 0 }, time.Minute, time.Millisecond)
	stop()
	require.Error(t, b.agrees(t, b.tenant))

	ledger.away.Store(false)
	b.meter = b.monthlyMeter(t, g, ledger)
	b.meter.LookSoon()
	stop = run(t, b.meter)
	b.call(t, "search", ok)
	b.requireAgreement(t, b.tenant)
	stop()

	// It has had the last word.
	b.meter = b.monthlyMeter(t, g, metering.LedgerFunc(func(context.Context, tenant.ID, string, time.Time, time.Time) (int64, error) {
		t.Error("asked again")
		return 0, nil
	}))
	run(t, b.meter)
	b.call(t, "search", ok)
	b.requireAgreement(t, b.tenant)
}
