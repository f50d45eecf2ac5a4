package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestEnterpriseSignUp: who buys an enterprise plan gets a database of its own,
// and leaves none behind.
func TestEnterpriseSignUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.env["ARCHIVE_DIR"] = t.TempDir()
	r := w.serve(nil)
	c := signUp(t, r, tenant.Enterprise)
	at, _ := w.placement(t, c.tenant)
	require.Equal(t, "database:"+databaseRef(c.tenant), at)
	require.EqualValues(t, 3, catalogue(t, r, c.key).Products)
	const databases = `select count(*) from pg_database where datname like '%' || $1`
	require.Equal(t, 1, w.number(t, databases, databaseRef(c.tenant)))
	require.Zero(t, w.number(t, `select count(*) from products where tenant_id = $1`, c.tenant), "nothing of it is in the shared tables")

	text, err := w.command("audit", "-severity", "note")
	require.NoError(t, err, text)
	w.in(t, c.tenant, `alter table products no force row level security`)
	text, err = w.command("audit", "-severity", "error")
	require.Error(t, err)
	require.Contains(t, text, c.tenant.String()+": public.products")

	w.in(t, c.tenant, `alter table products force row level security`)

	_, err = w.command("tenant", "delete", c.tenant.String(), "-now")
	require.NoError(t, err)
	eventually(t, "it is gone", func() bool { return w.state(t, c.tenant).Status == tenant.Deleted })
	require.Zero(t, w.number(t, databases, databaseRef(c.tenant)), "its database went with it")
	archived, err := filepath.Glob(filepath.Join(w.env["ARCHIVE_DIR"], c.tenant.String(), "*", "public.products.jsonl"))
	require.NoError(t, err)
	require.Len(t, archived, 1)
	products, err := os.ReadFile(archived[0])
	require.NoError(t, err)
	require.Equal(t, 3, strings.Count(string(products), "\n"))
}

// TestPlanChangeMovesNobody: a plan only asks, and an operator sees it.
func TestPlanChangeMovesNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var a *app
	r := w.serve(func(served *app, _ *mcp.Server) { a = served })
	free := r.tenant(tenant.Free)
	require.Empty(t, w.misplaced(t))
	require.NoError(t, a.provisioner.Provision(t.Context(), onboarding.Request{Tenant: free.ID, Plan: tenant.Pro}))
	row := w.state(t, free.ID)
	require.Equal(t, tenant.Pro, row.Plan)
	require.Equal(t, "shared", row.Placement)
	require.Equal(t, tenancy.TierSchema, row.Wants)
	require.Equal(t, []tenant.ID{free.ID}, w.misplaced(t))
	text, err := w.command("tenant", "list")
	require.NoError(t, err)
	require.Contains(t, text, "shared (wants schema)")
	_, err = w.command("tenant", "move", free.ID.String(), "-to", "schema")
	require.NoError(t, err)
	require.Empty(t, w.misplaced(t))
}

// TestDatabaseAway: an enterprise tenant whose database isn't there yet waits for
// it, and nobody else does. Once it is there, it is served.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	w.env["TENANT_DATABASES"] = "file:" + dir
	mount := func(id tenant.ID) { // what an operator does
		name := "away_" + strings.ReplaceAll(id.String(), "-", "_")
		_, err := w.db.Exec(t.Context(), `create database `+name)
		require.NoError(t, err)
		w.mount(t, dir, databaseRef(id), name)
	}
	mount(demoID(3, 0))
	r := w.serve(nil)
	require.Equal(t, "database:"+databaseRef(demoID(3, 0)), r.tenant(tenant.Enterprise).Placement)

	var began struct {
		Tenant tenant.ID `json:"tenant"`
		URL    string    `json:"url"`
	}
	formPost(t, r.base+"/signup", url.Values{"plan": {"enterprise"}}, &began)
	formPost(t, began.URL, url.Values{"email": {"big@buyer.example"}}, nil)
	eventually(t, "it waits", func() bool {
		_, err := w.command("tenant", "show", began.Tenant.String())
		return err == nil && w.state(t, began.Tenant).Failure != nil
	})
	row := w.state(t, began.Tenant)
	require.Equal(t, tenant.Provisioning, row.Status)
	require.Equal(t, onboarding.StepIsolation, row.Failure.Step)
	require.Contains(t, row.Failure.Text, databaseRef(began.Tenant))
	signUp(t, r, tenant.Starter) // nobody waits for it

	mount(began.Tenant)
	_, err := w.command("tenant", "retry", began.Tenant.String())
	require.NoError(t, err)
	eventually(t, "it is served", func() bool { return w.state(t, began.Tenant).Status == tenant.Active })

	// An outage of one database is that tenant's alone, and is seen.
	own, other := r.tenant(tenant.Enterprise), r.tenant(tenant.Pro)
	works := func(d demoTenant) bool {
		a, err := post(t.Context(), r.MCPURL, d.APIKey, "", "1", "search_products", map[string]any{})
		require.NoError(t, err)
		return a.status == http.StatusOK && !a.isErr
	}
	canary := func() string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.HealthURL, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+own.APIKey)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		var body struct{ Checks map[string]string }
		require.NoError(t, json.NewDecoder(res.Body).Decode(&body))
		return body.Checks["rls_canary"]
	}
	require.Equal(t, "ok", canary())
	name := "away_" + strings.ReplaceAll(own.ID.String(), "-", "_")
	super := w.superPool(t)
	_, err = super.Exec(t.Context(), `alter database `+name+` allow_connections false`)
	require.NoError(t, err)
	_, err = super.Exec(t.Context(), `select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = $1`, name)
	require.NoError(t, err)
	require.False(t, works(own))
	require.True(t, works(other))
	eventually(t, "its canary is red", func() bool { return canary() != "ok" })
	eventually(t, "the watch is red", func() bool {
		return strings.Contains(adminGet(t, r, "/metrics"), `mcp_health_status{check="tenant_databases"} 0`)
	})
	_, err = super.Exec(t.Context(), `alter database `+name+` allow_connections true`)
	require.NoError(t, err)
	eventually(t, "it works again", func() bool { return works(own) && canary() == "ok" })
	require.Contains(t, adminGet(t, r, "/metrics"), `mcp_db_connections{pool="tenants",state="max"} 50`)
}

func adminGet(t *testing.T, r *running, path string) string {
	t.Helper()
	res, err := http.Get(r.AdminURL + path)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(text)
}

// TestExportEraseImport takes a tenant's catalogue out, erases it and brings it
// back, in each tier.
//
// Mutation that it saw: dropping a database without waiting until the servers'
// connections to it are gone.
func TestExportEraseImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.serve(nil)
	for _, plan := range []tenant.Plan{tenant.Starter, tenant.Pro, tenant.Enterprise} {
		t.Run(string(plan), func(t *testing.T) {
			t.Parallel()
			d := r.tenant(plan)
			id, dir := d.ID.String(), filepath.Join(t.TempDir(), "export")
			before := catalogue(t, r, d.APIKey)
			events := w.number(t, `select count(*) from mcpsaas.usage_events where tenant_id = $1`, d.ID)
			_, err := w.command("tenant", "erase", id)
			require.ErrorContains(t, err, "only a suspended or deleted one is erased")
			text, err := w.command("tenant", "export", id, "-dir", dir)
			require.NoError(t, err)
			require.Contains(t, text, "public.products.jsonl")
			_, err = w.command("tenant", "export", id, "-dir", dir)
			require.ErrorIs(t, err, errUsage, "the directory is not empty")

			_, err = w.command("tenant", "suspend", id)
			require.NoError(t, err)
			// Or it would wait until no call can be under way.
			_, err = w.superPool(t).Exec(t.Context(), `update mcpsaas.tenant_lifecycle set updated_at = updated_at - interval '1 minute' where tenant = $1`, d.ID)
			require.NoError(t, err)
			text, err = w.command("tenant", "erase", id, "-json")
			require.NoError(t, err)
			var receipt tenancy.Receipt
			require.NoError(t, json.Unmarshal([]byte(text), &receipt), text)
			require.False(t, receipt.Proved.IsZero())
			erased := int64(0)
			for table, n := range receipt.Deleted() {
				if strings.HasSuffix(table, ".products") {
					erased += n
				}
			}
			require.Equal(t, before.Products, erased, text)
			require.GreaterOrEqual(t, w.number(t, `select count(*) from mcpsaas.usage_events where tenant_id = $1`, d.ID), events, "the ledger stays")

			_, err = w.command("tenant", "import", id, "-dir", dir)
			require.NoError(t, err)
			_, err = w.command("tenant", "resume", id)
			require.NoError(t, err)
			eventually(t, "it is served again", func() bool {
				a, err := post(t.Context(), r.MCPURL, d.APIKey, "", "1", "health_check", map[string]any{})
				return err == nil && a.status == http.StatusOK && !a.isErr
			})
			require.Equal(t, before, catalogue(t, r, d.APIKey))
		})
	}
}

// mount puts the two URLs of a database where TENANT_DATABASES=file:DIR looks.
func (w *world) mount(t *testing.T, dir, ref, name string) {
	t.Helper()
	for role, base := range map[string]string{asOwner: w.env["DATABASE_URL"], asApp: w.env["APP_DATABASE_URL"]} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, role), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, role, ref), []byte(withDatabase(base, name)+"\n"), 0o600))
	}
}

// in runs a statement as the superuser in a tenant's own database.
func (w *world) in(t *testing.T, id tenant.ID, sql string) {
	t.Helper()
	name, err := databaseName(w.env["DATABASE_URL"], databaseRef(id))
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), withDatabase(w.super, name))
	require.NoError(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err)
}

// number runs a query for one number as the superuser.
func (w *world) number(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.super)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	require.NoError(t, conn.QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

// state is what `tenant show` says.
func (w *world) state(t *testing.T, id tenant.ID) (row tenantRow) {
	t.Helper()
	text, err := w.command("tenant", "show", id.String(), "-json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(text), &row), text)
	return row
}

func (w *world) misplaced(t *testing.T) (ids []tenant.ID) {
	t.Helper()
	text, err := w.command("tenant", "list", "-misplaced", "-json")
	require.NoError(t, err)
	var rows []tenantRow
	require.NoError(t, json.Unmarshal([]byte(text), &rows), text)
	for _, row := range rows {
		ids = append(ids, row.ID)
	}
	return ids
}
