package metering_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func TestMemoryAlerts(t *testing.T) {
	t.Parallel()
	store := metering.NewMemoryAlerts(nil)
	meteringtest.TestAlertStore(t, func(*testing.T) metering.AlertStore { return store })
}

// ear hears alerts.
type ear struct {
	mu     sync.Mutex
	alerts []metering.Alert
	fail   func(metering.Alert) error
}

func (e *ear) tell(_ context.Context, a metering.Alert) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fail != nil {
		if err := e.fail(a); err != nil {
			return err
		}
	}
	e.alerts = append(e.alerts, a)
	return nil
}

// heard returns what was told, as "limit percent used/allowed", in no order.
func (e *ear) heard() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var heard []string
	for _, a := range e.alerts {
		heard = append(heard, fmt.Sprintf("%s %d %d/%d", a.Limit, a.Percent, a.Used, a.Allowed))
	}
	slices.Sort(heard)
	return heard
}

// hears waits until exactly this was told, since the last time.
func (e *ear) hears(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	require.Eventually(t, func() bool { return len(e.heard()) >= len(want) }, time.Minute, time.Millisecond, "heard %v, want %v", e, want)
	require.Equal(t, want, e.heard())
	e.mu.Lock()
	e.alerts = nil
	e.mu.Unlock()
}

// asked makes a call that uses nothing, and waits until the tenant's own threshold
// is known.
func (b *bench) asked(t *testing.T) {
	t.Helper()
	_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "search", charges(0)), "search", nil)
	if err != nil {
		require.ErrorIs(t, err, metering.ErrQuotaExceeded)
	}
	require.Eventually(t, func() bool { return b.meter.Asked(b.tenant.ID) }, time.Minute, time.Millisecond)
}

func alerting(t *testing.T, opts *metering.Options, alerts metering.AlertOptions) (*bench, *ear) {
	t.Helper()
	e := &ear{}
	alerts.Tell = e.tell
	if alerts.Timeout == 0 {
		alerts.Timeout = 1000 * time.Hour // the clock is moved on while they are told: nobody is to take them for left
	}
	if opts == nil {
		opts = &metering.Options{}
	}
	opts.Alerts = &alerts
	b := newBench(t, opts)
	run(t, b.meter)
	return b, e
}

// Mutation: with marks that don't know their period, the next one tells nothing.
// Without any marks each call asks the store again, which is not seen here: the
// store drops what it knows.
func TestAlerts(t *testing.T) {
	t.Parallel()
	b, e := alerting(t, nil, metering.AlertOptions{})
	b.use(t, "search", 79)
	b.use(t, "search", 1)
	e.hears(t, "hour 80 80/100")
	b.use(t, "search", 19)
	e.hears(t, "hour 95 95/100")
	b.use(t, "search", 5)
	e.hears(t, "hour 100 100/100")

	b.clock.Advance(59 * time.Minute)
	require.Zero(t, b.use(t, "search", 5), "the same period")
	b.clock.Advance(31 * time.Minute) // 13:30, and the window is empty
	b.use(t, "report", 4)
	e.hears(t, "hour 80 80/100")

	b.tenant.Limits = []tenant.Limit{{Name: "hour", Units: 90}}
	b.use(t, "search", 1)
	e.hears(t, "hour 80 81/90") // another limit
	require.EqualValues(t, 5, b.meter.Stats().AlertsTold)
}

func TestAlertOfPeriod(t *testing.T) {
	t.Parallel()
	b, e := alerting(t, &metering.Options{Plans: map[tenant.Plan]metering.Plan{
		tenant.Free: {Limits: []metering.Limit{
			metering.PerMinute(10), metering.PerBillingPeriod(100), metering.Concurrent(1),
			{Name: "spend", Units: 40, Period: metering.BillingPeriod, Mode: metering.Soft},
		}, Attempts: metering.PerHour(1000)},
	}}, metering.AlertOptions{LimitPercent: map[string][]int{"spend": {50, 80, 100}}})
	b.tenant.PeriodStart = time.Date(2026, 11, 10, 0, 0, 0, 0, time.UTC)
	b.tenant.PeriodEnd = time.Date(2026, 11, 12, 0, 0, 0, 0, time.UTC)
	use := func(units int) {
		for ; units > 0; units -= 10 {
			require.Equal(t, min(units, 10), b.use(t, "search", min(units, 10)))
			b.clock.Advance(time.Minute)
		}
	}
	use(20)
	e.hears(t, "spend 50 20/40")
	use(12)
	e.hears(t, "spend 80 32/40")
	use(30)
	e.hears(t, "spend 95 38/40", "spend 100 40/40")
	use(30)
	e.hears(t, "billing 80 80/100")
	b.clock.Advance(48 * time.Hour) // a period that goes on by itself
	use(20)
	e.hears(t, "spend 50 20/40")
}

// A call that is dearer than what is left finds the limit used up; one that is
// dearer than the limit finds nothing. Mutation: with the share of used units alone,
// nobody is told that calls are refused.
func TestAlertOfRefusal(t *testing.T) {
	t.Parallel()
	b, e := alerting(t, nil, metering.AlertOptions{Percent: []int{100}, OwnPercent: func(context.Context, tenant.ID) (int, error) { return -1, nil }})
	b.asked(t)
	b.use(t, "search", 85)
	require.Zero(t, b.use(t, "report", 1))
	e.hears(t, "hour 100 85/100")
	b.tenant = newTenant(tenant.Free)
	b.tenant.Limits = []tenant.Limit{{Name: "hour", Units: 10}}
	require.Zero(t, b.use(t, "report", 2))
	b.asked(t)
	require.Equal(t, 10, b.use(t, "search", 10))
	e.hears(t, "hour 100 10/10")
}

// A call that gives its units back has used nothing. Mutation: with a look before the
// call is settled, its units count.
func TestNoAlertOfWhatIsGivenBack(t *testing.T) {
	t.Parallel()
	b, e := alerting(t, nil, metering.AlertOptions{})
	b.use(t, "search", 70)
	for range 5 {
		_, err := invoke(b.ctx(t), metering.WithMetering(b.meter, "report", fails), "report", nil)
		require.Error(t, err)
	}
	b.use(t, "search", 10)
	e.hears(t, "hour 80 80/100")
}

func TestOwnPercent(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	own := make(map[tenant.ID]int)
	b, e := alerting(t, nil, metering.AlertOptions{OwnPercent: func(_ context.Context, id tenant.ID) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		if own[id] == 7 {
			return 0, errors.New("away")
		}
		return own[id], nil
	}})
	for _, test := range []struct {
		own  int
		want []string
	}{
		{50, []string{"hour 50 50/100", "hour 80 80/100", "hour 100 100/100"}},
		{80, []string{"hour 80 80/100", "hour 100 100/100"}},
		{-1, []string{"hour 80 80/100", "hour 100 100/100"}},
		{0, []string{"hour 80 80/100", "hour 95 95/100", "hour 100 100/100"}},
		{700, []string{"hour 80 80/100", "hour 95 95/100", "hour 100 100/100"}},
		{7, []string{"hour 80 80/100", "hour 95 95/100", "hour 100 100/100"}},
	} {
		b.tenant = newTenant(tenant.Free)
		mu.Lock()
		own[b.tenant.ID] = test.own
		mu.Unlock()
		b.asked(t)
		b.use(t, "search", 100)
		e.hears(t, test.want...)
	}
}

// Tell is tried again until it returns nil, or the alert is too old; a panic is an
// error.
func TestAlertIsToldAgain(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	b, e := alerting(t, &metering.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}, metering.AlertOptions{
		Percent: []int{100}, OwnPercent: func(context.Context, tenant.ID) (int, error) { return -1, nil },
		Timeout: 10 * time.Millisecond, Backoff: time.Minute, RetryFor: 90 * time.Minute,
	})
	var attempts []int
	e.fail = func(a metering.Alert) error {
		attempts = append(attempts, a.Attempt)
		switch {
		case a.Tenant != b.tenant.ID:
			return nil
		case a.Attempt == 1:
			panic("bug")
		case a.Attempt < 4:
			return errors.New("receiver is away")
		}
		return nil
	}
	tried := func(n int64) {
		t.Helper()
		require.Eventually(t, func() bool { return b.meter.Stats().AlertsFailed == n }, time.Minute, time.Millisecond)
	}
	b.asked(t)
	b.use(t, "search", 100)
	tried(1)
	b.clock.Advance(time.Minute)
	tried(2)
	b.clock.Advance(2 * time.Minute)
	tried(3)
	b.clock.Advance(4 * time.Minute)
	e.hears(t, "hour 100 100/100")
	require.Equal(t, []int{1, 2, 3, 4}, attempts)

	e.mu.Lock()
	e.fail = func(metering.Alert) error { return errors.New("never") }
	e.mu.Unlock()
	b.tenant = newTenant(tenant.Free)
	b.asked(t)
	b.use(t, "search", 100)
	tried(4)
	b.clock.Advance(2 * time.Hour)
	require.Eventually(t, func() bool { return b.meter.Stats().AlertsLost == 1 }, time.Minute, time.Millisecond)
	b.clock.Advance(24 * time.Hour)
	e.hears(t)
}

// awayStore is a store that can't be reached at times.
type awayStore struct {
	metering.AlertStore
	mu      sync.Mutex
	away    bool
	refused int
}

func (s *awayStore) Add(ctx context.Context, a metering.Alert, forget time.Time) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		s.refused++
		return false, errors.New("away")
	}
	return s.AlertStore.Add(ctx, a, forget)
}

// What is found while the store is away waits. Mutation: alerts that are dropped
// when Add fails are never told, since their marks are set.
func TestAlertsWaitForTheStore(t *testing.T) {
	t.Parallel()
	limiter, clock := meteringtest.NewLimiter()
	store := &awayStore{AlertStore: metering.NewMemoryAlerts(clock.Now), away: true}
	e := &ear{}
	b := newBenchOn(t, limiter, clock, &metering.Options{Alerts: &metering.AlertOptions{Tell: e.tell, Store: store, Timeout: 10 * time.Millisecond}})
	run(t, b.meter)
	b.use(t, "search", 100)
	require.Eventually(t, func() bool {
		store.mu.Lock()
		defer store.mu.Unlock()
		return store.refused > 3
	}, time.Minute, time.Millisecond)
	e.hears(t)
	store.mu.Lock()
	store.away = false
	store.mu.Unlock()
	e.hears(t, "hour 80 80/100", "hour 95 95/100", "hour 100 100/100")
}

// A try that failed is repeated when Options say, not when the store is looked into
// next.
func TestAlertBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start, tries := time.Now(), []time.Duration{}
		meter, err := metering.New(metering.NewMemory(nil), &meteringtest.Sink{}, &metering.Options{
			Tools: map[string]metering.Tool{"search": {Units: 100}},
			Alerts: &metering.AlertOptions{
				Store: metering.NewMemoryAlerts(nil), Percent: []int{100}, Backoff: 10 * time.Millisecond,
				Tell: func(_ context.Context, a metering.Alert) error {
					if a.Percent != 100 {
						return nil
					}
					if tries = append(tries, time.Since(start)); len(tries) < 4 {
						return errors.New("the receiver is away")
					}
					return nil
				},
			},
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- meter.Run(ctx) }()
		synctest.Wait()
		_, err = invoke(tenant.NewContext(ctx, newTenant(tenant.Free)), metering.WithMetering(meter, "search", ok), "search", nil)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		cancel()
		require.NoError(t, <-ended)
		require.Equal(t, []time.Duration{0, 10 * time.Millisecond, 30 * time.Millisecond, 70 * time.Millisecond}, tries)
	})
}

// Three replicas cross at once, and each threshold is told once. Mutation: with a
// store that forgets what was told, the others tell it again.
func TestAlertsOfAFleet(t *testing.T) {
	t.Parallel()
	limiter, clock := meteringtest.NewLimiter()
	store := metering.NewMemoryAlerts(clock.Now)
	e := &ear{}
	var fleet []*bench
	for range 3 {
		b := newBenchOn(t, limiter, clock, &metering.Options{Alerts: &metering.AlertOptions{Tell: e.tell, Store: store, Timeout: 20 * time.Millisecond}})
		run(t, b.meter)
		fleet = append(fleet, b)
	}
	var tenants []tenant.Tenant
	for range 20 {
		tenants = append(tenants, newTenant(tenant.Free))
	}
	var group sync.WaitGroup
	for _, b := range fleet {
		for _, owner := range tenants {
			group.Go(func() {
				h := metering.WithMetering(b.meter, "search", ok)
				for range 40 {
					_, _ = invoke(tenant.NewContext(t.Context(), owner), h, "search", nil)
				}
			})
		}
	}
	group.Wait()
	require.Eventually(t, func() bool { return len(e.heard()) >= 3*len(tenants) }, time.Minute, time.Millisecond)
	seen := make(map[string]bool)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.alerts {
		require.False(t, seen[a.ID], "told twice: %v", a)
		seen[a.ID] = true
		require.GreaterOrEqual(t, a.Used*100, int64(a.Percent)*a.Allowed)
	}
	require.Len(t, seen, 3*len(tenants))
}

// A replica that has taken an alert and hangs keeps nobody from telling it.
func TestAlertOfAReplicaThatHangs(t *testing.T) {
	t.Parallel()
	limiter, clock := meteringtest.NewLimiter()
	store := metering.NewMemoryAlerts(nil)
	hung := make(chan metering.Alert, 1)
	release := make(chan struct{})
	first := newBenchOn(t, limiter, clock, &metering.Options{Alerts: &metering.AlertOptions{
		Percent: []int{100}, Store: store, Timeout: 50 * time.Millisecond,
		Tell: func(_ context.Context, a metering.Alert) error {
			select {
			case hung <- a:
			default:
			}
			<-release
			return nil
		},
	}})
	run(t, first.meter)
	t.Cleanup(func() { close(release) })
	first.use(t, "report", 5)
	taken := <-hung

	e := &ear{}
	second := newBenchOn(t, limiter, clock, &metering.Options{Alerts: &metering.AlertOptions{Percent: []int{100}, Store: store, Timeout: 50 * time.Millisecond, Tell: e.tell}})
	run(t, second.meter)
	require.Eventually(t, func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return slices.ContainsFunc(e.alerts, func(a metering.Alert) bool { return a.ID == taken.ID && a.Attempt > 1 })
	}, time.Minute, time.Millisecond)
}

// Run ends when it is told to, and leaves what it has found in the store. Mutation:
// without the last look at what was found, that is lost.
func TestAlertsOutliveRun(t *testing.T) {
	t.Parallel()
	limiter, clock := meteringtest.NewLimiter()
	store := metering.NewMemoryAlerts(clock.Now)
	b := newBenchOn(t, limiter, clock, &metering.Options{Alerts: &metering.AlertOptions{Tell: func(context.Context, metering.Alert) error { return nil }, Store: store}})
	b.use(t, "report", 5)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, b.meter.Run(ctx))
	alerts, err := store.Claim(t.Context(), 10, time.Hour)
	require.NoError(t, err)
	require.Len(t, alerts, 3)
}

// Calls beyond a limit that is tried out are in the log once per period.
func TestShadowIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	b := newBench(t, &metering.Options{
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Plans:  map[tenant.Plan]metering.Plan{tenant.Free: {Limits: []metering.Limit{{Name: "tried", Units: 10, Window: time.Hour, Mode: metering.Shadow}}}},
	})
	b.use(t, "search", 10)
	require.Empty(t, log.String())
	b.use(t, "search", 10)
	require.Equal(t, 1, strings.Count(log.String(), "limit=tried"))
	b.clock.Advance(time.Hour)
	b.use(t, "search", 20)
	require.Equal(t, 2, strings.Count(log.String(), "limit=tried"))
}

func TestAlertOptions(t *testing.T) {
	t.Parallel()
	tell := func(context.Context, metering.Alert) error { return nil }
	for want, opts := range map[string]metering.AlertOptions{
		"Alerts.Tell: is nil":                 {},
		"Alerts.Percent[1]: 101":              {Tell: tell, Percent: []int{1, 101}},
		`Alerts.LimitPercent["x"][0]: 0`:      {Tell: tell, LimitPercent: map[string][]int{"x": {0}}},
		"Alerts.Timeout: -1ns":                {Tell: tell, Timeout: -1},
		"Alerts.Backoff: 1ns is less":         {Tell: tell, Backoff: 1},
		"Alerts.RetryFor: -1s is less than 1": {Tell: tell, RetryFor: -time.Second},
	} {
		_, err := metering.New(metering.NewMemory(nil), &meteringtest.Sink{}, &metering.Options{Alerts: &opts})
		require.ErrorContains(t, err, want)
	}
}
