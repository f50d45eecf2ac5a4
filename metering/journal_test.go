package metering_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// gate is Redis behind a door.
type gate struct {
	*redisquota.Limiter
	away  atomic.Bool  // the door is shut: nothing gets through
	loses atomic.Int64 // how many answers of Restore and SettleLate are lost
	mu    sync.Mutex
	held  chan struct{} // not nil: answers wait until it is closed
}

type shut struct{}

func (shut) Error() string  { return "the door is shut" }
func (shut) NotAsked() bool { return true }

func (g *gate) pass() error {
	if g.away.Load() {
		return shut{}
	}
	g.mu.Lock()
	held := g.held
	g.mu.Unlock()
	if held != nil {
		<-held
	}
	return nil
}

// hold makes everybody wait until release.
func (g *gate) hold() (release func()) {
	held := make(chan struct{})
	g.mu.Lock()
	g.held = held
	g.mu.Unlock()
	return func() {
		g.mu.Lock()
		g.held = nil
		g.mu.Unlock()
		close(held)
	}
}

func (g *gate) Take(ctx context.Context, r metering.Request) (metering.Decision, error) {
	if err := g.pass(); err != nil {
		return metering.Decision{}, err
	}
	return g.Limiter.Take(ctx, r)
}

func (g *gate) Settle(ctx context.Context, d metering.Decision, units int64) (int64, error) {
	if err := g.pass(); err != nil {
		return 0, err
	}
	return g.Limiter.Settle(ctx, d, units)
}

func (g *gate) Check(ctx context.Context) error {
	if err := g.pass(); err != nil {
		return err
	}
	return g.Limiter.Check(ctx)
}

func (g *gate) Restore(ctx context.Context, r metering.Restoration) (int64, error) {
	if err := g.pass(); err != nil {
		return 0, err
	}
	last, err := g.Limiter.Restore(ctx, r)
	if err == nil && g.loses.Add(-1) >= 0 {
		return 0, errors.New("answer lost")
	}
	return last, err
}

func (g *gate) SettleLate(ctx context.Context, e metering.Entries, d metering.Decision, units int64, receipt string) (int64, error) {
	if err := g.pass(); err != nil {
		return 0, err
	}
	last, err := g.Limiter.SettleLate(ctx, e, d, units, receipt)
	if err == nil && g.loses.Add(-1) >= 0 {
		return 0, errors.New("answer lost")
	}
	return last, err
}

// journaled is the options of a meter with a journal in dir.
func journaled(t testing.TB, dir string, o metering.Options) *metering.Options {
	t.Helper()
	spool, err := usage.OpenJournal(dir, &usage.SpoolOptions{FlushInterval: time.Millisecond, BatchEvents: 7, DrainTimeout: time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(func() { spool.Close() })
	o.Journal = spool
	if o.Tools == nil {
		o.Tools = map[string]metering.Tool{"search": {Units: 1}, "report": {Units: 20}}
	}
	if o.Plans == nil {
		limits := []metering.Limit{metering.PerHour(40_000), metering.PerMonth(1_000_000)}
		o.Plans = map[tenant.Plan]metering.Plan{
			tenant.Free:    {Limits: limits, OnOutage: metering.Deny},
			tenant.Starter: {Limits: limits, OnOutage: metering.Allow, Tools: map[string][]metering.Limit{"report": {metering.PerHour(30_000)}}},
			tenant.Pro:     {Limits: []metering.Limit{metering.PerHour(100_000), metering.PerMonth(1_000_000)}, OnOutage: metering.Share},
		}
	}
	o.Leases.MinUnits = 50_000 // of pro
	if o.Budget == 0 {
		o.Budget = 5 * time.Second // a busy machine is no outage
	}
	return &o
}

// throughGate is a bench on a Redis behind a door.
func throughGate(t testing.TB, o metering.Options) (*bench, *gate) {
	t.Helper()
	client, err := redisquota.NewClient(devtest.SharedRedis(t))
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	limiter, err := redisquota.New(client, nil)
	require.NoError(t, err)
	g := &gate{Limiter: limiter}
	b := &bench{limiter: g, sink: &meteringtest.Sink{}, tenant: newTenant(tenant.Starter)}
	b.meter, err = metering.New(g, b.sink, journaled(t, t.TempDir(), o))
	require.NoError(t, err)
	return b, g
}

// shutDoor takes the limiter away until the meter has seen that.
func (b *bench) shutDoor(t testing.TB, g *gate) {
	t.Helper()
	g.away.Store(true)
	require.Eventually(t, func() bool { // calls under way may still have had an answer
		_ = b.meter.Check(t.Context())
		return b.meter.Stats().BreakerOpen
	}, time.Minute, time.Millisecond)
}

func (b *bench) openDoor(t testing.TB, g *gate) {
	t.Helper()
	g.away.Store(false)
	require.NoError(t, b.meter.Check(t.Context()))
}

// agrees reports whether every limit of a tenant's plan counts what its events say.
func (b *bench) agrees(t testing.TB, who tenant.Tenant) error {
	t.Helper()
	limits, err := b.meter.Remaining(tenant.NewContext(context.WithoutCancel(t.Context()), who))
	if err != nil {
		return err
	}
	for _, l := range limits {
		var units int64
		tool, _, ofTool := strings.Cut(l.Name, " ")
		for _, e := range b.sink.Events() {
			if e.Tenant == who.ID && (e.Tool == tool || !ofTool) {
				units += e.Units
			}
		}
		if counted := l.Units - l.Remaining; counted != units {
			return fmt.Errorf("%s tenant: %d units by events, %d counted (%s)", who.Plan, units, counted, l.Name)
		}
	}
	return nil
}

// requireAgreement waits until limits and events of the tenants agree.
func (b *bench) requireAgreement(t testing.TB, tenants ...tenant.Tenant) {
	t.Helper()
	for _, who := range tenants {
		var err error
		for deadline := time.Now().Add(time.Minute); ; {
			if err = b.agrees(t, who); err == nil || time.Now().After(deadline) {
				break
			}
			<-time.After(10 * time.Millisecond)
		}
		require.NoError(t, err)
	}
}

// Whatever calls did while the limiter was away, how they ended and under which
// keys they were sent, its counters say afterwards what the events do.
//
// Mutations seen here: without the journal, or without its entries on what could
// not be settled, the counters stay behind, or ahead.
func TestOutageIsCounted(t *testing.T) {
	t.Parallel()
	b, g := throughGate(t, metering.Options{})
	run(t, b.meter)
	report := func(h handler, key string) {
		var meta mcp.Meta
		if key != "" {
			meta = withKey(key)
		}
		_, _ = invoke(b.ctx(t), guarded(metering.WithMetering(b.meter, "report", h)), "report", meta)
	}
	away := func(h handler) handler { // goes while the call runs
		return func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
			b.shutDoor(t, g)
			return h(ctx, req, in)
		}
	}
	report(ok, "")
	report(ok, "before")
	for i, h := range []handler{ok, fails, panics, charges(7), charges(0), charges(33)} {
		report(away(h), "")
		b.openDoor(t, g)
		report(away(h), fmt.Sprint("during ", i))
		report(h, "")                              // while it is away
		again := []handler{ok, fails, panics}[i%3] // costs what it did, or nothing
		report(again, fmt.Sprint("let through ", i))
		report(again, fmt.Sprint("let through ", i))
		report(again, "before")
		b.openDoor(t, g)
		report(again, fmt.Sprint("let through ", i))
		b.requireAgreement(t, b.tenant)
	}
	require.Zero(t, b.meter.Stats().Unjournaled)
	require.Zero(t, b.meter.Stats().InDoubt)
	require.NotZero(t, b.meter.Stats().SettleFailed)
}

// Redis hangs while calls run: what they asked for it does when it goes on, and
// nothing of it is done twice.
//
// Mutation seen here: a settlement whose answer may still come is taken for lost.
func TestSettledLate(t *testing.T) {
	t.Parallel()
	b, g := throughGate(t, metering.Options{Budget: 20 * time.Millisecond})
	run(t, b.meter)
	for _, h := range []handler{fails, charges(7), charges(33), panics} {
		require.Eventually(t, func() bool { return b.meter.Check(t.Context()) == nil }, time.Minute, time.Millisecond)
		var release func()
		_, _ = invoke(b.ctx(t), guarded(metering.WithMetering(b.meter, "report", func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
			release = g.hold()
			return h(ctx, req, in)
		})), "report", nil)
		require.NotNil(t, release)
		release()
		b.requireAgreement(t, b.tenant)
		require.Zero(t, b.meter.Stats().InDoubt)
	}
	require.EqualValues(t, 4, b.meter.Stats().SettleFailed)
}

// A journal that was not told of to the end is told of by the next process, with
// what the limiter knows already, once.
//
// Mutations seen here: if all entries have one number, the first batch alone is
// counted; if nothing is noted, nothing is.
func TestJournalOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	b, g := throughGate(t, metering.Options{})
	dir := t.TempDir()
	next := func() (stop func()) {
		opts := journaled(t, dir, metering.Options{})
		spool := opts.Journal.(*usage.Spool)
		var err error
		b.meter, err = metering.New(g, b.sink, opts)
		require.NoError(t, err)
		end := run(t, b.meter)
		return func() {
			end()
			require.NoError(t, spool.Close())
		}
	}
	stop := next()
	b.shutDoor(t, g)
	call := func() {
		_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "search", ok), "search", nil)
		require.NoError(t, err)
	}
	for range 50 {
		call()
	}
	stop() // without having told anything
	g.loses.Store(3)
	g.away.Store(false)
	stop = next()
	require.Eventually(t, func() bool { return g.loses.Load() <= 0 }, time.Minute, time.Millisecond)
	b.requireAgreement(t, b.tenant)
	stop()
	stop = next() // has nothing left to tell
	defer stop()
	call()
	b.requireAgreement(t, b.tenant)
	require.EqualValues(t, 51, b.sink.Units(b.tenant.ID))
}

// What is left of a block when a process ends while the limiter is away is returned
// by the next one.
//
// Mutation seen here: without a note of it, the block stays counted as used.
func TestBlockOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	b, g := throughGate(t, metering.Options{})
	b.tenant = newTenant(tenant.Pro)
	dir := t.TempDir()
	next := func() (stop func()) {
		opts := journaled(t, dir, metering.Options{})
		spool := opts.Journal.(*usage.Spool)
		var err error
		b.meter, err = metering.New(g, b.sink, opts)
		require.NoError(t, err)
		end := run(t, b.meter)
		return func() {
			end()
			require.NoError(t, spool.Close())
		}
	}
	call := func() {
		_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "search", ok), "search", nil)
		require.NoError(t, err)
	}
	counted := func() int64 {
		d, err := g.Limiter.Peek(t.Context(), metering.Request{Tenant: b.tenant.ID, Bounds: []metering.Bound{{Limit: metering.PerHour(100_000)}}})
		require.NoError(t, err)
		return 100_000 - d.Limits[0].Remaining
	}
	for lent := false; !lent; { // what is lent may have been returned just in time
		g.away.Store(false)
		stop := next()
		for counted() == b.sink.Units(b.tenant.ID) {
			call()
		}
		g.away.Store(true)
		stop()
		lent = counted() > b.sink.Units(b.tenant.ID)
	}
	g.away.Store(false)
	defer next()()
	b.requireAgreement(t, b.tenant)
}

// Without a journal the meter says how much the limiter will not be told.
func TestNoJournal(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	b := newBenchOn(t, limiter, clock, nil)
	b.tenant = newTenant(tenant.Starter)
	limiter.away.Store(true)
	for range 3 {
		_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "search", ok), "search", nil)
		require.NoError(t, err)
	}
	require.EqualValues(t, 3, b.meter.Stats().Unjournaled)
}

// Share is a part of each limit.
func TestShare(t *testing.T) {
	t.Parallel()
	limiter, clock := newBreakable()
	b := newBenchOn(t, limiter, clock, &metering.Options{Processes: 4, Plans: map[tenant.Plan]metering.Plan{
		tenant.Free: {Limits: []metering.Limit{metering.PerHour(10)}, OnOutage: metering.Share},
	}})
	limiter.away.Store(true)
	search := metering.WithMetering(b.meter, "search", ok)
	for range 2 {
		_, err := invoke(b.ctx(t), search, "search", nil)
		require.NoError(t, err)
	}
	_, err := invoke(b.ctx(t), search, "search", nil)
	denied, is := errors.AsType[*metering.QuotaError](err)
	require.True(t, is, "%v", err)
	require.Equal(t, "hour", denied.Limit)
	require.EqualValues(t, 2, b.meter.Stats().Unmetered)
}

// Random calls of several tenants on two processes, of plans with and without
// leases, while the limiter comes and goes, answers late, and loses answers:
// in the end limits and events agree to the unit.
//
// Mutations seen here: without the journal the limits lack what was let through;
// without its numbers they count it twice.
func TestLimitsAgreeWithEvents(t *testing.T) {
	t.Parallel()
	b, g := throughGate(t, metering.Options{Budget: 50 * time.Millisecond})
	other, err := metering.New(g, b.sink, journaled(t, t.TempDir(), metering.Options{Budget: 50 * time.Millisecond}))
	require.NoError(t, err)
	meters := []*metering.Meter{b.meter, other}
	stops := []func(){run(t, b.meter), run(t, other)}
	tenants := []tenant.Tenant{newTenant(tenant.Free), newTenant(tenant.Starter), newTenant(tenant.Starter), newTenant(tenant.Pro)}
	lasting := func(ctx context.Context, req *mcp.CallToolRequest, in noArgs) (*mcp.CallToolResult, answer, error) {
		<-time.After(20 * time.Millisecond) // so that the weather changes meanwhile
		return fails(ctx, req, in)
	}
	endings := []handler{ok, ok, ok, fails, lasting, lasting, panics, charges(3), charges(25), charges(0)}

	var load, weather sync.WaitGroup
	done := make(chan struct{})
	weather.Go(func() {
		rnd := rand.New(rand.NewPCG(1, 2))
		for {
			select {
			case <-done:
				g.away.Store(false)
				return
			case <-time.After(time.Duration(rnd.IntN(60)) * time.Millisecond):
			}
			switch rnd.IntN(4) {
			case 0:
				g.away.Store(true)
			case 1:
				release := g.hold()
				<-time.After(time.Duration(rnd.IntN(200)) * time.Millisecond)
				release()
			case 2:
				g.loses.Store(2)
			default:
				g.away.Store(false)
			}
		}
	})
	for worker := range 8 {
		load.Go(func() {
			rnd := rand.New(rand.NewPCG(3, uint64(worker)))
			for n := range 150 {
				ctx := tenant.NewContext(t.Context(), tenants[rnd.IntN(len(tenants))])
				tool := []string{"search", "report"}[rnd.IntN(2)]
				var meta mcp.Meta
				h := endings[rnd.IntN(len(endings))]
				if rnd.IntN(3) == 0 {
					// Sent again, a call costs what it did, or nothing.
					meta, h = withKey(fmt.Sprint(worker, n/2)), endings[rnd.IntN(7)]
				}
				_, _ = invoke(ctx, guarded(metering.WithMetering(meters[worker%2], tool, h)), tool, meta)
			}
		})
	}
	load.Wait()
	close(done)
	weather.Wait()
	for _, m := range meters {
		require.Eventually(t, func() bool { return m.Check(t.Context()) == nil }, time.Minute, time.Millisecond)
	}
	for _, m := range meters {
		require.Eventually(t, func() bool { return !m.Waits() }, time.Minute, time.Millisecond, "late answers")
		require.Zero(t, m.Stats().InDoubt)
		require.Zero(t, m.Stats().Unjournaled)
	}
	// Blocks go back while the limiter is there, with the journals still read.
	for i, m := range meters {
		require.NotZero(t, m.Stats().Unmetered, "nothing was let through by %d", i)
	}
	b.requireAgreement(t, tenants...)
	for _, stop := range stops {
		stop()
	}
	b.requireAgreement(t, tenants...)
}
