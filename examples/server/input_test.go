package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestBadInput sends what no client should. Each gets an answer that names what
// is wrong, and nothing has changed afterwards.
func TestBadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.serve(nil)
	pro := r.tenant(tenant.Pro)
	before := w.fingerprint(t)

	t.Run("calls", func(t *testing.T) {
		for name, c := range map[string]struct {
			body   string
			status int
			want   string // in the answer's text
		}{
			"batch":             {`[{"jsonrpc":"2.0","id":"1","method":"tools/list"}]`, 400, "batch"},
			"batch after space": {"  \n[]", 400, "batch"},
			"no JSON":           {`hello`, 400, ""},
			"wrong type":        {call("search_products", `{"query":7}`), 200, "query"},
			"unknown argument":  {call("search_products", `{"tenant_id":"x"}`), 200, "tenant_id"},
			"NUL":               {call("search_products", `{"query":"a\u0000b"}`), 200, `"query" contains a NUL`},
			"doubled key":       {call("add_product", `{"name":"a","name":"b","price_cents":1}`), 200, "name"},
			"number too large":  {call("add_product", `{"name":"a","price_cents":1e400}`), 200, "price_cents"},
			"missing argument":  {call("add_product", `{"name":"a"}`), 200, "price_cents"},
			"limit":             {call("search_products", `{"limit":-1}`), 200, "limit -1"},
			"unknown tool":      {call("drop_tables", `{}`), 200, `unknown tool "drop_tables"`},
			"foreign scope":     {call("search_products", `{"query":"'; drop table products; --"}`), 200, ""},
		} {
			a, err := postRaw(t.Context(), r.MCPURL, pro.APIKey, "", []byte(c.body))
			require.NoError(t, err, name)
			require.Equal(t, c.status, a.status, "%s: %s", name, a.text)
			require.Contains(t, a.text, c.want, name)
			if c.want != "" && c.status == 200 {
				require.True(t, a.isErr, name)
			}
			require.NotContains(t, a.text, "SQLSTATE", name)
		}
	})

	t.Run("10 MB", func(t *testing.T) {
		body := call("search_products", `{"query":"`+strings.Repeat("x", 10<<20)+`"}`)
		a, err := postRaw(t.Context(), r.MCPURL, pro.APIKey, "", []byte(body))
		require.NoError(t, err)
		require.Equal(t, http.StatusRequestEntityTooLarge, a.status)

		res, err := http.Post(r.WebhookURL, "application/json", bytes.NewReader(make([]byte, 10<<20)))
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)

		for _, path := range []string{"/signup", "/signup/return"} {
			res, err := http.Post(r.base+path, "application/x-www-form-urlencoded", strings.NewReader("plan="+strings.Repeat("x", 10<<20)))
			require.NoError(t, err)
			res.Body.Close()
			require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)

			// Mutation: FormValue reads all of it, and writes it to a file.
			file := "--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n" + strings.Repeat("x", 10<<20) +
				"\r\n--x\r\nContent-Disposition: form-data; name=\"plan\"\r\n\r\nfree\r\n--x--\r\n"
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.base+path, strings.NewReader(file))
			require.NoError(t, err)
			req.Header.Set("Content-Type", "multipart/form-data; boundary=x")
			req.Header.Set("Accept", "application/json")
			res, err = http.DefaultClient.Do(req)
			if err == nil { // or the connection was closed while it was being written to
				res.Body.Close()
				require.Contains(t, []int{http.StatusBadRequest, http.StatusNotFound}, res.StatusCode)
			}
		}
	})

	t.Run("credentials", func(t *testing.T) {
		for _, token := range []string{"", "x", pro.APIKey + "x", pro.APIKey[:len(pro.APIKey)-1] + "0", strings.Repeat("k", 20_000)} {
			a, err := postRaw(t.Context(), r.MCPURL, token, "", []byte(call("search_products", `{}`)))
			require.NoError(t, err)
			require.Contains(t, []int{http.StatusUnauthorized, http.StatusRequestHeaderFieldsTooLarge}, a.status, "token %.10q", token)
			require.NotContains(t, a.text, pro.ID.String())
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.MCPURL, strings.NewReader(call("search_products", `{}`)))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+pro.APIKey)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json, text/event-stream")
		req.Header.Set("Origin", "https://evil.example")
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, http.StatusForbidden, res.StatusCode)
	})

	t.Run("webhook", func(t *testing.T) {
		payload := `{"id":"evt_1","object":"event","type":"customer.subscription.updated","data":{"object":{"id":"sub_1"}}}`
		for name, header := range map[string]string{
			"no signature":      "",
			"malformed":         "v1=zz",
			"foreign signature": fmt.Sprintf("t=%d,v1=%s", time.Now().Unix(), strings.Repeat("0", 64)),
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.WebhookURL, strings.NewReader(payload))
			require.NoError(t, err)
			if header != "" {
				req.Header.Set("Stripe-Signature", header)
			}
			res, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			b, err := io.ReadAll(res.Body)
			res.Body.Close()
			require.NoError(t, err)
			require.Equal(t, http.StatusBadRequest, res.StatusCode, name)
			require.Contains(t, strings.ToLower(string(b)), "signature", name)
		}
	})

	t.Run("sign-up", func(t *testing.T) {
		var out struct{ Error string }
		res := formPost(t, r.base+"/signup", url.Values{"plan": {"platinum'; --"}}, &out)
		require.Equal(t, http.StatusBadRequest, res.StatusCode)
		require.Contains(t, out.Error, "platinum")
		require.Contains(t, out.Error, "free, starter, pro, enterprise")
		res = formPost(t, r.base+"/signup/return", url.Values{"session_id": {"cs_nobody"}}, &out)
		require.Equal(t, http.StatusNotFound, res.StatusCode)
		require.Contains(t, out.Error, "cs_nobody")
	})

	t.Run("health", func(t *testing.T) {
		get := func(path, token string) (int, string) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.base+path, nil)
			require.NoError(t, err)
			if token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			res, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			// The time is all that may differ.
			text, _, _ := strings.Cut(string(b), `"ts"`)
			return res.StatusCode, text
		}
		status, plain := get("/health", "")
		require.Equal(t, http.StatusOK, status)
		require.NotContains(t, plain, "checks")
		for _, path := range []string{"/health?tenant=" + pro.ID.String(), "/health?tenant=" + tenant.NewID().String(), "/health?tenant=%27", "/health/t/nothing"} {
			status, body := get(path, "")
			require.Equal(t, http.StatusOK, status, path)
			require.Equal(t, plain, body, path)
		}
		_, body := get("/health", pro.APIKey)
		require.Contains(t, body, "rls_canary")
		require.NotContains(t, body, "redis", "a tenant sees its own checks")
	})

	t.Run("admin", func(t *testing.T) {
		u, err := url.Parse(r.AdminURL)
		require.NoError(t, err)
		u.User = nil
		for _, path := range []string{"/console", "/metrics", "/debug/pprof/", "/health"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.String()+path, nil)
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer "+pro.APIKey)
			res, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			res.Body.Close()
			require.Equal(t, http.StatusUnauthorized, res.StatusCode, path)
			res, err = http.Get(r.AdminURL + path)
			require.NoError(t, err)
			res.Body.Close()
			require.Equal(t, http.StatusOK, res.StatusCode, path)
		}
	})

	require.Equal(t, before, w.fingerprint(t))
}

func call(tool, arguments string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":"1","method":"tools/call","params":{"name":%q,"arguments":%s}}`, tool, arguments)
}

// fingerprint is the state that bad input must not change: tenants, keys,
// products, accounts, notices and charged units.
func (w *world) fingerprint(t *testing.T) (f string) {
	t.Helper()
	db := w.superPool(t)
	require.NoError(t, db.QueryRow(t.Context(), `
		select concat_ws(' ',
			(select md5(string_agg(concat(id, plan, status), ',' order by id)) from mcpsaas.tenants),
			(select count(*) from mcpsaas.api_keys where revoked_at is null),
			(select md5(string_agg(concat(tenant_id, name, price_cents), ',' order by tenant_id, name)) from products),
			(select count(*) from mcpsaas.billing_accounts),
			(select count(*) from mcpsaas.billing_notices))`).Scan(&f))
	return f
}

// TestBadSettings starts the server with what can't work.
func TestBadSettings(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		want []string
	}{
		"production without settings": {[]string{"serve", "-production"}, nil,
			[]string{"DATABASE_URL", "APP_DATABASE_URL", "REDIS_URL", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "PUBLIC_URL", "API_KEY_PEPPER", "SPOOL_DIR"}},
		"short pepper":           {[]string{"serve"}, map[string]string{"API_KEY_PEPPER": "short"}, []string{"API_KEY_PEPPER has 5 characters"}},
		"short admin password":   {[]string{"serve"}, map[string]string{"ADMIN_TOKEN": "guess"}, []string{"ADMIN_TOKEN has 5 characters"}},
		"Stripe without secret":  {[]string{"serve"}, map[string]string{"STRIPE_SECRET_KEY": "sk_test_x"}, []string{"STRIPE_WEBHOOK_SECRET"}},
		"app database alone":     {[]string{"serve"}, map[string]string{"APP_DATABASE_URL": "postgres://x"}, []string{"DATABASE_URL is not set"}},
		"interval":               {[]string{"serve"}, map[string]string{"REPORT_INTERVAL": "soon"}, []string{`REPORT_INTERVAL "soon"`}},
		"unknown command":        {[]string{"sevre"}, nil, []string{`no command "sevre"`, "tenant create"}},
		"unknown flag":           {[]string{"serve", "-colour"}, nil, []string{"-colour"}},
		"malformed tenant":       {[]string{"tenant", "show", "1"}, nil, []string{`"1"`, "UUID"}},
		"missing argument":       {[]string{"tenant", "show"}, nil, []string{"tenant show ID"}},
		"unknown plan":           {[]string{"tenant", "create", "gold"}, nil, []string{`"gold"`, "free, starter, pro, enterprise"}},
		"command without server": {[]string{"tenant", "list"}, nil, []string{"DATABASE_URL is not set"}},
		"demo in production":     {[]string{"serve", "-production", "-demo"}, nil, []string{"-demo"}},
	} {
		err := run(t.Context(), c.args, func(name string) string { return c.env[name] }, io.Discard, io.Discard)
		require.Error(t, err, name)
		for _, want := range c.want {
			require.ErrorContains(t, err, want, name)
		}
	}
}

// Mutation: with the environment as the flags' defaults all of them are printed.
func TestUsageTellsNoSecrets(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"-help", "-no-such-flag"} {
		var out bytes.Buffer
		getenv := func(name string) string { return "hunter2 of " + name }
		require.Error(t, run(t.Context(), []string{"serve", arg}, getenv, &out, &out))
		require.Contains(t, out.String(), "DATABASE_URL")
		require.NotContains(t, out.String(), "hunter2")
	}
}
