package pgstate_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// careless is a Marker as a server without package tenancy might have it: it
// sets the context and trusts the database.
type careless struct {
	pool *pgxpool.Pool
	as   func(tenant.ID) tenant.ID
}

func (c careless) Marker(ctx context.Context) (marker string, visible int, err error) {
	t, ok := tenant.FromContext(ctx)
	if !ok {
		return "", 0, tenant.ErrNone
	}
	if c.as != nil {
		t.ID = c.as(t.ID)
	}
	err = pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select set_config($1, $2, true)`, tenancy.Setting, t.ID.String()); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `select count(*), coalesce(min(marker::text), '') from public.tenant_marker`).Scan(&visible, &marker)
	})
	return marker, visible, err
}

// TestCanaryCatches seeds each fault of isolation into a real database and
// wants the canary to fail, and to pass once the fault is mended.
//
// Mutation seen: the count of visible markers not looked at.
func TestCanaryCatches(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		role  func(w *world) string // the server logs in as; app_user by default
		fault string
		mend  string
		as    func(tenant.ID) tenant.ID
		want  string
	}{
		"superuser": {role: func(*world) string { return "postgres" }, want: "markers"},
		"bypassrls": {role: func(w *world) string {
			role := "bypass_" + w.db.Name
			w.superuser(fmt.Sprintf(`create role %[1]s login bypassrls; grant select on public.tenant_marker to %[1]s;
grant usage on schema mcpsaas_app to %[1]s; grant execute on all functions in schema mcpsaas_app to %[1]s`, role))
			w.t.Cleanup(func() {
				conn, err := pgx.Connect(context.Background(), w.db.Superuser)
				require.NoError(w.t, err)
				defer conn.Close(context.Background())
				_, err = conn.Exec(context.Background(), fmt.Sprintf(`drop owned by %s; drop role %s`, role, role))
				require.NoError(w.t, err)
			})
			return role
		}, want: "markers"},
		"the owner without force": {
			role:  func(w *world) string { return w.owner() },
			fault: `alter table public.tenant_marker no force row level security`,
			mend:  `alter table public.tenant_marker force row level security`,
			want:  "markers",
		},
		"row level security off": {
			fault: `alter table public.tenant_marker disable row level security`,
			mend:  `alter table public.tenant_marker enable row level security`,
			want:  "markers",
		},
		"a policy too many": {
			fault: `do $$ declare p text; begin
				for p in select policyname from pg_policies where tablename = 'tenant_marker' loop
					execute format('drop policy %I on public.tenant_marker', p);
				end loop;
				create policy open on public.tenant_marker using (true);
			end $$`,
			want: "markers",
		},
		"no policy": {
			fault: `do $$ declare p text; begin
				for p in select policyname from pg_policies where tablename = 'tenant_marker' loop
					execute format('drop policy %I on public.tenant_marker', p);
				end loop;
			end $$`,
			want: "can't see its own marker",
		},
		"no grant": {
			fault: `revoke select on public.tenant_marker from app_user`,
			mend:  `grant select on public.tenant_marker to app_user`,
			want:  "the tool failed",
		},
		"another tenant's context": {
			as:   func(tenant.ID) tenant.ID { return tenancy.Sentinel },
			want: "isn't its own",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			role := tenancy.AppRole
			if c.role != nil {
				role = c.role(w)
			}
			pool := w.db.PoolAs(t, role)
			canary, err := onboarding.NewCanary(&onboarding.CanaryOptions{Handler: w.server(careless{pool, c.as})})
			require.NoError(t, err)

			id, ctx := tenant.NewID(), t.Context()
			marker, err := w.data.Prepare(ctx, id)
			require.NoError(t, err)
			_, err = w.store.Update(ctx, id, true, func(r *onboarding.Record) ([]onboarding.Entry, error) {
				r.Spec.Plan, r.SpecVersion = tenant.Free, 1
				return nil, nil
			})
			require.NoError(t, err)
			key, err := w.parts.Keys.IssueProbe(ctx, id, 60e9)
			require.NoError(t, err)
			if c.fault != "" {
				w.superuser(c.fault)
			}
			err = canary.Check(ctx, key, onboarding.Expect{Tenant: id, Marker: marker})
			found := new(onboarding.CanaryError)
			require.ErrorAs(t, err, &found)
			require.ErrorContains(t, err, c.want)
			if c.mend != "" && c.role == nil {
				w.superuser(c.mend)
				require.NoError(t, canary.Check(ctx, key, onboarding.Expect{Tenant: id, Marker: marker}))
			}
		})
	}
}

// TestFaultKeepsTheTenantOut: a tenant whose isolation doesn't hold is never
// active, and is so by itself once it holds.
func TestFaultKeepsTheTenantOut(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.superuser(`revoke select on public.tenant_marker from app_user`)
	p := w.provisioner(w.store, nil)
	w.run(p)
	id := tenant.NewID()
	require.NoError(t, p.Provision(t.Context(), onboarding.Request{Tenant: id, Plan: tenant.Free}))
	require.Eventually(t, func() bool {
		steps, err := w.store.Steps(t.Context(), id, "provision")
		return err == nil && len(steps) == 6 && steps[5].Attempt >= 2 && steps[5].Failure != nil
	}, waitLimit, tick)
	require.Equal(t, 1, w.number(`select count(*) from mcpsaas.tenants where id = $1 and status = 'provisioning'`, id))
	w.superuser(`grant select on public.tenant_marker to app_user`)
	_, err := p.Wait(t.Context(), id, tenant.Active)
	require.NoError(t, err)
}
