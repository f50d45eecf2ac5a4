package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// customer is somebody who signed up over HTTP, as anybody does.
type customer struct {
	tenant tenant.ID
	key    string
	took   time.Duration
}

// signUp walks the whole road: form, checkout page, payment, webhook,
// provisioning, return page, key.
func signUp(t testing.TB, r *running, plan tenant.Plan) customer {
	t.Helper()
	var began struct {
		Tenant  tenant.ID `json:"tenant"`
		Session string    `json:"session"`
		URL     string    `json:"url"`
	}
	res := formPost(t, r.base+"/signup", url.Values{"plan": {string(plan)}}, &began)
	require.Equal(t, http.StatusOK, res.StatusCode)

	start := time.Now()
	res = formPost(t, began.URL, url.Values{"email": {string(plan) + "@buyer.example"}}, nil)
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	back := res.Header.Get("Location")
	require.True(t, strings.HasPrefix(back, r.base+"/signup/return?session_id="), back)

	var page returned
	eventually(t, "tenant is active", func() bool {
		formGet(t, back, &page)
		return page.Ready
	})
	c := customer{tenant: began.Tenant, took: time.Since(start)}
	require.Empty(t, page.Key, "looking at the page shows no key")
	require.Equal(t, began.Tenant, page.Tenant)

	form := url.Values{"session_id": {began.Session}}
	formPost(t, r.base+"/signup/return", form, &page)
	require.NotEmpty(t, page.Key)
	c.key = page.Key
	page = returned{}
	formPost(t, r.base+"/signup/return", form, &page)
	require.Empty(t, page.Key, "a key is shown once")
	require.True(t, page.Claimed)
	return c
}

func formGet(t testing.TB, address string, out any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	require.NoError(t, err)
	req.Header.Set("Accept", "application/json")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.NoError(t, json.NewDecoder(res.Body).Decode(out))
}

func callTool(t *testing.T, s *mcp.ClientSession, tool string, args map[string]any) *mcp.CallToolResult {
	t.Helper()
	res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: tool, Arguments: args})
	require.NoError(t, err)
	return res
}

func text(res *mcp.CallToolResult) string {
	var b strings.Builder
	for _, c := range res.Content {
		if c, ok := c.(*mcp.TextContent); ok {
			b.WriteString(c.Text)
		}
	}
	return b.String()
}

// quotaMeta is what the middleware says of the quota.
func quotaMeta(t *testing.T, res *mcp.CallToolResult) map[string]any {
	t.Helper()
	meta, ok := res.Meta["io.github.mcpsaas/quota"].(map[string]any)
	require.True(t, ok, "quota in _meta: %v", res.Meta)
	return meta
}

// TestRoad goes from sign-up to invoice, in both modes and at the oldest and
// the newest protocol revision that each serves.
func TestRoad(t *testing.T) {
	t.Parallel()
	for mode, revisions := range map[string][]string{
		"stateless": {"2024-11-05", "2026-07-28"},
		"stateful":  {"2024-11-05", "2025-11-25"},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var args []string
			if mode == "stateful" {
				args = append(args, "-stateful")
			}
			r := w.serve(nil, args...)
			neighbour := signUp(t, r, tenant.Starter)
			theirs := connect(t, r, neighbour.key, "")
			require.False(t, callTool(t, theirs, "add_product", map[string]any{"name": "Neighbour's secret", "price_cents": 1}).IsError)

			for _, revision := range revisions {
				t.Run(revision, func(t *testing.T) {
					c := signUp(t, r, tenant.Free)
					t.Logf("active %v after payment", c.took)
					s := connect(t, r, c.key, revision)
					require.Equal(t, revision, s.InitializeResult().ProtocolVersion)

					// Its own rows, and no others.
					res := callTool(t, s, "search_products", map[string]any{})
					require.False(t, res.IsError, text(res))
					require.Contains(t, text(res), "Anvil")
					require.NotContains(t, text(res), "Neighbour")
					require.EqualValues(t, 99, quotaMeta(t, res)["remaining"])

					// A dear tool takes its price from the same quota.
					res = callTool(t, s, "generate_report", nil)
					require.False(t, res.IsError, text(res))
					require.EqualValues(t, 79, quotaMeta(t, res)["remaining"])

					// A call that did nothing costs nothing.
					res = callTool(t, s, "search_products", map[string]any{"limit": 1000})
					require.True(t, res.IsError)
					require.Contains(t, text(res), "limit 1000")

					for remaining := 78; remaining >= 0; remaining-- {
						res = callTool(t, s, "search_products", map[string]any{"query": "anvil"})
						require.False(t, res.IsError, text(res))
						require.EqualValues(t, remaining, quotaMeta(t, res)["remaining"])
					}
					// The 101st unit.
					res = callTool(t, s, "search_products", map[string]any{})
					require.True(t, res.IsError)
					require.Contains(t, text(res), "quota_exceeded: search_products limit reached for plan free")
					require.Nil(t, res.StructuredContent)
					meta := quotaMeta(t, res)
					require.Equal(t, "quota_exceeded", meta["code"])
					require.Greater(t, meta["retryAfterMs"], 3_500_000.0)
					require.LessOrEqual(t, meta["retryAfterMs"], 3_601_000.0)

					// Stripe is told of the 100 units, and of nothing else.
					record, err := w.customerOf(c.tenant)
					require.NoError(t, err)
					w.billed(t, record, 100)
				})
			}
			w.billed(t, mustCustomer(t, w, neighbour.tenant), 1)
			status, health := getHealth(t, r)
			require.Equal(t, http.StatusOK, status)
			require.Equal(t, "ok", health)
		})
	}
}

// customerOf returns who a tenant is at Stripe.
func (w *world) customerOf(id tenant.ID) (customer string, err error) {
	err = w.db.QueryRow(w.t.Context(), `select customer from mcpsaas.billing_accounts where tenant_id = $1`, id).Scan(&customer)
	return customer, err
}

func mustCustomer(t *testing.T, w *world, id tenant.ID) string {
	t.Helper()
	c, err := w.customerOf(id)
	require.NoError(t, err)
	return c
}

// billed waits until Stripe has been told of want units and the ledger holds
// no more, and then sees the reporter tick again without a change.
func (w *world) billed(t *testing.T, customer string, want int64) {
	t.Helper()
	eventually(t, fmt.Sprintf("Stripe's total of %s is %d", customer, want), func() bool {
		return w.stripe.UsageTotal(customer, unitsMeter) == want && w.settled(t, customer)
	})
	require.Equal(t, want, w.stripe.UsageTotal(customer, unitsMeter))
	require.Equal(t, want, w.produced(t, customer))
}

// produced is the sum of the customer's units in the ledger.
func (w *world) produced(t *testing.T, customer string) (units int64) {
	t.Helper()
	require.NoError(t, w.db.QueryRow(t.Context(), `
		select coalesce(sum(e.units), 0)::bigint from mcpsaas.usage_events e
		join mcpsaas.billing_accounts a on a.tenant_id = e.tenant_id where a.customer = $1`, customer).Scan(&units))
	return units
}

// settled reports whether nothing of the customer's usage is on its way.
func (w *world) settled(t *testing.T, customer string) (ok bool) {
	t.Helper()
	require.NoError(t, w.db.QueryRow(t.Context(), `
		select not exists (select from mcpsaas.usage_events e
				join mcpsaas.billing_accounts a on a.tenant_id = e.tenant_id where a.customer = $1 and e.due)
			and not exists (select from mcpsaas.usage_batches b
				join mcpsaas.billing_accounts a on a.tenant_id = b.tenant_id where a.customer = $1 and b.state <> 'confirmed')`, customer).Scan(&ok))
	return ok
}
