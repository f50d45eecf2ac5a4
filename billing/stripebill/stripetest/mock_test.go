//go:build e2e

package stripetest_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
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
// package stripebill reads of an object is in both or in neither, and in one of
// the two versions at least. Mutations seen by it: a field of another type, one
// that the emulator lacks, a misspelling in objects.go.
func TestAnswersLikeStripeMock(t *testing.T) {
	t.Parallel()
	programs := filepath.SplitList(os.Getenv(mocksEnv))
	require.Len(t, programs, 2, "%s names stripe-mock v0.189.0 and v0.203.0; make e2e does", mocksEnv)
	reads := readFields(t)
	seen := map[string]bool{}
	for i, version := range []string{"2023-10-16", "2026-08-26.dahlia"} {
		mock := startMock(t, programs[i])
		s := newServer(t, &stripetest.Options{APIVersion: version})
		ids := map[string]string{}
		for _, step := range mockSteps {
			if step.only == "old" && i == 1 || step.only == "new" && i == 0 {
				continue
			}
			path, form := fill(step.path, ids), fillForm(step.form, ids)
			name := version + ": " + step.method + " " + step.path
			ours, status := ask(t, s.URL, s.SecretKey, version, step.method, path, form)
			require.Equal(t, 200, status, "%s: the emulator: %v", name, ours)
			theirs, status := ask(t, mock, "sk_test_123", version, step.method, path, form)
			require.Equal(t, 200, status, "%s: stripe-mock: %v", name, theirs)
			for _, difference := range unlike("", ours, theirs) {
				t.Errorf("%s: %s", name, difference)
			}
			require.True(t, step.reads == "" || reads[step.reads] != nil, step.reads)
			for _, field := range reads[step.reads] {
				if ours["object"] == "list" {
					field = "data." + field
				}
				a, b := holds(ours, field), holds(theirs, field)
				require.Equal(t, b, a, "%s: %s in stripe-mock, and in the emulator", name, field)
				field = step.reads + "." + strings.TrimPrefix(field, "data.")
				seen[field] = seen[field] || a
			}
			if step.as != "" {
				ids[step.as] = ours["id"].(string)
			}
			if step.as == "subscription" {
				for j, it := range itemsOf(ours) {
					ids[fmt.Sprintf("item%d", j)] = it["id"].(string)
				}
				ids["invoice"] = ours["latest_invoice"].(string)
			}
			if step.as == "once" {
				require.NoError(t, s.Pay(ids["once"]))
				once, _ := ask(t, s.URL, s.SecretKey, version, http.MethodGet, "/v1/charges", nil)
				charge := once["data"].([]any)[0].(map[string]any)
				ids["charge"], ids["payment"] = charge["id"].(string), charge["payment_intent"].(string)
			}
			if step.path == "/v1/events" {
				ids["event"] = ours["data"].([]any)[0].(map[string]any)["id"].(string)
			}
		}
	}
	for field, there := range seen {
		require.True(t, there, "package stripebill reads %s, which no version has", field)
	}
	for _, object := range slices.Sorted(maps.Keys(reads)) {
		require.True(t, slices.ContainsFunc(mockSteps, func(step mockStep) bool { return step.reads == object }), "no step answers with %s", object)
	}
}

// readFields are the fields of the structs in package stripebill's objects.go,
// by the struct: "items.data.price.id".
func readFields(t *testing.T) map[string][]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../objects.go", nil, 0)
	require.NoError(t, err)
	types := map[string]*ast.StructType{}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok {
			if o, ok := spec.Type.(*ast.StructType); ok {
				types[spec.Name.Name] = o
			}
		}
		return true
	})
	var fields func(ast.Expr) []string
	fields = func(expr ast.Expr) (out []string) {
		switch e := expr.(type) {
		case *ast.StarExpr:
			return fields(e.X)
		case *ast.IndexExpr: // list[T]
			for _, inner := range fields(e.Index) {
				out = append(out, "data."+inner)
			}
			return out
		case *ast.Ident:
			if o := types[e.Name]; o != nil {
				return fields(o)
			}
		case *ast.StructType:
			for _, field := range e.Fields.List {
				name := reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("json")
				inner := fields(field.Type)
				if len(inner) == 0 {
					out = append(out, name)
				}
				for _, more := range inner {
					out = append(out, name+"."+more)
				}
			}
		}
		return out
	}
	out := map[string][]string{}
	for name, o := range types {
		if name != "list" && name != "subscriptionItem" { // in others
			out[name] = fields(o)
		}
	}
	require.Contains(t, out["subscription"], "items.data.price.id")
	return out
}

type mockStep struct {
	method, path string
	form         url.Values
	as           string // keeps the id
	reads        string // the struct of package stripebill that reads it
	only         string // "old" or "new"
}

// mockSteps is a life: {name} is the id of what an earlier step has made.
var mockSteps = []mockStep{
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
	{"POST", "/v1/billing/meters", url.Values{"display_name": {"Hours"}, "event_name": {"hours"}, "default_aggregation[formula]": {"sum"}, "event_time_window": {"hour"}}, "", "meter", ""},
	{"POST", "/v1/billing/meters", url.Values{"display_name": {"Seats"}, "event_name": {"seats"}, "default_aggregation[formula]": {"last"}}, "", "meter", "new"},
	{"GET", "/v1/billing/meters/{meter}", nil, "", "meter", ""},
	{"POST", "/v1/billing/meters/{meter}", url.Values{"display_name": {"Tool calls"}}, "", "meter", ""},
	{"POST", "/v1/billing/meters/{meter}/deactivate", nil, "", "meter", ""},
	{"POST", "/v1/billing/meters/{meter}/reactivate", nil, "", "meter", ""},
	{"GET", "/v1/billing/meters", url.Values{"status": {"active"}}, "", "meter", ""},
	{"POST", "/v1/prices", url.Values{"product": {"{product}"}, "currency": {"usd"}, "unit_amount": {"4900"}, "recurring[interval]": {"month"},
		"lookup_key": {"pro"}, "transfer_lookup_key": {"true"}}, "flat", "price", ""},
	{"POST", "/v1/prices", url.Values{"product": {"{product}"}, "currency": {"usd"}, "unit_amount_decimal": {"0.1"}, "recurring[interval]": {"month"},
		"recurring[usage_type]": {"metered"}, "recurring[meter]": {"{meter}"}}, "metered", "price", ""},
	{"POST", "/v1/prices", url.Values{"product": {"{product}"}, "currency": {"usd"}, "unit_amount_decimal": {"0.1"}, "recurring[interval]": {"month"},
		"recurring[usage_type]": {"metered"}}, "legacy", "price", "old"},
	{"GET", "/v1/prices/{flat}", nil, "", "price", ""},
	{"POST", "/v1/prices/{flat}", url.Values{"nickname": {"Pro, monthly"}}, "", "price", ""},
	{"GET", "/v1/prices", url.Values{"lookup_keys[]": {"pro"}}, "", "price", ""},
	{"POST", "/v1/checkout/sessions", url.Values{"mode": {"subscription"}, "success_url": {"https://shop.example/welcome"}, "cancel_url": {"https://shop.example"},
		"line_items[0][price]": {"{flat}"}, "line_items[0][quantity]": {"1"}, "line_items[1][price]": {"{metered}"},
		"client_reference_id": {"one"}, "metadata[tenant_id]": {"one"}, "subscription_data[metadata][tenant_id]": {"one"}, "customer": {"{customer}"}}, "session", "checkoutSession", ""},
	{"GET", "/v1/checkout/sessions/{session}", nil, "", "checkoutSession", ""},
	{"GET", "/v1/checkout/sessions", nil, "", "", ""},
	{"POST", "/v1/checkout/sessions/{session}/expire", nil, "", "checkoutSession", ""},
	{"POST", "/v1/prices", url.Values{"product": {"{product}"}, "currency": {"usd"}, "unit_amount": {"8000"}, "lookup_key": {"pack"}, "metadata[units]": {"100000"}}, "pack", "", ""},
	{"GET", "/v1/prices", url.Values{"type": {"one_time"}}, "", "", ""},
	{"POST", "/v1/checkout/sessions", url.Values{"mode": {"payment"}, "success_url": {"https://shop.example/welcome"}, "line_items[0][price]": {"{pack}"}, "line_items[0][quantity]": {"1"},
		"metadata[tenant_id]": {"one"}, "customer_creation": {"always"}}, "once", "checkoutSession", ""},
	{"GET", "/v1/checkout/sessions", url.Values{"payment_intent": {"{payment}"}}, "", "checkoutSession", ""},
	{"GET", "/v1/payment_intents/{payment}", nil, "", "", ""},
	{"GET", "/v1/charges", url.Values{"payment_intent": {"{payment}"}}, "", "charge", ""},
	{"GET", "/v1/charges/{charge}", nil, "", "charge", ""},
	{"POST", "/v1/refunds", url.Values{"payment_intent": {"{payment}"}, "amount": {"100"}, "reason": {"requested_by_customer"}, "metadata[a]": {"b"}}, "refund", "", ""},
	{"GET", "/v1/refunds/{refund}", nil, "", "", ""},
	{"GET", "/v1/refunds", url.Values{"charge": {"{charge}"}}, "", "", ""},
	{"POST", "/v1/billing_portal/configurations", url.Values{"features[invoice_history][enabled]": {"true"}, "business_profile[headline]": {"Shop"}}, "config", "", ""},
	{"GET", "/v1/billing_portal/configurations/{config}", nil, "", "", ""},
	{"POST", "/v1/billing_portal/configurations/{config}", url.Values{"default_return_url": {"https://shop.example"}}, "", "", ""},
	{"GET", "/v1/billing_portal/configurations", nil, "", "", ""},
	{"POST", "/v1/billing_portal/sessions", url.Values{"customer": {"{customer}"}, "return_url": {"https://shop.example"}}, "", "", ""},
	{"POST", "/v1/subscriptions", url.Values{"customer": {"{customer}"}, "items[0][price]": {"{flat}"}, "items[1][price]": {"{metered}"},
		"metadata[tenant_id]": {"one"}}, "subscription", "subscription", ""},
	{"GET", "/v1/subscriptions/{subscription}", nil, "", "subscription", ""},
	{"GET", "/v1/subscriptions", url.Values{"customer": {"{customer}"}, "status": {"all"}}, "", "subscription", ""},
	{"POST", "/v1/subscriptions/{subscription}", url.Values{"cancel_at": {unix(start.AddDate(1, 0, 0))}, "billing_thresholds[amount_gte]": {"9900"},
		"billing_thresholds[reset_billing_cycle_anchor]": {"true"}}, "", "subscription", ""},
	{"POST", "/v1/subscriptions/{subscription}", url.Values{"cancel_at": {""}, "billing_thresholds": {""}}, "", "subscription", ""},
	{"POST", "/v1/subscriptions/{subscription}", url.Values{"cancel_at_period_end": {"true"}, "pause_collection[behavior]": {"void"}}, "", "subscription", ""},
	{"POST", "/v1/subscriptions/{subscription}", url.Values{"cancel_at_period_end": {"false"}, "pause_collection": {""}}, "", "subscription", ""},
	{"GET", "/v1/subscription_items", url.Values{"subscription": {"{subscription}"}}, "", "", ""},
	{"GET", "/v1/subscription_items/{item0}", nil, "", "", ""},
	{"GET", "/v1/entitlements/active_entitlements", url.Values{"customer": {"{customer}"}}, "", "", ""},
	{"POST", "/v1/billing/meter_events", url.Values{"event_name": {"calls"}, "identifier": {"one"}, "timestamp": {unix(start)},
		"payload[stripe_customer_id]": {"{customer}"}, "payload[value]": {"7"}}, "", "meterEvent", ""},
	{"GET", "/v1/billing/meters/{meter}/event_summaries", url.Values{"customer": {"{customer}"}, "start_time": {unix(start)}, "end_time": {unix(start.Add(time.Hour))},
		"value_grouping_window": {"hour"}}, "", "meterEventSummary", ""},
	{"POST", "/v1/billing/meter_event_adjustments", url.Values{"event_name": {"calls"}, "type": {"cancel"}, "cancel[identifier]": {"one"}}, "", "meterEventAdjustment", ""},
	{"GET", "/v1/invoices/{invoice}", nil, "", "invoice", ""},
	{"GET", "/v1/invoices/{invoice}/lines", nil, "", "", ""},
	{"GET", "/v1/invoices", url.Values{"customer": {"{customer}"}}, "", "invoice", ""},
	{"POST", "/v1/invoiceitems", url.Values{"customer": {"{customer}"}, "amount": {"700"}, "currency": {"usd"}, "description": {"Late usage"}}, "item", "", ""},
	{"POST", "/v1/invoiceitems", url.Values{"customer": {"{customer}"}, "subscription": {"{subscription}"}, "unit_amount_decimal": {"0.1"}, "quantity": {"7"},
		"currency": {"usd"}, "description": {"Usage"}, "period[start]": {unix(start)}, "period[end]": {unix(start)}, "metadata[batch]": {"1"}}, "charge", "invoiceItem", ""},
	{"DELETE", "/v1/invoiceitems/{charge}", nil, "", "invoiceItem", ""},
	{"GET", "/v1/invoiceitems/{item}", nil, "", "", ""},
	{"GET", "/v1/invoiceitems", url.Values{"customer": {"{customer}"}, "pending": {"true"}}, "", "", ""},
	{"GET", "/v1/invoices/upcoming", url.Values{"subscription": {"{subscription}"}}, "", "", "old"},
	{"POST", "/v1/invoices/create_preview", url.Values{"subscription": {"{subscription}"}}, "", "", "new"},
	{"POST", "/v1/invoices", url.Values{"customer": {"{customer}"}, "pending_invoice_items_behavior": {"include"}, "auto_advance": {"false"}}, "byhand", "", ""},
	{"POST", "/v1/invoices/{byhand}/finalize", nil, "", "", ""},
	{"POST", "/v1/subscriptions", url.Values{"customer": {"{customer}"}, "items[0][price]": {"{legacy}"}}, "subscription", "subscription", "old"},
	{"POST", "/v1/subscription_items/{item0}/usage_records", url.Values{"quantity": {"3"}, "timestamp": {unix(start)}, "action": {"set"}}, "", "usageRecord", "old"},
	{"GET", "/v1/subscription_items/{item0}/usage_record_summaries", nil, "", "usageRecordSummary", "old"},
	{"DELETE", "/v1/subscriptions/{subscription}", url.Values{"invoice_now": {"true"}}, "", "subscription", ""},
	{"DELETE", "/v1/products/{product}/features/{attached}", nil, "", "", ""},
	{"POST", "/v1/test_helpers/test_clocks/{clock}/advance", url.Values{"frozen_time": {unix(start.Add(time.Hour))}}, "", "", ""},
	{"DELETE", "/v1/test_helpers/test_clocks/{clock}", nil, "", "", ""},
	{"GET", "/v1/events", url.Values{"type": {"customer.created"}}, "", "", ""},
	{"GET", "/v1/events/{event}", nil, "", "", ""},
	{"DELETE", "/v1/customers/{customer}", nil, "", "customer", ""},
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
