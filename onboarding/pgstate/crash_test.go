package pgstate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var errKilled = errors.New("the process is dead")

// crashing is a State of a process that is killed: after some number of writes,
// or when a condition holds, none of its calls has any effect any more.
type crashing struct {
	onboarding.State
	after int64 // writes that still succeed

	mu   sync.Mutex
	cond func(tenant.Status) bool
	gone chan struct{}
}

func (c *crashing) at(cond func(tenant.Status) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cond = cond
}

// dead is closed when the process is.
func (c *crashing) dead() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone == nil {
		c.gone = make(chan struct{})
	}
	return c.gone
}

func (c *crashing) die() error {
	gone := c.dead()
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-gone:
	default:
		close(c.gone)
	}
	return errKilled
}

func (c *crashing) write() error {
	if atomic.AddInt64(&c.after, -1) < 0 {
		return c.die()
	}
	return nil
}

func (c *crashing) Claim(ctx context.Context, owner string, ttl time.Duration) (onboarding.Record, error) {
	if atomic.LoadInt64(&c.after) <= 0 {
		return onboarding.Record{}, c.die()
	}
	return c.State.Claim(ctx, owner, ttl)
}

func (c *crashing) Advance(ctx context.Context, held onboarding.Record, change onboarding.Change) (onboarding.Record, error) {
	if err := c.write(); err != nil {
		return held, err
	}
	r, err := c.State.Advance(ctx, held, change)
	c.mu.Lock()
	hit := c.cond != nil && err == nil && c.cond(r.State)
	c.mu.Unlock()
	if hit {
		atomic.StoreInt64(&c.after, 0)
		return r, c.die()
	}
	return r, err
}

func (c *crashing) PutStep(ctx context.Context, held onboarding.Record, step onboarding.StepRecord) error {
	if err := c.write(); err != nil {
		return err
	}
	return c.State.PutStep(ctx, held, step)
}

func (c *crashing) Renew(ctx context.Context, held onboarding.Record, ttl time.Duration) error {
	if atomic.LoadInt64(&c.after) <= 0 {
		return errKilled
	}
	return c.State.Renew(ctx, held, ttl)
}

// TestKillAtEveryWrite kills the process before each of the writes that a
// tenant's arrival and departure consist of, so between any two steps and
// between a step's effect and its record; another process must end in the same
// place without being told anything.
//
// Mutations seen: Claim ignoring leases that have run out, operate skipping
// steps that are "running", or those that are Fresh.
func TestKillAtEveryWrite(t *testing.T) {
	t.Parallel()
	w := setup(t)
	fast := &onboarding.Options{
		Poll: 2 * time.Millisecond, Backoff: time.Millisecond, Lease: 100 * time.Millisecond,
		MaxAttempts: 50, // a lease lost on a slow machine costs an attempt
	}
	for _, leave := range []bool{false, true} {
		for n := int64(1); ; n++ {
			id := tenant.NewID()
			asker := w.provisioner(w.store, fast)
			require.NoError(t, asker.Provision(t.Context(), onboarding.Request{Tenant: id, Plan: tenant.Free, Customer: "cus"}))
			want := tenant.Active
			if leave {
				stop := w.run(w.provisioner(w.store, fast))
				_, err := asker.Wait(t.Context(), id, tenant.Active)
				require.NoError(t, err)
				stop()
				w.stock(id, 5)
				want = tenant.Deleted
				require.NoError(t, asker.Deprovision(t.Context(), onboarding.Order{Tenant: id, Now: true}))
			}
			crash := &crashing{State: w.store, after: n}
			dead := crash.dead()
			stop := w.run(w.provisioner(crash, fast))
			killed := true
			select {
			case <-dead:
			case <-idle(w, id, want):
				killed = false
			}
			stop()
			if !killed {
				// It came to the end with all its writes: every one was tried.
				require.Greater(t, n, int64(10))
				break
			}
			stop = w.run(w.provisioner(w.store, fast))
			r, err := asker.Wait(t.Context(), id, want)
			require.NoError(t, err, "killed before write %d, leaving: %v", n+1, leave)
			<-idle(w, id, want)
			stop()
			name := fmt.Sprintf("killed before write %d, leaving: %v", n+1, leave)
			require.Equal(t, 1, w.number(`select count(*) from mcpsaas.api_keys where tenant_id = $1 and first`, id), name)
			if leave {
				require.Zero(t, w.number(`select count(*) from public.products where tenant_id = $1`, id), name)
				require.Zero(t, w.number(`select count(*) from mcpsaas.api_keys where tenant_id = $1 and revoked_at is null`, id), name)
				m, err := onboarding.VerifyArchive(t.Context(), w.parts.Archive, r.ArchiveName, r.ArchiveDigest)
				require.NoError(t, err, name)
				rows := int64(0)
				for _, f := range m.Files {
					rows += f.Rows
				}
				require.EqualValues(t, 5+1+2, rows, name) // products, a setting, the manifest's lines
			} else {
				require.Equal(t, 1, w.number(`select count(*) from public.tenant_marker where tenant_id = $1`, id), name)
			}
		}
	}
}

// idle is closed when the tenant is in state and there is nothing to do for it.
func idle(w *world, id tenant.ID, state tenant.Status) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(waitLimit); w.t.Context().Err() == nil; <-tick.C {
			r, err := w.store.Load(w.t.Context(), id)
			if err == nil && r.State == state && r.NextAt.IsZero() && r.LeaseOwner == "" {
				return
			}
			if time.Now().After(end) {
				w.t.Errorf("not idle: %+v, %v", r, err)
				return
			}
		}
	}()
	return done
}

// TestShutdownHandsOver: a process that is stopped gives its leases back, so
// that nobody has to wait for them to run out.
//
// Mutation seen: the lease kept by release.
func TestShutdownHandsOver(t *testing.T) {
	t.Parallel()
	w := setup(t)
	begun := make(chan struct{})
	var once sync.Once
	w.parts.Migrate = func(ctx context.Context, _ tenant.ID) error {
		first := false
		once.Do(func() { first = true })
		if first {
			close(begun)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	opts := &onboarding.Options{Poll: 5 * time.Millisecond, Lease: time.Hour}
	p := w.provisioner(w.store, opts)
	stop := w.run(p)
	id := tenant.NewID()
	require.NoError(t, p.Provision(t.Context(), onboarding.Request{Tenant: id, Plan: tenant.Free}))
	<-begun
	stop()
	w.run(w.provisioner(w.store, opts))
	_, err := p.Wait(t.Context(), id, tenant.Active)
	require.NoError(t, err)
}

// bitrot is an Archive whose disk turns a bit of each file.
type bitrot struct{ onboarding.Archive }

func (b bitrot) Put(ctx context.Context, name string, write func(io.Writer) error) error {
	var buf bytes.Buffer
	if err := write(&buf); err != nil {
		return err
	}
	return b.Archive.Put(ctx, name, func(w io.Writer) error {
		raw := buf.Bytes()
		if len(raw) > 0 {
			raw[len(raw)/2] ^= 1
		}
		_, err := w.Write(raw)
		return err
	})
}

// failing is an Action that fails while it is broken.
type failing struct{ broken atomic.Bool }

func (f *failing) do(context.Context, tenant.ID) error {
	if f.broken.Load() {
		return errors.New("the provider is away")
	}
	return nil
}
