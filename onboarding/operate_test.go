package onboarding_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func request() onboarding.Request {
	return onboarding.Request{Tenant: tenant.NewID(), Plan: tenant.Free}
}

func steps(provision ...onboarding.Step) onboarding.Steps {
	s := trivial
	s.Provision = provision
	return s
}

var errAway = errors.New("database is away")

func TestRetryThenActive(t *testing.T) {
	t.Parallel()
	m := newMemory()
	var tries, first atomic.Int32
	p := provisioner(t, m, steps(
		onboarding.Step{Name: "one", Do: func(context.Context, *onboarding.Task) (any, error) {
			first.Add(1)
			return map[string]string{"marker": "m"}, nil
		}},
		onboarding.Step{Name: "two", Do: func(_ context.Context, task *onboarding.Task) (any, error) {
			var out struct{ Marker string }
			if err := task.Output("one", &out); err != nil || out.Marker != "m" {
				return nil, onboarding.Terminal(errors.New("no output of the step before"))
			}
			if tries.Add(1) < 4 {
				return nil, errAway
			}
			return nil, nil
		}},
	), nil)
	run(t, p)
	r := request()
	require.NoError(t, p.Provision(t.Context(), r))
	_, err := p.Wait(t.Context(), r.Tenant, tenant.Active)
	require.NoError(t, err)
	require.EqualValues(t, 4, tries.Load())
	require.EqualValues(t, 1, first.Load(), "a step that is done is not done again")
	list, err := m.Steps(t.Context(), r.Tenant, "provision")
	require.NoError(t, err)
	require.Equal(t, 4, list[1].Attempt)
	require.Nil(t, list[1].Failure)
	require.Nil(t, settled(t, p, r.Tenant, tenant.Active).Failure)
}

// TestGiveUp: after its attempts an operation fails, is shown with what was
// done, and begins again by itself later, or at once when asked.
func TestGiveUp(t *testing.T) {
	t.Parallel()
	m := newMemory()
	var mended atomic.Bool
	p := provisioner(t, m, steps(
		onboarding.Step{Name: "one", Do: nothing},
		onboarding.Step{Name: "two", Do: func(context.Context, *onboarding.Task) (any, error) {
			if mended.Load() {
				return nil, nil
			}
			return nil, errAway
		}},
	), &onboarding.Options{MaxAttempts: 3, Backoff: time.Millisecond, Poll: time.Millisecond})
	run(t, p)
	r := request()
	require.NoError(t, p.Provision(t.Context(), r))
	_, err := p.Wait(t.Context(), r.Tenant, tenant.Active)
	failed := new(onboarding.StepError)
	require.ErrorAs(t, err, &failed)
	require.Equal(t, "two", failed.Step)
	require.Equal(t, []string{"one"}, failed.Done)
	require.ErrorContains(t, err, errAway.Error())
	rec := settled(t, p, r.Tenant, tenant.Failed)
	require.WithinDuration(t, m.now().Add(time.Hour), rec.NextAt, time.Minute)
	require.Equal(t, onboarding.ClassError, rec.Failure.Class)

	// It begins again by itself, and gives up again.
	m.pass(2 * time.Hour)
	require.Eventually(t, func() bool {
		rec, err := p.Tenant(t.Context(), r.Tenant)
		return err == nil && rec.State == tenant.Failed && rec.NextAt.After(rec.Now)
	}, 10*time.Second, time.Millisecond)

	mended.Store(true)
	require.NoError(t, p.Retry(t.Context(), onboarding.Order{Tenant: r.Tenant}))
	rec, err = p.Wait(t.Context(), r.Tenant, tenant.Active)
	require.NoError(t, err)
	require.Nil(t, rec.Failure)
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	m := newMemory()
	var tries atomic.Int32
	p := provisioner(t, m, steps(onboarding.Step{Name: "one", Do: func(context.Context, *onboarding.Task) (any, error) {
		tries.Add(1)
		return nil, onboarding.Terminal(errors.New("no such role"))
	}}), nil)
	run(t, p)
	r := request()
	require.NoError(t, p.Provision(t.Context(), r))
	_, err := p.Wait(t.Context(), r.Tenant, tenant.Active)
	require.ErrorContains(t, err, "terminal: no such role")
	rec := settled(t, p, r.Tenant, tenant.Failed)
	require.Zero(t, rec.NextAt, "nothing but an operator begins it again")
	require.EqualValues(t, 1, tries.Load())
}

// TestBadSteps: a step that panics, hangs, or lies about being done is a failed
// attempt, never more.
func TestBadSteps(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		step  onboarding.Step
		class onboarding.Class
	}{
		"panics": {onboarding.Step{Do: func(context.Context, *onboarding.Task) (any, error) { panic("boom") }}, onboarding.ClassPanic},
		"hangs": {onboarding.Step{Timeout: time.Millisecond, Do: func(ctx context.Context, _ *onboarding.Task) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}, onboarding.ClassTimeout},
		"lies": {onboarding.Step{Do: nothing, Verify: func(context.Context, *onboarding.Task) error {
			return errors.New("it isn't there")
		}}, onboarding.ClassError},
		"can't be stored": {onboarding.Step{Do: func(context.Context, *onboarding.Task) (any, error) {
			return make(chan int), nil
		}}, onboarding.ClassError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.step.Name = "bad"
			p := provisioner(t, newMemory(), steps(c.step), &onboarding.Options{MaxAttempts: 2, Backoff: time.Millisecond, Poll: time.Millisecond})
			run(t, p)
			r := request()
			require.NoError(t, p.Provision(t.Context(), r))
			rec := settled(t, p, r.Tenant, tenant.Failed)
			require.Equal(t, c.class, rec.Failure.Class)
			require.Equal(t, "bad", rec.Failure.Step)
		})
	}
}

// TestBackoff measures the waits between attempts by a clock of the test's own.
func TestBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		var mu sync.Mutex
		var at []time.Time
		p := provisioner(t, m, steps(onboarding.Step{Name: "one", Do: func(context.Context, *onboarding.Task) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Now())
			switch len(at) {
			case 3:
				return nil, onboarding.RetryAfter(errAway, time.Minute)
			case 12:
				return nil, nil
			}
			return nil, errAway
		}}), &onboarding.Options{MaxAttempts: 20})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { p.Run(ctx); close(done) }()
		r := request()
		require.NoError(t, p.Provision(ctx, r))
		_, err := p.Wait(ctx, r.Tenant, tenant.Active)
		require.NoError(t, err)
		cancel()
		<-done
		var waits []int
		for i := range at[1:] {
			waits = append(waits, int(at[i+1].Sub(at[i]).Round(time.Second)/time.Second))
		}
		for i, want := range []int{1, 2, 60, 8, 16, 32, 64, 128, 256, 300, 300} {
			require.InDelta(t, want, waits[i], 1, "wait %d of %v", i+1, waits) // the poll's grain
		}
	})
}

// TestAttendNeverBlocks: what comes after the activation is tried again, shown
// as a warning, and doesn't keep the tenant from serving.
func TestAttendNeverBlocks(t *testing.T) {
	t.Parallel()
	m := newMemory()
	s := trivial
	var mended atomic.Bool
	s.Attend = []onboarding.Step{{Name: "monitor", Do: func(context.Context, *onboarding.Task) (any, error) {
		if mended.Load() {
			return nil, nil
		}
		return nil, errAway
	}}}
	p := provisioner(t, m, s, &onboarding.Options{MaxAttempts: 2, Backoff: time.Millisecond, Poll: time.Millisecond})
	run(t, p)
	r := request()
	require.NoError(t, p.Provision(t.Context(), r))
	require.Eventually(t, func() bool {
		rec, err := p.Tenant(t.Context(), r.Tenant)
		return err == nil && rec.State == tenant.Active && rec.Failure != nil && rec.NextAt.After(rec.Now.Add(time.Minute))
	}, 10*time.Second, time.Millisecond)
	mended.Store(true)
	m.pass(2 * time.Hour)
	require.Eventually(t, func() bool {
		rec, err := p.Tenant(t.Context(), r.Tenant)
		return err == nil && rec.State == tenant.Active && rec.Failure == nil && rec.NextAt.IsZero()
	}, 10*time.Second, time.Millisecond)
}

// TestLeaseIsRenewed: a step that takes longer than the lease keeps it; and one
// whose lease is taken over is stopped.
func TestLeaseIsRenewed(t *testing.T) {
	t.Parallel()
	const lease = 2 * time.Second // renewed at a third of it: nothing here may stall for longer
	m := newMemory()
	begun, stopped := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	slow := onboarding.Step{Name: "slow", Do: func(ctx context.Context, task *onboarding.Task) (any, error) {
		first := false
		once.Do(func() { first = true })
		if first {
			close(begun)
			<-ctx.Done()
			stopped <- context.Cause(ctx)
			return nil, ctx.Err()
		}
		return nil, nil
	}}
	p := provisioner(t, m, steps(slow), &onboarding.Options{Lease: lease, Poll: time.Millisecond, Owner: "first"})
	run(t, p)
	r := request()
	require.NoError(t, p.Provision(t.Context(), r))
	<-begun
	rec, err := m.Load(t.Context(), r.Tenant)
	require.NoError(t, err)
	until := rec.LeaseUntil
	require.Eventually(t, func() bool {
		rec, err := m.Load(t.Context(), r.Tenant)
		return err == nil && rec.LeaseUntil.After(until.Add(lease)) && rec.Fence == 1
	}, time.Minute, time.Millisecond)

	// Somebody takes it over, as if we had stalled.
	m.mu.Lock()
	rec = m.records[r.Tenant]
	rec.Fence++
	rec.LeaseOwner, rec.LeaseUntil = "second", m.now().Add(-time.Second)
	m.records[r.Tenant] = rec
	m.mu.Unlock()
	require.ErrorIs(t, <-stopped, onboarding.ErrLeaseLost)
	settled(t, p, r.Tenant, tenant.Active)
}

// TestWorkersAreBounded: tenants are worked on side by side, but no more than
// Workers of them.
func TestWorkersAreBounded(t *testing.T) {
	t.Parallel()
	m := newMemory()
	var now, most atomic.Int32
	gate := make(chan struct{})
	p := provisioner(t, m, steps(onboarding.Step{Name: "one", Do: func(ctx context.Context, _ *onboarding.Task) (any, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for {
			old := most.Load()
			if n <= old || most.CompareAndSwap(old, n) {
				break
			}
		}
		<-gate
		return nil, nil
	}}), &onboarding.Options{Workers: 3, Poll: time.Millisecond})
	run(t, p)
	ids := make([]tenant.ID, 10)
	for i := range ids {
		r := request()
		ids[i] = r.Tenant
		require.NoError(t, p.Provision(t.Context(), r))
	}
	require.Eventually(t, func() bool { return now.Load() == 3 }, 10*time.Second, time.Millisecond)
	close(gate)
	for _, id := range ids {
		_, err := p.Wait(t.Context(), id, tenant.Active)
		require.NoError(t, err)
	}
	require.EqualValues(t, 3, most.Load())
}

func TestNewValidates(t *testing.T) {
	t.Parallel()
	_, err := onboarding.New(nil, onboarding.Steps{Purge: []onboarding.Step{{Name: "Bad Name"}}}, &onboarding.Options{Grace: -1, Workers: -1})
	for _, want := range []string{"State is required", `Steps.Purge: step "Bad Name"`, "Options.Grace", "Options.Workers"} {
		require.ErrorContains(t, err, want)
	}
	p, err := onboarding.New(newMemory(), onboarding.Steps{}, nil)
	require.NoError(t, err, "a command only raises")
	require.ErrorContains(t, p.Run(t.Context()), "Steps.Provision is empty")
	_, err = onboarding.Standard(onboarding.Parts{Staleness: -1})
	for _, want := range []string{"Isolation", "Keys", "Canary", "Configure", "SettleUsage", "Archive", "Exports", "Erase", "Staleness"} {
		require.ErrorContains(t, err, "Parts."+want)
	}
	_, err = onboarding.NewCanary(nil)
	require.ErrorContains(t, err, "Handler or URL")
}
