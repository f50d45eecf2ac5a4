package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// hook is a receiver of a tenant's webhooks, which drops ids that it knows.
type hook struct {
	*httptest.Server
	mu      sync.Mutex
	secrets []string
	fail    int // answers with an error so many times
	heard   map[string]metering.Alert
}

func newHook(t *testing.T) *hook {
	t.Helper()
	h := &hook{heard: make(map[string]metering.Alert)}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		id := r.Header.Get("webhook-id")
		var m struct {
			Type string
			Data metering.Alert
		}
		if h.fail > 0 || !h.signed(r, id, body) || json.Unmarshal(body, &m) != nil || m.Type != "usage.threshold_reached" {
			h.fail--
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		h.heard[id] = m.Data
	}))
	t.Cleanup(h.Close)
	return h
}

// signed verifies as the specification tells receivers to.
func (h *hook) signed(r *http.Request, id string, body []byte) bool {
	for _, secret := range h.secrets {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if err != nil {
			return false
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + r.Header.Get("webhook-timestamp") + "." + string(body)))
		want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
		for signature := range strings.FieldsSeq(r.Header.Get("webhook-signature")) {
			if hmac.Equal([]byte(signature), []byte(want)) {
				return true
			}
		}
	}
	return false
}

func (h *hook) thresholds() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	count := make(map[string]int)
	for _, a := range h.heard {
		count[a.Limit]++
	}
	return count
}

// TestLimitsOfATenant: what an operator gives one tenant holds on the server that
// runs (how soon, tenancy's TestSetLimits shows), and the tenant is told, signed,
// when it has used it; again after its receiver was away. Mutation: with what is
// tried out told to it like the rest.
func TestLimitsOfATenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.env["ALERT_NETWORKS"] = "127.0.0.0/8"
	r := w.serve(nil)
	free := r.tenant(tenant.Free)
	id := free.ID.String()
	command := func(out any, args ...string) {
		t.Helper()
		text, err := w.command(append(args, "-json")...)
		require.NoError(t, err)
		if out != nil {
			require.NoError(t, json.Unmarshal([]byte(text), out), text)
		}
	}
	search := func() answer {
		t.Helper()
		a, err := post(t.Context(), r.MCPURL, free.APIKey, "", "1", "search_products", map[string]any{"query": "anvil"})
		require.NoError(t, err)
		return a
	}
	limit := func(a answer) (name string, units int64) {
		var q struct {
			Limit   string
			Allowed int64
		}
		if raw := a.meta[metering.MetaQuota]; raw != nil {
			require.NoError(t, json.Unmarshal(raw, &q))
		}
		return q.Limit, q.Allowed
	}
	hook := newHook(t)
	var made struct {
		URL     string
		Secret  string
		Secrets int
	}
	command(&made, "tenant", "webhook", id, hook.URL+"/usage")
	hook.mu.Lock()
	hook.secrets, hook.fail = []string{made.Secret}, 1
	hook.mu.Unlock()
	older := made.Secret
	made.Secret = ""
	command(&made, "tenant", "webhook", id)
	require.Equal(t, 1, made.Secrets)
	require.Empty(t, made.Secret, "a secret is shown once")
	command(&made, "tenant", "webhook", id, "rotate")
	require.Equal(t, 2, made.Secrets)
	require.NotEqual(t, older, made.Secret)

	var rows []limitRow
	command(&rows, "tenant", "limit", "set", id, "hour", "5")
	require.Equal(t, []limitRow{{Name: "hour", Units: 5, Per: "1h0m0s", Own: true}}, rows)
	eventually(t, "it holds", func() bool { _, units := limit(search()); return units == 5 })
	eventually(t, "and refuses", func() bool { return search().isErr })
	eventually(t, "and the tenant is told, by the secret that it knows", func() bool { return hook.thresholds()["hour"] >= 3 })

	command(&rows, "tenant", "limit", "set", id, "hour", "unlimited")
	command(&rows, "tenant", "limit", "set", id, "spend", "1000", "-per", "billing", "-mode", "soft")
	command(&rows, "tenant", "limit", "set", id, "tried", "1", "-per", "24h", "-mode", "shadow")
	command(&rows, "tenant", "limit", "list", id)
	require.ElementsMatch(t, []limitRow{
		{Name: "hour", Units: tenant.Unlimited, Own: true}, {Name: "spend", Units: 1000, Per: "billing", Mode: "soft", Own: true},
		{Name: "tried", Units: 1, Per: "24h0m0s", Mode: "shadow", Own: true},
	}, rows)
	eventually(t, "it is served again", func() bool { name, _ := limit(search()); return name == "" })
	eventually(t, "what is tried out is counted", func() bool {
		require.False(t, search().isErr, "and refuses nothing")
		return strings.Contains(adminGet(t, r, "/metrics"), `mcp_over_limit_total{limit="tried",plan="free"}`)
	})

	// A cap that is set in the middle of a period knows of the five calls before it.
	spent := func(units int64) bool {
		var out struct {
			Limits []struct {
				Limit     string
				Remaining int64
			}
		}
		a, err := post(t.Context(), r.MCPURL, free.APIKey, "", "1", "usage", map[string]any{})
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(a.out, &out))
		for _, l := range out.Limits {
			if l.Limit == "spend" {
				return 1000-l.Remaining >= units
			}
		}
		return false
	}
	before := w.number(t, `select coalesce(sum(units), 0) from mcpsaas.usage_events where tenant_id = $1 and tool = 'search_products'`, free.ID)
	require.GreaterOrEqual(t, before, 5)
	eventually(t, "a cap knows what was used before", func() bool { return spent(int64(before)) })

	// The agent sees it: the tool and the resource say the same, and nothing of what
	// is tried out.
	s := connect(t, r, free.APIKey, "")
	seen, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "usage"})
	require.NoError(t, err)
	read, err := s.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "usage://current"})
	require.NoError(t, err)
	for _, text := range []string{seen.Content[0].(*mcp.TextContent).Text, read.Contents[0].Text} {
		require.Contains(t, text, `"limit":"spend"`)
		require.Contains(t, text, `"soft":true`)
		require.NotContains(t, text, "tried")
	}
	require.Contains(t, adminGet(t, r, "/console"), "spend 1000 billing soft")
	eventually(t, "three thresholds are told of each of hour and tried", func() bool {
		return regexp.MustCompile(`mcp_alerts_total\{state="told"\} ([6-9]|\d\d)`).MatchString(adminGet(t, r, "/metrics"))
	})
	require.Zero(t, hook.thresholds()["tried"], "the tenant is not told of what is tried out")

	for _, name := range []string{"hour", "spend", "tried"} {
		rows = nil
		command(&rows, "tenant", "limit", "unset", id, name)
	}
	require.Equal(t, []limitRow{{Name: "hour", Units: 100, Per: "1h0m0s"}}, rows)
	eventually(t, "the plan's holds again", func() bool { _, units := limit(search()); return units == 100 })
	command(&made, "tenant", "webhook", id, "none")
	require.Zero(t, made.Secrets)

	var shown struct {
		Log []struct{ Action, Reason string }
	}
	command(&shown, "tenant", "show", id)
	require.Equal(t, "limit", shown.Log[1].Action)
	require.Equal(t, `unset "tried"`, shown.Log[1].Reason)

	for want, args := range map[string][]string{
		"no limit of this name":       {"tenant", "limit", "set", id, "hours", "5"},
		`UNITS "many"`:                {"tenant", "limit", "set", id, "hour", "many"},
		`UNITS "0"`:                   {"tenant", "limit", "set", id, "hour", "0"},
		`"fortnight" is no period`:    {"tenant", "limit", "set", id, "x", "5", "-per", "fortnight"},
		`unknown mode "loud"`:         {"tenant", "limit", "set", id, "hour", "5", "-mode", "loud"},
		"no limit of its own named":   {"tenant", "limit", "unset", id, "hour"},
		"its address is not one":      {"tenant", "webhook", id, "https://169.254.169.254/latest"},
		"the tenant has no webhook":   {"tenant", "webhook", id, "rotate"},
		"ALERT_NETWORKS: \"10/8\" is": {"tenant", "list", "-alert-networks", "10/8"},
	} {
		_, err := w.command(args...)
		require.ErrorContains(t, err, want)
	}
	unknown := tenant.NewID().String()
	for _, args := range [][]string{{"tenant", "limit", "list", unknown}, {"tenant", "limit", "set", unknown, "hour", "5"}, {"tenant", "webhook", unknown}} {
		_, err := w.command(args...)
		require.ErrorContains(t, err, unknown)
	}
}
