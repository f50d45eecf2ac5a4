package pgstate_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/onboarding/pgstate"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestFiftyAtOnce: the same checkout fifty times at once, on three replicas, is
// one tenant with one key, and no error.
//
// Mutation seen: "on conflict do nothing" and the lock removed from edit.
func TestFiftyAtOnce(t *testing.T) {
	t.Parallel()
	w := setup(t)
	replicas := make([]*onboarding.Provisioner, 3)
	for i := range replicas {
		replicas[i] = w.provisioner(w.store, nil)
		w.run(replicas[i])
	}
	id := tenant.NewID()
	var wg sync.WaitGroup
	errs := make([]error, 50)
	for i := range errs {
		wg.Go(func() {
			p := replicas[i%len(replicas)]
			if i%5 == 0 {
				errs[i] = p.Provision(t.Context(), onboarding.Request{Tenant: id, Plan: tenant.Pro})
				return
			}
			errs[i] = p.Raise(t.Context(), onboarding.Desired{
				Request: onboarding.Request{Tenant: id, Plan: tenant.Pro, Customer: "cus_1"}, Seq: 1 + int64(i), Checkout: "cs_1",
			})
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	_, err := replicas[0].Wait(t.Context(), id, tenant.Active)
	require.NoError(t, err)
	<-idle(w, id, tenant.Active)
	require.Equal(t, 1, w.number(`select count(*) from mcpsaas.tenants`))
	require.Equal(t, 1, w.number(`select count(*) from mcpsaas.tenant_lifecycle`))
	require.Equal(t, 1, w.number(`select count(*) from mcpsaas.api_keys where first`))
	require.Equal(t, 1, w.number(`select count(*) from mcpsaas.audit_log where action = 'activate'`))
	require.Equal(t, 1, w.number(`select count(*) from public.tenant_marker where tenant_id = $1`, id))
	r, err := w.store.Load(t.Context(), id)
	require.NoError(t, err)
	require.EqualValues(t, 50, r.BillingSeq)
}

// TestFence: an owner that stalled past its lease writes nothing, whatever it
// believes.
//
// Mutations seen: the fence removed from edit, from putStepSQL, from renewSQL;
// the state removed from putStepSQL; the lease removed from claimSQL.
func TestFence(t *testing.T) {
	t.Parallel()
	w := setup(t)
	ctx := t.Context()
	p := w.provisioner(w.store, nil)
	id := tenant.NewID()
	require.NoError(t, p.Provision(ctx, onboarding.Request{Tenant: id, Plan: tenant.Free}))

	stalled, err := w.store.Claim(ctx, "stalled", time.Millisecond)
	require.NoError(t, err)
	require.Equal(t, id, stalled.Tenant)
	require.Equal(t, "stalled", stalled.LeaseOwner)
	var owner onboarding.Record
	require.Eventually(t, func() bool {
		owner, err = w.store.Claim(ctx, "owner", time.Hour)
		return err == nil
	}, waitLimit, tick)
	require.Equal(t, stalled.Fence+1, owner.Fence)
	_, err = w.store.Claim(ctx, "third", time.Hour)
	require.ErrorIs(t, err, onboarding.ErrNoneDue)

	edit := func(r *onboarding.Record) ([]onboarding.Entry, error) { r.Spec.Name = "stalled"; return nil, nil }
	_, err = w.store.Advance(ctx, stalled, edit)
	require.ErrorIs(t, err, onboarding.ErrLeaseLost)
	require.ErrorIs(t, w.store.Renew(ctx, stalled, time.Hour), onboarding.ErrLeaseLost)
	step := onboarding.StepRecord{Op: "provision", Name: "isolation", State: onboarding.StepDone, Attempt: 1}
	require.ErrorIs(t, w.store.PutStep(ctx, stalled, step), onboarding.ErrLeaseLost)

	require.NoError(t, w.store.Renew(ctx, owner, time.Hour))
	require.NoError(t, w.store.PutStep(ctx, owner, step))
	// A step belongs to the state that its owner has read.
	moved := owner
	moved.State = tenant.Active
	require.ErrorIs(t, w.store.PutStep(ctx, moved, step), onboarding.ErrLeaseLost)
	r, err := w.store.Advance(ctx, owner, func(r *onboarding.Record) ([]onboarding.Entry, error) {
		r.LeaseOwner, r.LeaseUntil = "", time.Time{}
		return nil, nil
	})
	require.NoError(t, err)
	require.Empty(t, r.Spec.Name)
	require.ErrorIs(t, w.store.Renew(ctx, owner, time.Hour), onboarding.ErrLeaseLost, "what was given back isn't renewed")
	steps, err := w.store.Steps(ctx, id, "provision")
	require.NoError(t, err)
	require.Len(t, steps, 1)
}

// TestRefusedChangeLeavesTheRow: an error of the change rolls all of it back,
// the making of the row too.
func TestRefusedChangeLeavesTheRow(t *testing.T) {
	t.Parallel()
	w := setup(t)
	ctx := t.Context()
	p := w.provisioner(w.store, nil)
	id := tenant.NewID()
	require.ErrorIs(t, p.Provision(ctx, onboarding.Request{Tenant: id}), onboarding.ErrInvalid)
	_, err := w.store.Load(ctx, id)
	require.ErrorIs(t, err, onboarding.ErrUnknownTenant)
	require.ErrorIs(t, p.Suspend(ctx, onboarding.Order{Tenant: id}), onboarding.ErrUnknownTenant)

	require.NoError(t, p.Provision(ctx, onboarding.Request{Tenant: id, Plan: tenant.Free}))
	before, err := w.store.Load(ctx, id)
	require.NoError(t, err)
	require.ErrorIs(t, p.Restore(ctx, onboarding.Order{Tenant: id}), onboarding.ErrForbidden)
	after, err := w.store.Load(ctx, id)
	require.NoError(t, err)
	before.Now, after.Now = time.Time{}, time.Time{}
	require.Equal(t, before, after)
	require.Equal(t, 1, w.number(`select count(*) from mcpsaas.audit_log`))
	require.Zero(t, w.number(`select count(*) from mcpsaas.tenants where id <> $1`, id))
}

// TestAuditLogIsAppendOnly, for the control role and for the owner.
func TestAuditLogIsAppendOnly(t *testing.T) {
	t.Parallel()
	w := setup(t)
	p := w.provisioner(w.store, nil)
	require.NoError(t, p.Provision(t.Context(), onboarding.Request{Tenant: tenant.NewID(), Plan: tenant.Free}))
	owner := w.db.Pool(t)
	for _, sql := range []string{
		`update mcpsaas.audit_log set actor = 'nobody'`, `delete from mcpsaas.audit_log`, `truncate mcpsaas.audit_log`,
	} {
		for _, pool := range []interface {
			Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
		}{w.control, owner} {
			_, err := pool.Exec(t.Context(), sql)
			refused := new(pgconn.PgError)
			require.ErrorAs(t, err, &refused, sql)
			require.Equal(t, "42501", refused.Code, sql)
		}
	}
	require.Equal(t, 1, w.number(`select count(*) from mcpsaas.audit_log`))
}

// TestPurgeNeedsAnArchive: the database itself refuses a purge without one.
func TestPurgeNeedsAnArchive(t *testing.T) {
	t.Parallel()
	w := setup(t)
	p := w.provisioner(w.store, nil)
	id := tenant.NewID()
	require.NoError(t, p.Provision(t.Context(), onboarding.Request{Tenant: id, Plan: tenant.Free}))
	_, err := w.store.Update(t.Context(), id, false, func(r *onboarding.Record) ([]onboarding.Entry, error) {
		r.State = tenant.Purging
		return nil, nil
	})
	refused := new(pgconn.PgError)
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "23514", refused.Code)
}

// TestWatchWakesAtOnce: what one process asks for, another begins without
// waiting for its poll.
//
// Mutation seen: wake not called for a notification.
func TestWatchWakesAtOnce(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.run(w.provisioner(w.store, &onboarding.Options{Poll: time.Hour}))
	asker := w.provisioner(w.store, nil)
	for range 3 {
		id := tenant.NewID()
		require.NoError(t, asker.Provision(t.Context(), onboarding.Request{Tenant: id, Plan: tenant.Free}))
		_, err := asker.Wait(t.Context(), id, tenant.Active)
		require.NoError(t, err)
	}
}

// TestClockIsTheStores: due is what the store's clock says, so that a test, or
// an operator, can let 30 days pass.
func TestClockIsTheStores(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var mu sync.Mutex
	now := time.Now()
	store, err := pgstate.New(w.control, &pgstate.Options{Now: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}})
	require.NoError(t, err)
	p := w.provisioner(store, &onboarding.Options{Poll: 5 * time.Millisecond})
	w.run(p)
	id := tenant.NewID()
	require.NoError(t, p.Provision(t.Context(), onboarding.Request{Tenant: id, Plan: tenant.Free}))
	_, err = p.Wait(t.Context(), id, tenant.Active)
	require.NoError(t, err)
	require.NoError(t, p.Deprovision(t.Context(), onboarding.Order{Tenant: id}))
	<-scheduled(w, id)
	require.NoError(t, p.Restore(t.Context(), onboarding.Order{Tenant: id}))
	_, err = p.Wait(t.Context(), id, tenant.Active)
	require.NoError(t, err)
	require.NoError(t, p.Deprovision(t.Context(), onboarding.Order{Tenant: id}))
	<-scheduled(w, id)
	mu.Lock()
	now = now.AddDate(0, 0, 31)
	mu.Unlock()
	_, err = p.Wait(t.Context(), id, tenant.Deleted)
	require.NoError(t, err)
}

// scheduled is closed when the tenant's door is closed and nobody works on it.
func scheduled(w *world, id tenant.ID) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for w.t.Context().Err() == nil {
			r, err := w.store.Load(w.t.Context(), id)
			if err == nil && r.State == tenant.DeprovisionScheduled && r.LeaseOwner == "" {
				return
			}
		}
	}()
	return done
}

// TestCheckSeesAStandstill: work that nobody takes turns the check red.
func TestCheckSeesAStandstill(t *testing.T) {
	t.Parallel()
	w := setup(t)
	ahead := time.Duration(0)
	store, err := pgstate.New(w.control, &pgstate.Options{Now: func() time.Time { return time.Now().Add(ahead) }})
	require.NoError(t, err)
	p := w.provisioner(store, nil)
	id := tenant.NewID()
	require.NoError(t, p.Provision(t.Context(), onboarding.Request{Tenant: id, Plan: tenant.Free}))
	require.NoError(t, store.Check(t.Context()))
	ahead = 2 * time.Minute
	require.ErrorContains(t, store.Check(t.Context()), "1 tenants")
	w.run(w.provisioner(w.store, nil))
	_, err = p.Wait(t.Context(), id, tenant.Active)
	require.NoError(t, err)
	<-idle(w, id, tenant.Active)
	require.NoError(t, store.Check(t.Context()))
}

// TestCheckSeesFailure: a tenant whose operation has given up is not silence.
func TestCheckSeesFailure(t *testing.T) {
	t.Parallel()
	w := setup(t)
	p := w.provisioner(w.store, nil)
	id := tenant.NewID()
	require.NoError(t, p.Provision(t.Context(), onboarding.Request{Tenant: id, Plan: tenant.Free}))
	fail := func(e onboarding.Event) {
		t.Helper()
		_, err := w.store.Update(t.Context(), id, false, func(r *onboarding.Record) ([]onboarding.Entry, error) {
			next, err := onboarding.Next(r.State, e)
			r.State, r.NextAt = next, time.Time{}
			return nil, err
		})
		require.NoError(t, err)
	}
	fail(onboarding.EventStart)
	require.NoError(t, w.store.Check(t.Context()))
	fail(onboarding.EventFail)
	require.ErrorContains(t, w.store.Check(t.Context()), "operations of 1 tenants have failed")
	require.NoError(t, p.Retry(t.Context(), onboarding.Order{Tenant: id}))
	w.run(w.provisioner(w.store, nil))
	_, err := p.Wait(t.Context(), id, tenant.Active)
	require.NoError(t, err)
	<-idle(w, id, tenant.Active)
	require.NoError(t, w.store.Check(t.Context()))
}

func TestMigrateTwice(t *testing.T) {
	t.Parallel()
	db := devtest.DB(t, template)
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	require.NoError(t, pgstate.Migrate(t.Context(), conn))
}

// TestErrorsNameNoAddress calls everything while the database is away: what is said
// ends in logs and in the record of a tenant's steps.
func TestErrorsNameNoAddress(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://hidden_user:s3cr3t@127.0.0.1:1/hidden_database")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s, err := pgstate.New(pool, nil)
	require.NoError(t, err)
	ctx, id := t.Context(), tenant.NewID()
	held := onboarding.Record{Tenant: id}
	for name, call := range map[string]func() error{
		"claim":   func() error { _, err := s.Claim(ctx, "me", time.Minute); return err },
		"renew":   func() error { return s.Renew(ctx, held, time.Minute) },
		"steps":   func() error { _, err := s.Steps(ctx, id, "provision"); return err },
		"putstep": func() error { return s.PutStep(ctx, held, onboarding.StepRecord{Name: "x"}) },
		"watch":   func() error { return s.Watch(ctx, func() {}) },
		"list":    func() error { _, err := s.List(ctx, pgstate.Filter{}); return err },
		"check":   func() error { return s.Check(ctx) },
		"audit":   func() error { _, err := s.Audit(ctx, id, 1); return err },
		"load":    func() error { _, err := s.Load(ctx, id); return err },
		"update":  func() error { _, err := s.Update(ctx, id, true, nil); return err },
		"advance": func() error { _, err := s.Advance(ctx, held, nil); return err },
	} {
		err := call()
		require.ErrorContains(t, err, "connect to the database: unreachable", name)
		for _, secret := range []string{"hidden", "s3cr3t", "127.0.0.1"} {
			require.NotContains(t, err.Error(), secret, name)
		}
	}
}

func TestNewWantsAPool(t *testing.T) {
	t.Parallel()
	_, err := pgstate.New(nil, nil)
	require.ErrorContains(t, err, "pool is required")
}
