package stripetest_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/stretchr/testify/require"
)

// mocksEnv names two programs of stripe-mock (github.com/stripe/stripe-mock),
// separated like paths in a list: v0.189.0, whose API still has usage records,
// and v0.203.0, whose has not. .ci/e2e builds them.
const mocksEnv = "STRIPE_MOCKS"

// TestAnswersLikeStripeMock sends the same requests to the emulator and to
// Stripe's own mock, which answers from Stripe's own description of the API:
// both accept them, and each field that the emulator returns is there, of the
// same type. The mock's are fixtures, so that only shapes can be compared. What
// package stripebill reads has to be in both.
func TestAnswersLikeStripeMock(t *testing.T) {
	t.Parallel()
	programs := filepath.SplitList(os.Getenv(mocksEnv))
	if len(programs) == 0 {
		t.Skipf("%s doesn't name stripe-mock v0.189.0 and v0.203.0; make e2e does", mocksEnv)
	}
	require.Len(t, programs, 2)
	for i, version := range []string{"2023-10-16", "2026-08-26.dahlia"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			mock := startMock(t, programs[i])
			s := newServer(t, &stripetest.Options{APIVersion: version})
			modern := i == 1
			ids := map[string]string{}
			for _, step := range mockSteps {
				if step.only == "old" && modern || step.only == "new" && !modern {
					continue
				}
				path, form := fill(step.path, ids), fillForm(step.form, ids)
				name := step.method + " " + step.path
				ours, status := ask(t, s.URL, s.SecretKey, version, step.method, path, form)
				require.Equal(t, 200, status, "%s: the emulator: %v", name, ours)
				theirs, status := ask(t, mock, "sk_test_123", version, step.method, path, form)
				if status != 200 {
					t.Errorf("%s: stripe-mock: %v", name, theirs)
					continue
				}
				for _, difference := range unlike("", ours, theirs) {
					t.Errorf("%s: %s", name, difference)
				}
				layout := map[bool]string{false: ", old", true: ", new"}[modern]
				for _, field := range slices.Concat(readFields[step.reads], readFields[step.reads+layout]) {
					require.True(t, holds(ours, field), "%s: the emulator has no %s", name, field)
					require.True(t, holds(theirs, field), "%s: stripe-mock has no %s", name, field)
				}
				if step.as != "" {
					ids[step.as] = ours["id"].(string)
				}
				if step.as == "subscription" {
					for j, it := range ours["items"].(map[string]any)["data"].([]any) {
						ids[fmt.Sprintf("item%d", j)] = it.(map[string]any)["id"].(string)
					}
					ids["invoice"] = ours["latest_invoice"].(string)
				}
				if step.path == "/v1/events" {
					ids["event"] = ours["data"].([]any)[0].(map[string]any)["id"].(string)
				}
			}
		})
	}
}

// readFields are what package stripebill reads of each object, in objects.go.
var readFields = map[string][]string{
	"price": {"id", "active", "lookup_key", "metadata", "currency", "product", "unit_amount", "unit_amount_decimal",
		"recurring.interval", "recurring.interval_count", "recurring.usage_type", "recurring.meter"},
	"product":  {"id", "name", "active", "metadata"},
	"meter":    {"id", "event_name", "status", "default_aggregation.formula"},
	"customer": {"id", "email", "metadata"},
	"subscription": {"id", "customer", "status", "metadata", "created", "cancel_at_period_end", "ended_at", "latest_invoice",
		"pause_collection", "items.data.id", "items.data.price.id"},
	"subscription, old": {"current_period_start", "current_period_end"},
	"subscription, new": {"items.data.current_period_start", "items.data.current_period_end"},
	"invoice":           {"id", "customer", "status", "billing_reason", "created", "due_date", "status_transitions.finalized_at"},
	"invoice, old":      {"subscription"},
	"invoice, new":      {"parent.subscription_details.subscription"},
	"session": {"id", "url", "mode", "status", "payment_status", "customer", "subscription", "client_reference_id", "customer_email",
		"metadata", "expires_at", "customer_details"},
	"meter event":    {"object", "identifier"},
	"summary":        {"data.id", "data.aggregated_value"},
	"usage record":   {"object", "quantity", "subscription_item", "timestamp"},
	"record summary": {"data.invoice", "data.period.start", "data.period.end", "data.total_usage"},
	"events":         {"object", "data.id", "data.type", "data.created", "data.api_version", "data.livemode", "data.data.object"},
}

// mockSteps is a life: {name} is the id of what an earlier step has made.
var mockSteps = []struct {
	method, path string
	form         url.Values
	as           string // keeps the id
	reads        string // of readFields
	only         string // "old" or "new"
}{
	{"POST", "/v1/test_helpers/test_clocks", url.Values{"frozen_time": {unix(start)}, "name": {"clock"}}, "clock", "", ""},
	{"GET", "/v1/test_helpers/test_clocks/{clock}", nil, "", "", ""},
	{"GET", "/v1/test_helpers/test_clocks", nil, "", "", ""},
	{"POST", "/v1/customers", url.Values{"email": {"ada@example.com"}, "metadata[tenant_id]": {"one"}}, "customer", "customer", ""},
	{"GET", "/v1/customers/{customer}", nil, "", "customer", ""},
	{"POST", "/v1/customers/{customer}", url.Values{"name": {"Ada"}}, "", "customer", ""},
	{"GET", "/v1/customers", url.Values{"email": {"ada@example.com"}}, "", "", ""},
	{"POST", "/v1/products", url.Values{"name": {"Pro"}}, "product", "product", ""},
	{"GET", "/v1/products/{product}", nil, "", "product", ""},
	{"POST", "/v1/products/{product}", url.Values{"description": {"For professionals"}}, "", "product", ""},
	{"GET", "/v1/products", url.Values{"active": {"true"}}, "", "", ""},
	{"POST", "/v1/entitlements/features", url.Values{"lookup_key": {"sso"}, "name": {"SSO"}}, "feature", "", ""},
	{"GET", "/v1/entitlements/features/{feature}", nil, "", "", ""},
	{"POST", "/v1/entitlements/features/{feature}", url.Values{"name": {"Single sign-on"}}, "", "", ""},
	{"GET", "/v1/entitlements/features", nil, "", "", ""},
	{"POST", "/v1/products/{product}/features", url.Values{"entitlement_feature": {"{feature}"}}, "attached", "", ""},
	{"GET", "/v1/products/{product}/features", nil, "", "", ""},
	{"POST", "/v1/billing/meters", url.Values{"display_name": {"Calls"}, "event_name": {"calls"}, "default_aggregation[formula]": {"sum"},
		"customer_mapping[type]": {"by_id"}, "customer_mapping[event_payload_key]": {"stripe_customer_id"}, "value_settings[event_payload_key]": {"value"}}, "meter", "meter", ""},
	{"GET", "/v1/billing/meters/{meter}", nil, "", "meter", ""},
	{"POST", "/v1/billing/meters/{meter}", url.Values{"display_name": {"Tool calls"}}, "", "meter", ""},
	{"POST", "/v1/billing/meters/{meter}/deactivate", nil, "", "meter", ""},
	{"POST", "/v1/billing/meters/{meter}/reactivate", nil, "", "meter", ""},
	{"GET", "/v1/billing/meters", url.Values{"status": {"active"}}, "", "", ""},
	{"POST", "/v1/prices", url.Values{"product": {"{product}"}, "currency": {"usd"}, "unit_amount": {"4900"}, "recurring[interval]": {"month"},
		"lookup_key": {"pro"}, "transfer_lookup_key": {"true"}}, "flat", "price", ""},
	{"POST", "/v1/prices", url.Values{"product": {"{product}"}, "currency": {"usd"}, "unit_amount_decimal": {"0.1"}, "recurring[interval]": {"month"},
		"recurring[usage_type]": {"metered"}, "recurring[meter]": {"{meter}"}}, "metered", "price", ""},
	{"POST", "/v1/prices", url.Values{"product": {"{product}"}, "currency": {"usd"}, "unit_amount_decimal": {"0.1"}, "recurring[interval]": {"month"},
		"recurring[usage_type]": {"metered"}}, "legacy", "price", "old"},
	{"GET", "/v1/prices/{flat}", nil, "", "price", ""},
	{"POST", "/v1/prices/{flat}", url.Values{"nickname": {"Pro, monthly"}}, "", "price", ""},
	{"GET", "/v1/prices", url.Values{"lookup_keys[]": {"pro"}}, "", "", ""},
	{"POST", "/v1/checkout/sessions", url.Values{"mode": {"subscription"}, "success_url": {"https://shop.example/welcome"}, "cancel_url": {"https://shop.example"},
		"line_items[0][price]": {"{flat}"}, "line_items[0][quantity]": {"1"}, "line_items[1][price]": {"{metered}"},
		"client_reference_id": {"one"}, "metadata[tenant_id]": {"one"}, "subscription_data[metadata][tenant_id]": {"one"}, "customer": {"{customer}"}}, "session", "session", ""},
	{"GET", "/v1/checkout/sessions/{session}", nil, "", "session", ""},
	{"GET", "/v1/checkout/sessions", nil, "", "", ""},
	{"POST", "/v1/checkout/sessions/{session}/expire", nil, "", "session", ""},
	{"POST", "/v1/billing_portal/configurations", url.Values{"features[invoice_history][enabled]": {"true"}, "business_profile[headline]": {"Shop"}}, "config", "", ""},
	{"GET", "/v1/billing_portal/configurations/{config}", nil, "", "", ""},
	{"POST", "/v1/billing_portal/configurations/{config}", url.Values{"default_return_url": {"https://shop.example"}}, "", "", ""},
	{"GET", "/v1/billing_portal/configurations", nil, "", "", ""},
	{"POST", "/v1/billing_portal/sessions", url.Values{"customer": {"{customer}"}, "return_url": {"https://shop.example"}}, "", "", ""},
	{"POST", "/v1/subscriptions", url.Values{"customer": {"{customer}"}, "items[0][price]": {"{flat}"}, "items[1][price]": {"{metered}"},
		"metadata[tenant_id]": {"one"}}, "subscription", "subscription", ""},
	{"GET", "/v1/subscriptions/{subscription}", nil, "", "subscription", ""},
	{"GET", "/v1/subscriptions", url.Values{"customer": {"{customer}"}, "status": {"all"}}, "", "", ""},
	{"POST", "/v1/subscriptions/{subscription}", url.Values{"cancel_at_period_end": {"true"}, "pause_collection[behavior]": {"void"}}, "", "subscription", ""},
	{"POST", "/v1/subscriptions/{subscription}", url.Values{"cancel_at_period_end": {"false"}, "pause_collection": {""}}, "", "subscription", ""},
	{"GET", "/v1/subscription_items", url.Values{"subscription": {"{subscription}"}}, "", "", ""},
	{"GET", "/v1/subscription_items/{item0}", nil, "", "", ""},
	{"GET", "/v1/entitlements/active_entitlements", url.Values{"customer": {"{customer}"}}, "", "", ""},
	{"POST", "/v1/billing/meter_events", url.Values{"event_name": {"calls"}, "identifier": {"one"}, "timestamp": {unix(start)},
		"payload[stripe_customer_id]": {"{customer}"}, "payload[value]": {"7"}}, "", "meter event", ""},
	{"GET", "/v1/billing/meters/{meter}/event_summaries", url.Values{"customer": {"{customer}"}, "start_time": {unix(start)}, "end_time": {unix(start.Add(time.Hour))},
		"value_grouping_window": {"hour"}}, "", "summary", ""},
	{"POST", "/v1/billing/meter_event_adjustments", url.Values{"event_name": {"calls"}, "type": {"cancel"}, "cancel[identifier]": {"one"}}, "", "", ""},
	{"GET", "/v1/invoices/{invoice}", nil, "", "invoice", ""},
	{"GET", "/v1/invoices/{invoice}/lines", nil, "", "", ""},
	{"GET", "/v1/invoices", url.Values{"customer": {"{customer}"}}, "", "", ""},
	{"POST", "/v1/invoiceitems", url.Values{"customer": {"{customer}"}, "amount": {"700"}, "currency": {"usd"}, "description": {"Late usage"}}, "item", "", ""},
	{"GET", "/v1/invoiceitems/{item}", nil, "", "", ""},
	{"GET", "/v1/invoiceitems", url.Values{"customer": {"{customer}"}, "pending": {"true"}}, "", "", ""},
	{"GET", "/v1/invoices/upcoming", url.Values{"subscription": {"{subscription}"}}, "", "", "old"},
	{"POST", "/v1/invoices/create_preview", url.Values{"subscription": {"{subscription}"}}, "", "", "new"},
	{"POST", "/v1/invoices", url.Values{"customer": {"{customer}"}, "pending_invoice_items_behavior": {"include"}, "auto_advance": {"false"}}, "byhand", "", ""},
	{"POST", "/v1/invoices/{byhand}/finalize", nil, "", "", ""},
	{"POST", "/v1/subscriptions", url.Values{"customer": {"{customer}"}, "items[0][price]": {"{legacy}"}}, "subscription", "subscription", "old"},
	{"POST", "/v1/subscription_items/{item0}/usage_records", url.Values{"quantity": {"3"}, "timestamp": {unix(start)}, "action": {"set"}}, "", "usage record", "old"},
	{"GET", "/v1/subscription_items/{item0}/usage_record_summaries", nil, "", "record summary", "old"},
	{"DELETE", "/v1/subscriptions/{subscription}", url.Values{"invoice_now": {"true"}}, "", "subscription", ""},
	{"DELETE", "/v1/products/{product}/features/{attached}", nil, "", "", ""},
	{"POST", "/v1/test_helpers/test_clocks/{clock}/advance", url.Values{"frozen_time": {unix(start.Add(time.Hour))}}, "", "", ""},
	{"DELETE", "/v1/test_helpers/test_clocks/{clock}", nil, "", "", ""},
	{"GET", "/v1/events", url.Values{"type": {"customer.created"}}, "", "events", ""},
	{"GET", "/v1/events/{event}", nil, "", "", ""},
	{"DELETE", "/v1/customers/{customer}", nil, "", "", ""},
	{"GET", "/v1/account", nil, "", "", ""},
	{"GET", "/v1/balance", nil, "", "", ""},
}

// startMock runs a stripe-mock until the test ends. Without an address for
// HTTPS it would take a port on every interface.
func startMock(t *testing.T, program string) (base string) {
	t.Helper()
	cmd := exec.Command(program, "-http-addr", "127.0.0.1:0", "-https-addr", "127.0.0.1:0")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, address, ok := strings.Cut(lines.Text(), "Listening for HTTP at address: "); ok {
			go func() { _, _ = io.Copy(io.Discard, out) }() // ends with the process
			return "http://" + address
		}
	}
	require.Fail(t, "stripe-mock ended", "%v", lines.Err())
	return ""
}

func ask(t *testing.T, base, key, version, method, path string, form url.Values) (map[string]any, int) {
	t.Helper()
	body := form.Encode()
	if method == http.MethodGet {
		path, body = path+"?"+body, ""
	}
	req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Stripe-Version", version)
	if method == http.MethodPost || body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var out map[string]any
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&out))
	return out, resp.StatusCode
}

func fill(text string, ids map[string]string) string {
	for name, id := range ids {
		text = strings.ReplaceAll(text, "{"+name+"}", id)
	}
	return text
}

func fillForm(form url.Values, ids map[string]string) url.Values {
	out := url.Values{}
	for k, values := range form {
		for _, v := range values {
			out.Add(k, fill(v, ids))
		}
	}
	return out
}

// free are objects, beside all metadata, whose keys are the caller's, or those
// of whatever an event is about.
var free = []string{".payload", ".data.object", ".data[].data.object"}

// optional are fields that stand in the description of the API, but that the
// mock's fixtures leave out.
var optional = []string{"subscription_item", "price_details"}

// unlike lists where ours has what theirs lacks, or of another type. Null is of
// any type, and an empty list says nothing of its elements.
func unlike(at string, ours, theirs any) (out []string) {
	if ours == nil || theirs == nil {
		return nil
	}
	switch o := ours.(type) {
	case map[string]any:
		th, ok := theirs.(map[string]any)
		if !ok {
			return []string{at + " is an object"}
		}
		for key, value := range o {
			if slices.Contains(free, at+"."+key) || key == "metadata" {
				continue
			}
			other, ok := th[key]
			if !ok && slices.Contains(optional, key) {
				continue
			}
			if !ok {
				out = append(out, "stripe-mock has no "+at+"."+key)
				continue
			}
			out = append(out, unlike(at+"."+key, value, other)...)
		}
	case []any:
		th, ok := theirs.([]any)
		if !ok {
			return []string{at + " is a list"}
		}
		for _, value := range o {
			if len(th) > 0 {
				out = append(out, unlike(at+"[]", value, th[0])...)
			}
		}
	default:
		if fmt.Sprintf("%T", ours) != fmt.Sprintf("%T", theirs) {
			out = append(out, fmt.Sprintf("%s is %T, in stripe-mock %T", at, ours, theirs))
		}
	}
	return out
}

// holds reports whether a field is there: "items.data.id" in each of the list.
func holds(v any, path string) bool {
	name, rest, deeper := strings.Cut(path, ".")
	if list, ok := v.([]any); ok {
		return len(list) > 0 && !slices.ContainsFunc(list, func(one any) bool { return !holds(one, path) })
	}
	object, ok := v.(map[string]any)
	if !ok {
		return false
	}
	value, there := object[name]
	return there && (!deeper || value == nil || holds(value, rest))
}
