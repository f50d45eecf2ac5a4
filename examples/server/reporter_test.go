package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/filebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// TestReporters bills each unit at Stripe, in a file and at an address that takes
// CloudEvents, all at once, each on its own account.
func TestReporters(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	events := map[string]int64{} // units by id
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e struct {
			ID   string
			Data struct{ Units int64 }
		}
		if r.Header.Get("Authorization") != "Bearer sink_token" || json.NewDecoder(r.Body).Decode(&e) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		events[e.ID] = e.Data.Units
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(sink.Close)
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "usage.jsonl")
	w.env["REPORTER"], w.env["REPORTER_TOKEN"] = "stripe,file:"+path+","+sink.URL, "sink_token"
	r := w.serve(nil)
	pro := r.tenant(tenant.Pro)
	for range 2 {
		a, err := post(t.Context(), r.MCPURL, pro.APIKey, "", "1", "generate_report", nil)
		require.NoError(t, err)
		require.False(t, a.isErr, a.text)
	}
	w.billed(t, pro.StripeCustomer, 40)
	eventually(t, "the address has them", func() bool {
		mu.Lock()
		defer mu.Unlock()
		var sum int64
		for _, units := range events {
			sum += units
		}
		return sum == 40
	})
	file, err := filebill.Open(path)
	require.NoError(t, err)
	defer file.Close()
	to := billing.Target{Tenant: pro.ID, Provider: filebill.Provider, Mode: billing.ModeMeter, Customer: pro.StripeCustomer, Meter: soldMeter}
	eventually(t, "the file has them", func() bool {
		sum, err := file.UsageTotal(t.Context(), to, time.Now().AddDate(0, 0, -1), time.Now().AddDate(0, 0, 1))
		require.NoError(t, err)
		return sum == 40
	})
	require.Equal(t, 3, w.number(t, `select count(distinct target_id) from mcpsaas.usage_batches where tenant_id = $1 and state = 'confirmed'`, pro.ID))
}

func TestReporterSetting(t *testing.T) {
	t.Parallel()
	stripe, err := stripebill.New("sk_test_1", nil)
	require.NoError(t, err)
	file := "file:" + filepath.Join(t.TempDir(), "usage.jsonl")
	for setting, want := range map[string][]string{
		"stripe": {"stripe"}, file: {"file"}, "stripe," + file: {"stripe", "file"},
		"https://openmeter.cloud/api/v1/events": {"cloudevents"},
		"":                                      nil, "metronome": nil, "http://": nil, "https://a/b,https://c/d": nil, "file:/no/such/directory/f": nil,
	} {
		r, err := newReporting(&config{reporter: setting}, stripe)
		r.close()
		if want == nil {
			require.ErrorContains(t, err, "REPORTER", setting)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, want, r.to)
		require.Contains(t, r.Reporters, "stripe", "for what is on its way there")
	}
}
