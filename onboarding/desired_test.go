package onboarding_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func nothing(context.Context, *onboarding.Task) (any, error) { return nil, nil }

// trivial are steps that do nothing, for what isn't about steps.
var trivial = onboarding.Steps{
	Provision:   []onboarding.Step{{Name: "isolation", Do: nothing}},
	Deprovision: []onboarding.Step{{Name: "archive", Do: nothing}},
	Purge:       []onboarding.Step{{Name: "erase", Do: nothing}},
}

func provisioner(t testing.TB, state onboarding.State, steps onboarding.Steps, opts *onboarding.Options) *onboarding.Provisioner {
	t.Helper()
	o := onboarding.Options{Poll: 5 * time.Millisecond, Backoff: time.Millisecond, Lease: time.Second}
	if opts != nil {
		o = *opts
	}
	p, err := onboarding.New(state, steps, &o)
	require.NoError(t, err)
	return p
}

// run has p working until the test ends, or until stop is called.
func run(t testing.TB, p *onboarding.Provisioner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })
	stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func desired(id tenant.ID, seq int64, edit func(*onboarding.Desired)) onboarding.Desired {
	d := onboarding.Desired{Request: onboarding.Request{Tenant: id, Plan: tenant.Pro, Customer: "cus_1"}, Seq: seq}
	if edit != nil {
		edit(&d)
	}
	return d
}

func TestRaiseIgnoresWhatIsStale(t *testing.T) {
	t.Parallel()
	m := newMemory()
	p := provisioner(t, m, trivial, nil)
	id := tenant.NewID()
	require.NoError(t, p.Raise(t.Context(), desired(id, 5, nil)))
	require.NoError(t, p.Raise(t.Context(), desired(id, 4, func(d *onboarding.Desired) {
		d.Plan, d.Cancel, d.Suspend = tenant.Free, true, "past_due"
	})))
	require.NoError(t, p.Raise(t.Context(), desired(id, 5, func(d *onboarding.Desired) { d.Plan = tenant.Free })))
	r, err := m.Load(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, tenant.Pro, r.Spec.Plan)
	require.Zero(t, r.Spec.DeleteAt)
	require.Empty(t, r.Spec.Holds)
	require.EqualValues(t, 5, r.BillingSeq)
	require.EqualValues(t, 1, r.SpecVersion)

	// A late checkout still says who may be shown the first key.
	require.NoError(t, p.Raise(t.Context(), desired(id, 3, func(d *onboarding.Desired) { d.Checkout = "cs_1" })))
	require.NoError(t, p.Raise(t.Context(), desired(id, 6, func(d *onboarding.Desired) { d.Checkout = "cs_2" })))
	r, err = m.Load(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "cs_1", r.Spec.Checkout)
}

// TestRaiseInAnyOrder replays what billing said of a tenant in random orders,
// with repetitions and with the reconciler at work between, and wants the state
// that the newest of it says.
//
// Mutation seen: the comparison of Seq removed.
func TestRaiseInAnyOrder(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		m := newMemory()
		p := provisioner(t, m, trivial, nil)
		id := tenant.NewID()
		plans := []tenant.Plan{tenant.Free, tenant.Starter, tenant.Pro, tenant.Enterprise}
		said := make([]onboarding.Desired, 1+rng.IntN(5))
		for i := range said {
			said[i] = desired(id, int64(i+1), func(d *onboarding.Desired) {
				d.Plan = plans[rng.IntN(len(plans))]
				if rng.IntN(3) == 0 {
					d.Suspend = "past_due"
				}
			})
		}
		last := said[len(said)-1]
		if rng.IntN(4) == 0 {
			last.Cancel = true
			said[len(said)-1] = last
		}
		var order []int
		for range 1 + rng.IntN(3) {
			order = append(order, rng.Perm(len(said))...)
		}
		stop := func() {}
		if rng.IntN(2) == 0 {
			stop = run(t, p)
		}
		for _, i := range order {
			err := p.Raise(t.Context(), said[i])
			if err != nil {
				require.True(t, last.Cancel, "round %d: %v", round, err)
				require.ErrorIs(t, err, onboarding.ErrTombstone)
			}
		}
		stop()
		run(t, p)
		want := []tenant.Status{tenant.Active}
		switch {
		case last.Cancel:
			want = []tenant.Status{tenant.DeprovisionScheduled, tenant.Cancelled}
		case last.Suspend != "":
			want = []tenant.Status{tenant.Suspended}
		}
		r := settled(t, p, id, want...)
		if r.State != tenant.Cancelled {
			require.Equal(t, last.Plan, r.Spec.Plan)
		}
		require.EqualValues(t, last.Seq, r.BillingSeq)
	}
}

// settled waits until the tenant is in one of the states and nobody works on it.
func settled(t testing.TB, p *onboarding.Provisioner, id tenant.ID, want ...tenant.Status) onboarding.Record {
	t.Helper()
	var r onboarding.Record
	require.Eventually(t, func() bool {
		var err error
		r, err = p.Tenant(t.Context(), id)
		if err != nil || r.LeaseOwner != "" {
			return false
		}
		for _, s := range want {
			if r.State == s {
				return true
			}
		}
		return false
	}, 10*time.Second, time.Millisecond, "want %v", want)
	return r
}

// TestTombstoneWins: nothing brings back what is deleted, or changes its row.
//
// Mutation seen: the look at the final states removed from raise.
func TestTombstoneWins(t *testing.T) {
	t.Parallel()
	m := newMemory()
	p := provisioner(t, m, trivial, &onboarding.Options{Poll: 5 * time.Millisecond, Grace: time.Hour})
	run(t, p)
	id := tenant.NewID()
	require.NoError(t, p.Raise(t.Context(), desired(id, 1, nil)))
	settled(t, p, id, tenant.Active)
	require.NoError(t, p.Raise(t.Context(), desired(id, 2, func(d *onboarding.Desired) { d.Cancel = true })))
	settled(t, p, id, tenant.DeprovisionScheduled)
	m.pass(2 * time.Hour)
	before := settled(t, p, id, tenant.Deleted)

	err := p.Raise(t.Context(), desired(id, 3, func(d *onboarding.Desired) { d.Checkout = "cs_9" }))
	require.ErrorIs(t, err, onboarding.ErrTombstone)
	refused := new(onboarding.TransitionError)
	require.ErrorAs(t, err, &refused)
	require.Equal(t, id, refused.Tenant)
	require.Equal(t, tenant.Deleted, refused.From)
	require.ErrorIs(t, p.Provision(t.Context(), onboarding.Request{Tenant: id, Plan: tenant.Pro}), onboarding.ErrTombstone)
	require.ErrorIs(t, p.Restore(t.Context(), onboarding.Order{Tenant: id}), onboarding.ErrTombstone)
	require.ErrorIs(t, p.Suspend(t.Context(), onboarding.Order{Tenant: id}), onboarding.ErrTombstone)
	require.ErrorIs(t, p.Retry(t.Context(), onboarding.Order{Tenant: id}), onboarding.ErrTombstone)
	// That it is over is what everyone wants.
	require.NoError(t, p.Raise(t.Context(), desired(id, 4, func(d *onboarding.Desired) { d.Cancel = true })))
	require.NoError(t, p.Deprovision(t.Context(), onboarding.Order{Tenant: id}))

	after, err := p.Tenant(t.Context(), id)
	require.NoError(t, err)
	before.Now, after.Now = time.Time{}, time.Time{}
	require.Equal(t, before, after)
}

// TestHolds: billing and the operator suspend independently of each other.
func TestHolds(t *testing.T) {
	t.Parallel()
	m := newMemory()
	p := provisioner(t, m, trivial, nil)
	run(t, p)
	id := tenant.NewID()
	late := func(d *onboarding.Desired) { d.Suspend = "past_due" }
	require.NoError(t, p.Raise(t.Context(), desired(id, 1, nil)))
	settled(t, p, id, tenant.Active)

	require.NoError(t, p.Raise(t.Context(), desired(id, 2, late)))
	require.NoError(t, p.Suspend(t.Context(), onboarding.Order{Tenant: id, Reason: "abuse"}))
	require.NoError(t, p.Raise(t.Context(), desired(id, 3, nil)))
	r := settled(t, p, id, tenant.Suspended)
	require.Equal(t, map[string]string{onboarding.ByOperator: "abuse"}, r.Spec.Holds)

	require.NoError(t, p.Resume(t.Context(), onboarding.Order{Tenant: id}))
	settled(t, p, id, tenant.Active)
}

func TestGraceAndRestore(t *testing.T) {
	t.Parallel()
	m := newMemory()
	p := provisioner(t, m, trivial, nil)
	run(t, p)
	id := tenant.NewID()
	require.NoError(t, p.Raise(t.Context(), desired(id, 1, nil)))
	settled(t, p, id, tenant.Active)

	// Billing ends it and takes that back.
	require.NoError(t, p.Raise(t.Context(), desired(id, 2, func(d *onboarding.Desired) { d.Cancel = true })))
	r := settled(t, p, id, tenant.DeprovisionScheduled)
	require.WithinDuration(t, m.now().Add(30*24*time.Hour), r.Spec.DeleteAt, time.Minute)
	require.Equal(t, r.Spec.DeleteAt, r.NextAt)
	require.ErrorIs(t, p.Provision(t.Context(), onboarding.Request{Tenant: id, Plan: tenant.Pro}), onboarding.ErrForbidden)
	require.NoError(t, p.Raise(t.Context(), desired(id, 3, nil)))
	r = settled(t, p, id, tenant.Active)
	require.Zero(t, r.ClosedAt)

	// What an operator ends, billing doesn't bring back.
	require.NoError(t, p.Deprovision(t.Context(), onboarding.Order{Tenant: id, Actor: "eve", Reason: "fraud"}))
	require.NoError(t, p.Raise(t.Context(), desired(id, 4, nil)))
	settled(t, p, id, tenant.DeprovisionScheduled)
	require.ErrorIs(t, p.Raise(t.Context(), desired(id, 5, func(d *onboarding.Desired) { d.Checkout = "cs_2" })), onboarding.ErrForbidden)
	require.NoError(t, p.Suspend(t.Context(), onboarding.Order{Tenant: id}))
	require.NoError(t, p.Restore(t.Context(), onboarding.Order{Tenant: id}))
	settled(t, p, id, tenant.Suspended)
	require.ErrorIs(t, p.Restore(t.Context(), onboarding.Order{Tenant: id}), onboarding.ErrForbidden)

	// Now shortens what runs.
	require.NoError(t, p.Deprovision(t.Context(), onboarding.Order{Tenant: id}))
	settled(t, p, id, tenant.DeprovisionScheduled)
	require.NoError(t, p.Deprovision(t.Context(), onboarding.Order{Tenant: id, Now: true}))
	settled(t, p, id, tenant.Deleted)
}

func TestCancelBeforeAnythingWasMade(t *testing.T) {
	t.Parallel()
	m := newMemory()
	p := provisioner(t, m, trivial, nil)
	asked, never := tenant.NewID(), tenant.NewID()
	require.NoError(t, p.Provision(t.Context(), onboarding.Request{Tenant: asked, Plan: tenant.Free}))
	require.NoError(t, p.Deprovision(t.Context(), onboarding.Order{Tenant: asked}))
	r, err := p.Tenant(t.Context(), asked)
	require.NoError(t, err)
	require.Equal(t, tenant.Cancelled, r.State)

	// The end came before the beginning.
	require.NoError(t, p.Raise(t.Context(), onboarding.Desired{Request: onboarding.Request{Tenant: never}, Seq: 2, Cancel: true}))
	require.ErrorIs(t, p.Raise(t.Context(), desired(never, 1, nil)), onboarding.ErrTombstone)
	r, err = p.Tenant(t.Context(), never)
	require.NoError(t, err)
	require.Equal(t, tenant.Cancelled, r.State)
	require.Zero(t, r.NextAt)
}

// TestNeverActiveIsNotRestored: a tenant that failed before it was ever proved
// isn't let in by way of the grace period.
//
// Mutation seen: the look at ActivatedAt removed from raise.
func TestNeverActiveIsNotRestored(t *testing.T) {
	t.Parallel()
	m := newMemory()
	p := provisioner(t, m, steps(onboarding.Step{Name: "one", Do: func(context.Context, *onboarding.Task) (any, error) {
		return nil, onboarding.Terminal(errAway)
	}}), nil)
	run(t, p)
	id := tenant.NewID()
	require.NoError(t, p.Raise(t.Context(), desired(id, 1, nil)))
	settled(t, p, id, tenant.Failed)
	require.NoError(t, p.Raise(t.Context(), desired(id, 2, func(d *onboarding.Desired) { d.Cancel = true })))
	before := settled(t, p, id, tenant.DeprovisionScheduled)
	require.ErrorIs(t, p.Raise(t.Context(), desired(id, 3, nil)), onboarding.ErrForbidden)
	require.ErrorIs(t, p.Restore(t.Context(), onboarding.Order{Tenant: id}), onboarding.ErrForbidden)
	after := settled(t, p, id, tenant.DeprovisionScheduled)
	before.Now, after.Now = time.Time{}, time.Time{}
	require.Equal(t, before, after)
}

// TestLeaveWhileProvisioning: who is no longer wanted is not let in first, and
// what was made for it is taken down.
//
// Mutation seen: the event of a provisioning tenant that leaves removed.
func TestLeaveWhileProvisioning(t *testing.T) {
	t.Parallel()
	m := newMemory()
	begun, gate := make(chan struct{}), make(chan struct{})
	p := provisioner(t, m, steps(onboarding.Step{Name: "one", Do: func(context.Context, *onboarding.Task) (any, error) {
		close(begun)
		<-gate
		return nil, nil
	}}), nil)
	run(t, p)
	r := request()
	require.NoError(t, p.Provision(t.Context(), r))
	<-begun
	require.NoError(t, p.Deprovision(t.Context(), onboarding.Order{Tenant: r.Tenant, Now: true}))
	rec, err := p.Tenant(t.Context(), r.Tenant)
	require.NoError(t, err)
	require.Equal(t, tenant.DeprovisionScheduled, rec.State)
	close(gate)
	rec = settled(t, p, r.Tenant, tenant.Deleted)
	require.Zero(t, rec.ActivatedAt)
}

func TestTombstoneForgetsPeople(t *testing.T) {
	t.Parallel()
	m := newMemory()
	p := provisioner(t, m, trivial, nil)
	run(t, p)
	r := request()
	r.Name, r.Email, r.Customer = "Ada", "ada@example.com", "cus_1"
	require.NoError(t, p.Provision(t.Context(), r))
	settled(t, p, r.Tenant, tenant.Active)
	require.NoError(t, p.Deprovision(t.Context(), onboarding.Order{Tenant: r.Tenant, Now: true}))
	rec := settled(t, p, r.Tenant, tenant.Deleted)
	require.Empty(t, rec.Spec.Name)
	require.Empty(t, rec.Spec.Email)
	require.Equal(t, "cus_1", rec.Spec.Customer)
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	m := newMemory()
	p := provisioner(t, m, trivial, nil)
	id, now := tenant.NewID(), time.Now()
	good := onboarding.Request{Tenant: id, Plan: tenant.Free}
	for name, c := range map[string]struct {
		edit func(*onboarding.Request)
		want string
	}{
		"no tenant":     {func(r *onboarding.Request) { r.Tenant = tenant.ID{} }, "Tenant"},
		"no plan":       {func(r *onboarding.Request) { r.Plan = "" }, "Plan"},
		"unknown plan":  {func(r *onboarding.Request) { r.Plan = "gold" }, `Plan "gold"`},
		"NUL":           {func(r *onboarding.Request) { r.Name = "a\x00b" }, "Name"},
		"not UTF-8":     {func(r *onboarding.Request) { r.Email = "\xff" }, "Email"},
		"too long":      {func(r *onboarding.Request) { r.Customer = strings.Repeat("x", 501) }, "Customer"},
		"half a period": {func(r *onboarding.Request) { r.PeriodStart = now }, "PeriodEnd"},
		"backward":      {func(r *onboarding.Request) { r.PeriodStart, r.PeriodEnd = now, now }, "PeriodEnd"},
	} {
		r := good
		c.edit(&r)
		err := p.Provision(t.Context(), r)
		require.ErrorIs(t, err, onboarding.ErrInvalid, name)
		require.ErrorContains(t, err, c.want, name)
		require.ErrorIs(t, p.Raise(t.Context(), onboarding.Desired{Request: r, Seq: 1}), onboarding.ErrInvalid, name)
	}
	err := p.Raise(t.Context(), onboarding.Desired{Request: good})
	require.ErrorIs(t, err, onboarding.ErrInvalid)
	require.ErrorContains(t, err, "Seq")
	require.ErrorIs(t, p.Suspend(t.Context(), onboarding.Order{Tenant: id}), onboarding.ErrUnknownTenant)
	_, err = p.Tenant(t.Context(), id)
	require.ErrorIs(t, err, onboarding.ErrUnknownTenant)
}
