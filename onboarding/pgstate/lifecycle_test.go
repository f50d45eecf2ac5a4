package pgstate_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/onboarding/pgstate"
	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestLife goes the whole road of one tenant on the real stack.
func TestLife(t *testing.T) {
	t.Parallel()
	w := setup(t)
	p := w.provisioner(w.store, nil)
	w.run(p)
	id := tenant.NewID()
	start := time.Now().Truncate(time.Second)
	require.NoError(t, p.Provision(t.Context(), onboarding.Request{
		Tenant: id, Plan: tenant.Free, Name: "Ada's shop", Customer: "cus_1",
		PeriodStart: start, PeriodEnd: start.AddDate(0, 1, 0), Actor: "ada",
	}))
	r, err := p.Wait(t.Context(), id, tenant.Active)
	require.NoError(t, err)
	require.NotZero(t, r.ActivatedAt)
	require.Equal(t, 1, w.number(`select count(*) from public.tenant_marker where tenant_id = $1`, id))
	require.Equal(t, 1, w.number(`select count(*) from public.tenant_config where tenant_id = $1 and key = 'alert_threshold' and value = '95'`, id))
	require.Equal(t, 1, w.number(`select count(*) from mcpsaas.tenants where id = $1 and status = 'active' and plan = 'free' and name = 'Ada''s shop' and period_end is not null`, id))

	// The first key is shown once, and works.
	token, err := w.keys.Claim(t.Context(), id)
	require.NoError(t, err)
	_, err = w.keys.Claim(t.Context(), id)
	require.ErrorIs(t, err, apikey.ErrClaimed)
	who, err := w.keys.Authenticate(t.Context(), token)
	require.NoError(t, err)
	require.Equal(t, id, who.ID)

	list, err := w.store.Steps(t.Context(), id, "")
	require.NoError(t, err)
	var names []string
	for _, s := range list {
		require.Equal(t, onboarding.StepDone, s.State, s.Name)
		require.NotContains(t, string(s.Output), token)
		names = append(names, s.Name)
	}
	require.Equal(t, []string{"isolation", "migrate", "configure", "first_key", "probe_key", "canary"}, names[:6])

	// Its rows, and another tenant's, which must stay.
	other := tenant.NewID()
	require.NoError(t, p.Provision(t.Context(), onboarding.Request{Tenant: other, Plan: tenant.Pro}))
	_, err = p.Wait(t.Context(), other, tenant.Active)
	require.NoError(t, err)
	w.stock(id, 120)
	w.stock(other, 7)

	require.NoError(t, p.Deprovision(t.Context(), onboarding.Order{Tenant: id, Actor: "ada", Reason: "closing", Now: true}))
	r, err = p.Wait(t.Context(), id, tenant.Deleted)
	require.NoError(t, err)
	require.NotEmpty(t, r.ArchiveDigest)
	require.NotZero(t, r.BuriedAt)

	// Nothing is left of it, and nothing is missing of the other.
	for _, table := range []string{"public.products", "public.tenant_marker", "public.tenant_config"} {
		require.Zero(t, w.number(`select count(*) from `+table+` where tenant_id = $1`, id), table)
	}
	require.Equal(t, 7, w.number(`select count(*) from public.products`))
	require.Zero(t, w.number(`select count(*) from mcpsaas.api_keys where tenant_id = $1 and revoked_at is null`, id))
	_, err = w.keys.Authenticate(t.Context(), token)
	require.ErrorIs(t, err, tenant.ErrUnauthenticated)
	require.Equal(t, 1, w.number(`select count(*) from mcpsaas.tenants where id = $1 and status = 'deleted' and deleted_at is not null`, id))
	require.Equal(t, 1, w.count("unsubscribe"))
	require.Equal(t, 1, w.count("clean"))

	// The archive has all of it.
	m, err := onboarding.VerifyArchive(t.Context(), w.parts.Archive, r.ArchiveName, r.ArchiveDigest)
	require.NoError(t, err)
	rows := map[string]int64{}
	for _, f := range m.Files {
		rows[f.Name] = f.Rows
	}
	require.Equal(t, map[string]int64{"public.products.jsonl": 120, "public.tenant_config.jsonl": 1, "tenancy.jsonl": 2}, rows)

	// And the audit log tells the story, who and why.
	story, err := w.store.Audit(t.Context(), id, 100)
	require.NoError(t, err)
	var actions []string
	for i := len(story) - 1; i >= 0; i-- {
		actions = append(actions, story[i].Actor+" "+story[i].Action)
	}
	require.Equal(t, []string{
		"ada provision", "reconciler start", "reconciler activate",
		"ada deprovision", "ada schedule", "reconciler deprovision", "reconciler purge", "reconciler bury",
	}, actions)
	require.Equal(t, "closing", story[len(story)-4].Reason)

	listed, err := w.store.List(t.Context(), pgstate.Filter{States: []tenant.Status{tenant.Deleted}})
	require.NoError(t, err)
	require.Len(t, listed, 1)
	require.Equal(t, id, listed[0].Tenant)
	listed, err = w.store.List(t.Context(), pgstate.Filter{After: id, Limit: 1})
	require.NoError(t, err)
	require.Len(t, listed, 1)
	require.Equal(t, other, listed[0].Tenant)
}

// TestPlanChangeIsOneTransaction: once Raise returns, plan, status, period and
// version are those of the new plan, without the reconciler.
//
// Mutation seen: the directory written with every change.
func TestPlanChangeIsOneTransaction(t *testing.T) {
	t.Parallel()
	w := setup(t)
	p := w.provisioner(w.store, nil)
	stop := w.run(p)
	id := tenant.NewID()
	require.NoError(t, p.Raise(t.Context(), onboarding.Desired{Request: onboarding.Request{Tenant: id, Plan: tenant.Starter}, Seq: 1}))
	_, err := p.Wait(t.Context(), id, tenant.Active)
	require.NoError(t, err)
	stop()
	version := w.number(`select version from mcpsaas.tenants where id = $1`, id)
	start := time.Now()
	require.NoError(t, p.Raise(t.Context(), onboarding.Desired{Request: onboarding.Request{
		Tenant: id, Plan: tenant.Pro, PeriodStart: start, PeriodEnd: start.AddDate(0, 1, 0),
	}, Seq: 2}))
	require.Equal(t, version+1, w.number(
		`select version from mcpsaas.tenants where id = $1 and plan = 'pro' and status = 'active' and period_start is not null`, id))
	require.NoError(t, p.Raise(t.Context(), onboarding.Desired{Request: onboarding.Request{Tenant: id, Plan: tenant.Pro}, Seq: 3, Suspend: "past_due"}))
	require.Equal(t, version+2, w.number(`select version from mcpsaas.tenants where id = $1 and status = 'suspended'`, id))
	// What changes nothing that the replicas know costs them nothing.
	require.NoError(t, p.Raise(t.Context(), onboarding.Desired{Request: onboarding.Request{Tenant: id, Plan: tenant.Pro}, Seq: 4, Suspend: "unpaid"}))
	require.Equal(t, version+2, w.number(`select version from mcpsaas.tenants where id = $1`, id))
}

// TestCorruptArchiveDropsNothing: an archive that isn't what was written stops
// everything, before the first drop and between two.
//
// Mutations seen: proveArchive returning nil, the gate of the purge removed.
func TestCorruptArchiveDropsNothing(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"while deprovisioning", "while purging"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			if when == "while deprovisioning" {
				w.parts.Archive = bitrot{onboarding.Dir(w.archive)}
			}
			crash := &crashing{State: w.store, after: 1 << 30}
			p := w.provisioner(crash, &onboarding.Options{
				// A lease lost on a slow machine costs an attempt.
				Poll: 5 * time.Millisecond, Backoff: time.Millisecond, MaxAttempts: 8, Lease: 500 * time.Millisecond,
			})
			stop := w.run(p)
			id := tenant.NewID()
			require.NoError(t, p.Provision(t.Context(), onboarding.Request{Tenant: id, Plan: tenant.Free}))
			_, err := p.Wait(t.Context(), id, tenant.Active)
			require.NoError(t, err)
			w.stock(id, 10)
			if when == "while deprovisioning" {
				require.NoError(t, p.Deprovision(t.Context(), onboarding.Order{Tenant: id, Now: true}))
				_, err = p.Wait(t.Context(), id, tenant.Deleted)
				failed := new(onboarding.StepError)
				require.ErrorAs(t, err, &failed)
				require.Equal(t, onboarding.StepArchive, failed.Step)
				r, err := p.Tenant(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, tenant.DeprovisionFailed, r.State)
			} else {
				// The process dies on entering the purge; the archive rots
				// before the next one goes on.
				crash.at(func(state tenant.Status) bool { return state == tenant.Purging })
				require.NoError(t, p.Deprovision(t.Context(), onboarding.Order{Tenant: id, Now: true}))
				<-crash.dead()
				stop()
				files, err := filepath.Glob(filepath.Join(w.archive, "*/*/public.products.jsonl"))
				require.NoError(t, err)
				require.Len(t, files, 1)
				raw, err := os.ReadFile(files[0])
				require.NoError(t, err)
				raw[5] ^= 1
				require.NoError(t, os.WriteFile(files[0], raw, 0o600))
				q := w.provisioner(w.store, &onboarding.Options{Poll: 5 * time.Millisecond, Backoff: time.Millisecond, MaxAttempts: 3})
				w.run(q)
				require.Eventually(t, func() bool {
					r, err := q.Tenant(t.Context(), id)
					return err == nil && r.State == tenant.Purging && r.Failure != nil && r.NextAt.After(r.Now.Add(time.Minute))
				}, waitLimit, tick)
			}
			require.Zero(t, w.count("erase"))
			require.Equal(t, 10, w.number(`select count(*) from public.products where tenant_id = $1`, id))
		})
	}
}

// TestReporterDownStopsTheLeaving: no usage is left unbilled, nothing is
// archived or dropped before.
func TestReporterDownStopsTheLeaving(t *testing.T) {
	t.Parallel()
	w := setup(t)
	settle := &failing{}
	w.parts.SettleUsage = settle.do
	p := w.provisioner(w.store, &onboarding.Options{Poll: 5 * time.Millisecond, Backoff: time.Millisecond, MaxAttempts: 3})
	w.run(p)
	id := tenant.NewID()
	require.NoError(t, p.Provision(t.Context(), onboarding.Request{Tenant: id, Plan: tenant.Free, Customer: "cus_1"}))
	_, err := p.Wait(t.Context(), id, tenant.Active)
	require.NoError(t, err)
	w.stock(id, 3)
	settle.broken.Store(true)
	require.NoError(t, p.Deprovision(t.Context(), onboarding.Order{Tenant: id, Now: true}))
	_, err = p.Wait(t.Context(), id, tenant.Deleted)
	require.ErrorContains(t, err, onboarding.StepSettleUsage)
	require.Zero(t, w.count("unsubscribe"))
	left, err := filepath.Glob(filepath.Join(w.archive, "*"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.Equal(t, 3, w.number(`select count(*) from public.products where tenant_id = $1`, id))

	// It failed before anything was dropped, so it can be called off ...
	require.NoError(t, p.Restore(t.Context(), onboarding.Order{Tenant: id}))
	_, err = p.Wait(t.Context(), id, tenant.Active)
	require.NoError(t, err)
	// ... and asked for again: all of it is done anew.
	settle.broken.Store(false)
	require.NoError(t, p.Deprovision(t.Context(), onboarding.Order{Tenant: id, Now: true}))
	r, err := p.Wait(t.Context(), id, tenant.Deleted)
	require.NoError(t, err)
	require.EqualValues(t, 2, r.Generation)
	raw, err := os.ReadFile(filepath.Join(w.archive, r.ArchiveName, "manifest.json"))
	require.NoError(t, err)
	var m onboarding.Manifest
	require.NoError(t, json.Unmarshal(raw, &m))
	require.Equal(t, id, m.Tenant)
}
