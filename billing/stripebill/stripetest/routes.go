package stripetest

import (
	"net/http"
	"strings"
)

// routes registers the API. After each path stand the parameters that it
// takes; any other is refused.
func (e *Emulator) routes() {
	const page = "limit starting_after ending_before "
	for _, r := range []struct {
		pattern, params string
		run             endpoint
	}{
		{"GET /v1/account", "", getAccount},
		{"GET /v1/balance", "", getBalance},

		{"POST /v1/customers", "email name description metadata test_clock", createCustomer},
		{"GET /v1/customers", page + "email created test_clock", listCustomers},
		{"GET /v1/customers/{id}", "", getCustomer},
		{"POST /v1/customers/{id}", "email name description metadata", updateCustomer},
		{"DELETE /v1/customers/{id}", "", deleteCustomer},

		{"POST /v1/products", "id name description active metadata", createProduct},
		{"GET /v1/products", page + "active ids", listProducts},
		{"GET /v1/products/{id}", "", getProduct},
		{"POST /v1/products/{id}", "name description active metadata", updateProduct},
		{"POST /v1/products/{id}/features", "entitlement_feature", attachFeature},
		{"GET /v1/products/{id}/features", page, listProductFeatures},
		{"DELETE /v1/products/{id}/features/{feature}", "", detachFeature},

		{"POST /v1/prices", "product product_data currency unit_amount unit_amount_decimal recurring lookup_key transfer_lookup_key nickname active metadata billing_scheme", createPrice},
		{"GET /v1/prices", page + "active lookup_keys product type currency", listPrices},
		{"GET /v1/prices/{id}", "", getPrice},
		{"POST /v1/prices/{id}", "active lookup_key transfer_lookup_key nickname metadata", updatePrice},

		{"POST /v1/billing/meters", "display_name event_name default_aggregation customer_mapping value_settings event_time_window", createMeter},
		{"GET /v1/billing/meters", page + "status", listMeters},
		{"GET /v1/billing/meters/{id}", "", getMeter},
		{"POST /v1/billing/meters/{id}", "display_name", updateMeter},
		{"POST /v1/billing/meters/{id}/deactivate", "", deactivateMeter},
		{"POST /v1/billing/meters/{id}/reactivate", "", reactivateMeter},
		{"GET /v1/billing/meters/{id}/event_summaries", page + "customer start_time end_time value_grouping_window", listSummaries},
		{"POST /v1/billing/meter_events", "event_name identifier payload timestamp", createMeterEvent},
		{"POST /v1/billing/meter_event_adjustments", "event_name type cancel", createAdjustment},

		{"POST /v1/checkout/sessions", "mode client_reference_id metadata subscription_data customer_creation success_url cancel_url line_items customer customer_email payment_method_collection allow_promotion_codes expires_at locale ui_mode", createSession},
		{"GET /v1/checkout/sessions", page + "customer subscription payment_intent status", listSessions},
		{"GET /v1/checkout/sessions/{id}", "", getSession},
		{"POST /v1/checkout/sessions/{id}/expire", "", expireSession},

		{"POST /v1/billing_portal/sessions", "customer return_url configuration locale", createPortal},
		{"POST /v1/billing_portal/configurations", "features business_profile default_return_url metadata", createPortalConfig},
		{"GET /v1/billing_portal/configurations", page + "active is_default", listPortalConfigs},
		{"GET /v1/billing_portal/configurations/{id}", "", getPortalConfig},
		{"POST /v1/billing_portal/configurations/{id}", "active features business_profile default_return_url metadata", updatePortalConfig},

		{"POST /v1/subscriptions", "customer items metadata cancel_at cancel_at_period_end trial_period_days trial_end trial_settings default_payment_method billing_thresholds proration_behavior payment_behavior description", createSubscription},
		{"GET /v1/subscriptions", page + "customer status price created test_clock", listSubscriptions},
		{"GET /v1/subscriptions/{id}", "", getSubscription},
		{"POST /v1/subscriptions/{id}", "items metadata cancel_at cancel_at_period_end pause_collection trial_end billing_thresholds proration_behavior payment_behavior description", updateSubscription},
		{"DELETE /v1/subscriptions/{id}", "invoice_now prorate cancellation_details", cancelSubscription},
		{"POST /v1/subscriptions/{id}/resume", "billing_cycle_anchor proration_behavior", resumeSubscription},
		{"GET /v1/subscription_items", page + "subscription", listItems},
		{"GET /v1/subscription_items/{id}", "", getItem},
		{"POST /v1/subscription_items/{id}/usage_records", "action quantity timestamp", createUsageRecord},
		{"GET /v1/subscription_items/{id}/usage_record_summaries", page, listUsageRecords},

		{"POST /v1/invoiceitems", "customer subscription invoice amount unit_amount unit_amount_decimal quantity currency description metadata period", createInvoiceItem},
		{"GET /v1/invoiceitems", page + "customer invoice pending created", listInvoiceItems},
		{"GET /v1/invoiceitems/{id}", "", getInvoiceItem},
		{"DELETE /v1/invoiceitems/{id}", "", deleteInvoiceItem},
		{"POST /v1/invoices", "customer subscription auto_advance pending_invoice_items_behavior description metadata collection_method", createInvoice},
		{"GET /v1/invoices", page + "customer subscription status created", listInvoices},
		{"GET /v1/invoices/upcoming", "customer subscription", upcomingInvoice},
		{"POST /v1/invoices/create_preview", "customer subscription", upcomingInvoice},
		{"GET /v1/invoices/{id}", "", getInvoice},
		{"GET /v1/invoices/{id}/lines", page, listLines},
		{"POST /v1/invoices/{id}/finalize", "auto_advance", finalizeInvoice},
		{"POST /v1/invoices/{id}/pay", "", payInvoice},
		{"POST /v1/invoices/{id}/void", "", voidInvoice},

		{"GET /v1/payment_intents/{id}", "", getPayment},
		{"GET /v1/charges", page + "customer payment_intent created", listCharges},
		{"GET /v1/charges/{id}", "", getCharge},
		{"POST /v1/refunds", "charge payment_intent amount reason metadata", createRefund},
		{"GET /v1/refunds", page + "charge payment_intent created", listRefunds},
		{"GET /v1/refunds/{id}", "", getRefund},

		{"POST /v1/entitlements/features", "lookup_key name metadata", createFeature},
		{"GET /v1/entitlements/features", page + "lookup_key", listFeatures},
		{"GET /v1/entitlements/features/{id}", "", getFeature},
		{"POST /v1/entitlements/features/{id}", "active name metadata", updateFeature},
		{"GET /v1/entitlements/active_entitlements", page + "customer", listEntitlements},

		{"POST /v1/test_helpers/test_clocks", "frozen_time name", createClock},
		{"GET /v1/test_helpers/test_clocks", page, listClocks},
		{"GET /v1/test_helpers/test_clocks/{id}", "", getClock},
		{"POST /v1/test_helpers/test_clocks/{id}/advance", "frozen_time", advanceClock},
		{"DELETE /v1/test_helpers/test_clocks/{id}", "", deleteClock},

		{"GET /v1/events", page + "type types delivery_success created", listEvents},
		{"GET /v1/events/{id}", "", getEvent},
		{"GET /v2/core/events", "limit object_id", listThinEvents},
		{"GET /v2/core/events/{id}", "", getThinEvent},
	} {
		allowed := strings.Fields(r.params)
		run := r.run
		e.endpoints[r.pattern] = true
		e.mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) { e.serve(w, req, allowed, run) })
	}
	e.mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) { e.serve(w, r, nil, unknownURL) })
	e.mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) { e.serve(w, r, nil, unknownURL) })
}

func unknownURL(c *call) (any, error) {
	return nil, &apiError{Status: http.StatusNotFound,
		Message: "Unrecognized request URL (" + c.r.Method + ": " + c.r.URL.Path + "). The emulator may not have it."}
}

func getAccount(*call) (any, error) {
	return object{"id": "acct_emulator", "object": "account", "charges_enabled": true, "country": "US", "default_currency": "usd"}, nil
}

func getBalance(*call) (any, error) {
	zero := []any{object{"amount": 0, "currency": "usd"}}
	return object{"object": "balance", "available": zero, "pending": zero, "livemode": false}, nil
}
