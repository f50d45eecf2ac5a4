package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// opened is a checkout for a pack.
type opened struct {
	Tenant  tenant.ID
	Session string
	URL     string
	Error   string
}

func buyPack(t testing.TB, r *running, key, pack, attempt string) (out opened, status int) {
	t.Helper()
	res := formPost(t, r.base+"/units", url.Values{"api_key": {key}, "pack": {pack}, "attempt": {attempt}}, &out)
	return out, res.StatusCode
}

// toldGrants are those that the agent of a tenant is told of.
func toldGrants(t testing.TB, r *running, key string) []metering.UsageGrant {
	t.Helper()
	a, err := post(t.Context(), r.MCPURL, key, "", "1", "usage", map[string]any{})
	require.NoError(t, err)
	require.False(t, a.isErr, a.text)
	var report struct{ Grants []metering.UsageGrant }
	require.NoError(t, json.Unmarshal(a.out, &report))
	return report.Grants
}

// TestBuyUnits: who has a key buys units on the page that everybody can reach, and
// pays at Stripe; the usage tool and resource tell what is left; calls use them
// before any is billed; and what is refunded is taken back.
//
// Mutations that it saw: the door of the first key open to who paid for units; the
// grants left out of the usage report.
func TestBuyUnits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.serve(nil)
	c := signUp(t, r, tenant.Pro)
	customer := mustCustomer(t, w, c.tenant)
	require.Equal(t, []metering.UsageGrant{}, toldGrants(t, r, c.key))

	res, err := http.Get(r.base + "/units")
	require.NoError(t, err)
	page, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Contains(t, string(page), "100,000 units")
	require.Contains(t, string(page), "$80.00")

	for _, bad := range []struct {
		key, pack, says string
		status          int
	}{
		{"", "units-100k", "no valid API key", http.StatusUnauthorized},
		{c.key + "x", "units-100k", "no valid API key", http.StatusUnauthorized},
		{c.key, "units-7", "units-100k", http.StatusBadRequest},
		{r.tenant(tenant.Free).APIKey, "units-100k", "cost nothing", http.StatusConflict},
	} {
		out, status := buyPack(t, r, bad.key, bad.pack, "")
		require.Equal(t, bad.status, status)
		require.Contains(t, out.Error, bad.says)
	}
	res = formPost(t, r.base+"/units?api_key="+url.QueryEscape(c.key)+"&pack=units-100k", nil, nil)
	require.Equal(t, http.StatusUnauthorized, res.StatusCode, "a key in an address is in every log on the way")

	first, status := buyPack(t, r, c.key, "units-100k", "a")
	require.Equal(t, http.StatusOK, status)
	again, _ := buyPack(t, r, c.key, "units-100k", "a")
	require.Equal(t, first, again, "a double click")
	second, _ := buyPack(t, r, c.key, "units-100k", "b")
	require.NotEqual(t, first.Session, second.Session)

	res = formPost(t, first.URL, url.Values{"email": {"pro@buyer.example"}}, nil)
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	back := res.Header.Get("Location")
	res, err = http.Get(back)
	require.NoError(t, err)
	page, err = io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Contains(t, string(page), "Your 100,000 units are there in a moment")
	for _, door := range []string{"GET", "POST"} {
		req, err := http.NewRequestWithContext(t.Context(), door, strings.Replace(back, "/units/", "/signup/", 1), nil)
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusNotFound, res.StatusCode, "who pays for units is shown no key")
	}
	var grants []metering.UsageGrant
	eventually(t, "the units are there", func() bool {
		grants = toldGrants(t, r, c.key)
		return len(grants) == 1
	})
	require.Equal(t, "prepaid", grants[0].Kind)
	require.EqualValues(t, 100_000, grants[0].Units)
	require.EqualValues(t, 100_000, grants[0].Remaining)
	require.Equal(t, 365*24*time.Hour, grants[0].To.Sub(grants[0].From))

	for range 5 {
		a, err := post(t.Context(), r.MCPURL, c.key, "", "1", "search_products", map[string]any{})
		require.NoError(t, err)
		require.False(t, a.isErr, a.text)
	}
	eventually(t, "the tool tells what is left", func() bool { return toldGrants(t, r, c.key)[0].Remaining == 99_995 })
	session := connect(t, r, c.key, "")
	resource, err := session.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "usage://current"})
	require.NoError(t, err)
	require.Contains(t, resource.Contents[0].Text, `"remaining":99995`)
	eventually(t, "all is settled", func() bool { return w.settled(t, customer) })
	require.Zero(t, w.stripe.UsageTotal(customer, unitsMeter), "nothing is billed")

	// A link for somebody else to pay, and half of the first paid back.
	w.env["PUBLIC_URL"] = r.base
	out, err := w.command("billing", "checkout", c.tenant.String(), "units-1m", "-json")
	require.NoError(t, err)
	var link opened
	require.NoError(t, json.Unmarshal([]byte(out), &link))
	require.NoError(t, w.stripe.Pay(link.Session))
	eventually(t, "both are there", func() bool { return len(toldGrants(t, r, c.key)) == 2 })
	refund(t, w, first.Session, 4000)
	eventually(t, "half is taken back", func() bool { return toldGrants(t, r, c.key)[0].Remaining == 49_995 })
	refund(t, w, first.Session, 4000)
	eventually(t, "all is taken back", func() bool {
		grants = toldGrants(t, r, c.key)
		return len(grants) == 1 && grants[0].Units == 1_000_000
	})

	out, err = w.command("billing", "portal", c.tenant.String())
	require.NoError(t, err)
	res, err = http.Get(strings.TrimSpace(out))
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusOK, res.StatusCode, "the customer's own page")

	for _, bad := range [][]string{
		{"billing", "portal"},
		{"billing", "portal", "nobody"},
		{"billing", "checkout", c.tenant.String()},
		{"billing", "checkout", c.tenant.String(), "units-7"},
		{"billing", "checkout", r.tenant(tenant.Free).ID.String(), "units-100k"},
	} {
		_, err := w.command(bad...)
		require.ErrorIs(t, err, errUsage, "%v", bad)
	}
}

// refund pays some of a checkout back, as a person does at Stripe.
func refund(t testing.TB, w *world, session string, cents int) {
	t.Helper()
	var paid struct {
		Intent string `json:"payment_intent"`
	}
	w.askStripe(t, http.MethodGet, "/v1/checkout/sessions/"+session, nil, &paid)
	w.askStripe(t, http.MethodPost, "/v1/refunds", url.Values{"payment_intent": {paid.Intent}, "amount": {strconv.Itoa(cents)}}, nil)
}
