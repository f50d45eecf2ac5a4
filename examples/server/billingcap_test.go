package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestCapOnSpending: what a tenant may spend becomes units at the price of its
// plan; the calls that would cost more are refused, or not if the cap is soft, the
// tenant is told at 50, 80 and 100 percent, and another plan makes other units of
// it, at once.
//
// Mutation that it saw: the limit made anew after the plan was changed.
func TestCapOnSpending(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.env["ALERT_NETWORKS"] = "127.0.0.0/8"
	r := w.serve(nil)
	c := signUp(t, r, tenant.Pro)
	id := c.tenant.String()
	command := func(out any, args ...string) {
		t.Helper()
		text, err := w.command(append(args, "-json")...)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal([]byte(text), out), text)
	}
	spend := func() (units int64, mode string) {
		t.Helper()
		var rows []limitRow
		command(&rows, "tenant", "limit", "list", id)
		for _, row := range rows {
			if row.Name == "spend" {
				return row.Units, string(row.Mode)
			}
		}
		return 0, ""
	}
	hook := newHook(t)
	var made struct{ Secret string }
	command(&made, "tenant", "webhook", id, hook.URL+"/usage")
	hook.mu.Lock()
	hook.secrets = []string{made.Secret}
	hook.mu.Unlock()

	var rows []limitRow
	command(&rows, "billing", "cap", id, "0.02", "-actor", "ada") // 20 units at a tenth of a cent
	units, mode := spend()
	require.EqualValues(t, 20, units)
	require.Equal(t, "hard", mode)
	call := func() answer {
		a, err := post(t.Context(), r.MCPURL, c.key, "", "1", "search_products", map[string]any{})
		require.NoError(t, err)
		return a
	}
	served := 0
	eventually(t, "calls are refused", func() bool {
		a := call()
		if !a.isErr {
			served++
			return false
		}
		return strings.Contains(a.text, "spend")
	})
	require.GreaterOrEqual(t, served, 20) // a few before the server knew of it
	eventually(t, "the tenant is told of 100 percent", func() bool {
		hook.mu.Lock()
		defer hook.mu.Unlock()
		told := map[int]bool{}
		for _, a := range hook.heard {
			if a.Limit == "spend" {
				told[a.Percent] = true
			}
		}
		return told[50] && told[80] && told[100]
	})

	command(&rows, "billing", "cap", id, "0.02", "-mode", "soft", "-actor", "ada")
	eventually(t, "a soft cap refuses nothing", func() bool { return !call().isErr })
	var set struct {
		Amount int64
		Soft   bool
	}
	command(&set, "billing", "cap", id)
	require.EqualValues(t, 2, set.Amount)
	require.True(t, set.Soft)

	// A plan on which a unit costs half as much.
	var subscription, item string
	require.NoError(t, w.db.QueryRow(t.Context(), `select id from mcpsaas.billing_subscriptions where tenant_id = $1`, c.tenant).Scan(&subscription))
	var sub struct {
		Items struct {
			Data []struct {
				ID    string
				Price struct {
					LookupKey string `json:"lookup_key"`
				}
			}
		}
	}
	w.askStripe(t, http.MethodGet, "/v1/subscriptions/"+subscription, nil, &sub)
	form := url.Values{}
	for i, it := range sub.Items.Data {
		var found struct{ Data []struct{ ID string } }
		w.askStripe(t, http.MethodGet, "/v1/prices?lookup_keys[]="+strings.Replace(it.Price.LookupKey, ":pro", ":enterprise", 1), nil, &found)
		item = "items[" + string(rune('0'+i)) + "]"
		form.Set(item+"[id]", it.ID)
		form.Set(item+"[price]", found.Data[0].ID)
	}
	super := w.superPool(t)
	_, err := super.Exec(t.Context(), `
		create table seen (plan text, units bigint);
		create function see() returns trigger language plpgsql security definer as $$ begin
			insert into public.seen select plan, (select (l ->> 'units')::bigint from jsonb_array_elements(limits::jsonb) l where l ->> 'name' = 'spend')
			from mcpsaas.tenants where id = new.id;
			return null;
		end $$;
		create constraint trigger see after update on mcpsaas.tenants deferrable initially deferred for each row execute function see()`)
	require.NoError(t, err)
	w.askStripe(t, http.MethodPost, "/v1/subscriptions/"+subscription, form, &sub)
	eventually(t, "the cap is twice as many units", func() bool { units, _ := spend(); return units == 40 })
	var seen int
	require.NoError(t, super.QueryRow(t.Context(), `select count(*) from seen where plan = 'enterprise' and units = 40`).Scan(&seen))
	require.Positive(t, seen)
	require.NoError(t, super.QueryRow(t.Context(), `select count(*) from seen where plan = 'enterprise' and units <> 40`).Scan(&seen))
	require.Zero(t, seen, "no replica ever sees the plan without its cap")

	var preview stripebill.Preview
	command(&preview, "billing", "preview", id)
	require.GreaterOrEqual(t, preview.Total, int64(49900))

	command(&rows, "billing", "cap", id, "none", "-actor", "ada")
	units, _ = spend()
	require.Zero(t, units)
	for _, bad := range [][]string{
		{"billing", "cap", id, "0.02"},
		{"billing", "cap", id, "many", "-actor", "ada"},
		{"billing", "cap", id, "0", "-actor", "ada"},
		{"billing", "cap", id, "1", "-actor", "ada", "-mode", "shadow"},
	} {
		_, err := w.command(bad...)
		require.ErrorIs(t, err, errUsage, "%v", bad)
	}
}
