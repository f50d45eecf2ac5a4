package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestCommands walks a tenant's life by the operator's commands, beside a
// server that runs.
func TestCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.env["ARCHIVE_DIR"] = t.TempDir()
	r := w.serve(nil)
	command := func(out any, args ...string) {
		t.Helper()
		text, err := w.command(append(args, "-json")...)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal([]byte(text), out), text)
	}
	search := func(key string) answer {
		t.Helper()
		a, err := post(t.Context(), r.MCPURL, key, "", "1", "search_products", map[string]any{"query": "anvil"})
		require.NoError(t, err)
		return a
	}
	works := func(key string) bool { a := search(key); return a.status == http.StatusOK && !a.isErr }

	var made struct {
		ID  tenant.ID `json:"id"`
		Key string    `json:"api_key"`
	}
	command(&made, "tenant", "create", "pro", "Acme")
	id := made.ID.String()
	eventually(t, "the first key works", func() bool { return works(made.Key) })

	var rows []tenantRow
	command(&rows, "tenant", "list")
	require.Len(t, rows, len(offers)+1)

	// Keys: one more, rotated, revoked.
	var key struct {
		ID  string `json:"id"`
		Key string `json:"api_key"`
	}
	command(&key, "key", "create", id, "laptop")
	eventually(t, "a new key works", func() bool { return works(key.Key) })
	old := key
	command(&key, "key", "rotate", key.ID)
	eventually(t, "the successor works", func() bool { return works(key.Key) })
	require.True(t, works(old.Key), "the old key runs out later")
	var gone map[string]string
	command(&gone, "key", "revoke", old.ID)
	eventually(t, "a revoked key is refused", func() bool { return search(old.Key).status == http.StatusUnauthorized })

	// A key for a monitor's address, and nothing else.
	command(&key, "key", "create", id, "monitor", "-scopes", tenant.ScopeHealthRead)
	eventually(t, "the monitor's address works", func() bool {
		res, err := http.Get(r.base + "/health/t/" + key.Key)
		require.NoError(t, err)
		defer res.Body.Close()
		var body struct{ Checks map[string]string }
		require.NoError(t, json.NewDecoder(res.Body).Decode(&body))
		return body.Checks["rls_canary"] == "ok"
	})
	require.True(t, search(key.Key).isErr, "it opens no tool")

	var row tenantRow
	command(&row, "tenant", "suspend", id)
	require.Equal(t, tenant.Suspended, row.Status)
	eventually(t, "a suspended tenant is refused", func() bool { return search(made.Key).isErr })
	require.Contains(t, search(made.Key).text, "suspended")
	command(&row, "tenant", "resume", id)
	require.Equal(t, tenant.Active, row.Status)
	eventually(t, "it is served again", func() bool { return works(made.Key) })

	command(&row, "tenant", "delete", id)
	require.Equal(t, tenant.DeprovisionScheduled, row.Status)
	require.False(t, row.DeleteAt.IsZero())
	eventually(t, "the door is closed", func() bool { return !works(made.Key) })
	command(&row, "tenant", "restore", id)
	eventually(t, "it is back with all it had", func() bool { return works(made.Key) })

	command(&row, "tenant", "delete", id, "-now")
	eventually(t, "it is gone", func() bool {
		command(&row, "tenant", "show", id)
		return row.Status == tenant.Deleted
	})
	require.Equal(t, http.StatusUnauthorized, search(made.Key).status)
	require.Zero(t, w.number(t, `
		select (select count(*) from products where tenant_id = $1) + (select count(*) from tenant_config where tenant_id = $1)
			+ (select count(*) from tenant_marker where tenant_id = $1)`, made.ID), "rows are left")
	require.Zero(t, w.number(t, `select count(*) from pg_namespace where nspname = $1`, tenancy.SchemaName(made.ID)), "its schema went with it")
	archived, err := filepath.Glob(filepath.Join(w.env["ARCHIVE_DIR"], id, "*", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, archived)
	var products []byte
	for _, f := range archived {
		if filepath.Base(f) == "public.products.jsonl" || filepath.Base(f) == "products.jsonl" {
			products, err = os.ReadFile(f)
			require.NoError(t, err)
		}
	}
	require.Contains(t, string(products), "Anvil", "archived: %v", archived)

	// A tombstone wins.
	_, err = w.command("tenant", "restore", id)
	require.Error(t, err)
	_, err = w.command("key", "create", id)
	require.Error(t, err)

	var stats map[string]any
	command(&stats, "billing", "status")
	require.Contains(t, stats, "unsealed")
	require.NotContains(t, stats, "Unsealed")
	var migrated map[string]any
	command(&migrated, "migrate")
	require.Equal(t, true, migrated["migrated"])
}

// TestBadArguments: what was typed wrong is named, by exit code 2; a tenant that
// isn't there by 1.
func TestBadArguments(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.command("migrate")
	require.NoError(t, err)
	unknown := tenant.NewID().String()
	for _, command := range [][]string{
		{"tenant", "show"}, {"tenant", "suspend"}, {"tenant", "resume"}, {"tenant", "delete"}, {"tenant", "restore"},
		{"key", "create"}, {"billing", "status"},
	} {
		for _, bad := range []string{"", "x", unknown + "0", "'; drop table products"} {
			_, err := w.command(append(command, bad)...)
			require.ErrorIs(t, err, errUsage, "%v %q", command, bad)
			require.ErrorContains(t, err, strconv.Quote(bad), "%v", command)
		}
		_, err := w.command(append(command, unknown)...)
		require.ErrorIs(t, err, onboarding.ErrUnknownTenant, "%v", command)
		require.NotErrorIs(t, err, errUsage, "%v", command)
		require.ErrorContains(t, err, unknown, "%v", command)
	}
	for _, scope := range []string{"bogus", "tool:nope", tenant.ScopeCanary} {
		_, err := w.command("key", "create", unknown, "-scopes", scope)
		require.ErrorIs(t, err, errUsage)
		require.ErrorContains(t, err, scope)
	}
}

// TestUnreachableDatabase: no command shows the address of a database that it can't
// reach, or whose address it can't read.
func TestUnreachableDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := tenant.NewID().String()
	for _, port := range []string{"1", "port"} {
		w.env["DATABASE_URL"] = "postgres://hidden_user:s3cr3t@127.0.0.1:" + port + "/hidden_database"
		for _, command := range [][]string{
			{"migrate"}, {"audit"}, {"tenant", "list"}, {"tenant", "show", id}, {"tenant", "create", "pro"}, {"tenant", "suspend", id},
			{"tenant", "move", id, "-to", "schema"}, {"tenant", "export", id, "-dir", t.TempDir()}, {"tenant", "erase", id},
			{"key", "create", id}, {"billing", "status"}, {"billing", "status", id},
		} {
			_, err := w.command(command...)
			require.Error(t, err, command)
			for _, secret := range []string{"hidden_user", "s3cr3t", "127.0.0.1", "hidden_database"} {
				require.NotContains(t, err.Error(), secret, command)
			}
		}
	}
}

// TestDemoAgain starts the demo after one of its tenants has been deleted, and
// another suspended: the first has a successor, the second stays as it is.
func TestDemoAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.spawn()
	starter, pro := r.tenant(tenant.Starter), r.tenant(tenant.Pro)
	_, err := w.command("tenant", "suspend", pro.ID.String())
	require.NoError(t, err)
	_, err = w.command("tenant", "delete", starter.ID.String(), "-now")
	require.NoError(t, err)
	eventually(t, "it leaves", func() bool {
		text, err := w.command("tenant", "show", starter.ID.String(), "-json")
		require.NoError(t, err)
		var row tenantRow
		require.NoError(t, json.Unmarshal([]byte(text), &row))
		return row.Status == tenant.Deprovisioning
	})
	require.NoError(t, r.stop())
	r = w.spawn()
	require.Len(t, r.Tenants, len(offers))
	require.Equal(t, pro.ID, r.tenant(tenant.Pro).ID)
	require.NotEqual(t, starter.ID, r.tenant(tenant.Starter).ID)
	a, err := post(t.Context(), r.MCPURL, r.tenant(tenant.Starter).APIKey, "", "1", "search_products", map[string]any{})
	require.NoError(t, err)
	require.False(t, a.isErr, a.text)
	a, err = post(t.Context(), r.MCPURL, r.tenant(tenant.Pro).APIKey, "", "1", "search_products", map[string]any{})
	require.NoError(t, err)
	require.Contains(t, a.text, "suspended")
}

// TestNoticesCommands: a webhook that can't be applied is given up, listed with the
// reason, and applied once that is mended and it is replayed.
func TestNoticesCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.serve(nil)
	pro := r.tenant(tenant.Pro)
	var subscription string
	require.NoError(t, w.db.QueryRow(t.Context(), `select id from mcpsaas.billing_subscriptions where tenant_id = $1`, pro.ID).Scan(&subscription))
	name := func(tenantID string) {
		t.Helper()
		w.askStripe(t, http.MethodPost, "/v1/subscriptions/"+subscription, url.Values{"metadata[tenant_id]": {tenantID}}, nil)
	}
	var dead []pgledger.DeadNotice
	list := func() int {
		t.Helper()
		text, err := w.command("billing", "notices", "-json")
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal([]byte(text), &dead), text)
		return len(dead)
	}
	require.Zero(t, list())
	name("nobody's")
	eventually(t, "it is given up", func() bool { return list() == 1 })
	require.Equal(t, "customer.subscription.updated", dead[0].Type)
	require.Equal(t, subscription, dead[0].ObjectID)
	require.Contains(t, dead[0].Reason, "invalid")
	text, err := w.command("billing", "notices")
	require.NoError(t, err)
	require.Contains(t, text, dead[0].ID)

	_, err = w.command("billing", "replay", dead[0].ID)
	require.NoError(t, err)
	eventually(t, "nothing is mended yet", func() bool { return list() == 1 && dead[0].Attempts == 2 })
	w.stripe.HoldWebhooks() // it isn't told anew
	name(pro.ID.String())
	_, err = w.command("billing", "replay", dead[0].ID)
	require.NoError(t, err)
	eventually(t, "it is applied", func() bool {
		var state string
		require.NoError(t, w.db.QueryRow(t.Context(), `select state from mcpsaas.billing_notices where id = $1`, dead[0].ID).Scan(&state))
		return state == "applied"
	})
	require.Zero(t, list())
	_, err = w.command("billing", "replay", "evt_unknown")
	require.ErrorContains(t, err, "no notice")
}
