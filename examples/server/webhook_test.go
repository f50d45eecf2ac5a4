package main

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestFiftyCheckouts delivers one checkout.session.completed fifty times at
// once: one tenant, one key, no error.
func TestFiftyCheckouts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.serve(nil)
	w.stripe.HoldWebhooks()
	var began struct {
		Tenant  tenant.ID `json:"tenant"`
		Session string    `json:"session"`
	}
	formPost(t, r.base+"/signup", url.Values{"plan": {"pro"}}, &began)
	require.NoError(t, w.stripe.Pay(began.Session))
	var event string
	for _, e := range w.stripe.Events() {
		if e.Type == "checkout.session.completed" && e.ObjectID == began.Session {
			event = e.ID
		}
	}
	require.NotEmpty(t, event)

	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			status, err := w.stripe.Deliver(t.Context(), event)
			if err != nil || status != http.StatusOK {
				t.Errorf("delivery: %d, %v", status, err)
			}
		})
	}
	wg.Wait()
	var page returned
	eventually(t, "tenant is active", func() bool {
		formGet(t, r.base+"/signup/return?session_id="+began.Session, &page)
		return page.Ready
	})
	// Late repetitions, and what was held back, in any order.
	for range 3 {
		_, err := w.stripe.Deliver(t.Context(), event)
		require.NoError(t, err)
	}
	w.stripe.ReleaseWebhooks()
	eventually(t, "the inbox is empty", func() bool {
		var waiting int
		require.NoError(t, w.db.QueryRow(t.Context(), `select count(*) from mcpsaas.billing_notices where state not in ('applied', 'ignored')`).Scan(&waiting))
		return waiting == 0
	})

	count := func(sql string) (n int) {
		t.Helper()
		require.NoError(t, w.db.QueryRow(t.Context(), sql, began.Tenant).Scan(&n))
		return n
	}
	require.Equal(t, 1, count(`select count(*) from mcpsaas.tenants where id = $1 and status = 'active' and plan = 'pro'`))
	require.Equal(t, 1, count(`select count(*) from mcpsaas.api_keys where tenant_id = $1 and 'tools:*' = any (scopes)`))
	require.Equal(t, 1, count(`select count(*) from mcpsaas.billing_accounts where tenant_id = $1`))
	var markers int
	schema := tenancy.SchemaName(began.Tenant)
	require.NoError(t, w.superPool(t).QueryRow(t.Context(), `select count(*) from `+schema+`.tenant_marker where tenant_id = $1`, began.Tenant).Scan(&markers))
	require.Equal(t, 1, markers)
	require.Equal(t, 0, count(`select count(*) from mcpsaas.tenant_steps where tenant = $1 and (failure is not null or state <> 'done')`))

	// Fifty claims of the key, at once: one gets it.
	keys := make(chan string, 50)
	for range 50 {
		wg.Go(func() {
			var page returned
			formPost(t, r.base+"/signup/return", url.Values{"session_id": {began.Session}}, &page)
			if page.Key != "" {
				keys <- page.Key
			}
		})
	}
	wg.Wait()
	close(keys)
	require.Len(t, keys, 1)
}

// TestPlanChange upgrades, fails to pay, pays, and cancels, at Stripe alone.
func TestPlanChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.serve(nil)
	c := signUp(t, r, tenant.Pro)
	call := func() answer {
		t.Helper()
		a, err := post(t.Context(), r.MCPURL, c.key, "", "1", "search_products", map[string]any{})
		require.NoError(t, err)
		return a
	}
	require.False(t, call().isErr)
	var subscription string
	require.NoError(t, w.db.QueryRow(t.Context(), `select id from mcpsaas.billing_subscriptions where tenant_id = $1`, c.tenant).Scan(&subscription))

	require.NoError(t, w.stripe.SetStatus(subscription, "unpaid"))
	eventually(t, "calls are refused", func() bool { return call().isErr })
	a := call()
	require.Contains(t, a.text, "suspended")
	require.Contains(t, a.text, r.base, "the tenant is told where to mend it")

	require.NoError(t, w.stripe.SetStatus(subscription, "active"))
	eventually(t, "calls are served again", func() bool { return !call().isErr })

	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, w.stripe.URL+"/v1/subscriptions/"+subscription, strings.NewReader(""))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+w.stripe.SecretKey)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
	eventually(t, "a cancelled tenant is not served", func() bool { return call().isErr })
	out, err := w.command("tenant", "show", c.tenant.String())
	require.NoError(t, err)
	require.Contains(t, out, "deprovision_scheduled")
}
