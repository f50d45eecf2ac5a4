package stripetest

import (
	"net/url"
	"strings"
	"time"
)

type session struct {
	ID                string            `json:"id"`
	URL               string            `json:"url"`
	Mode              string            `json:"mode"`
	Status            string            `json:"status"` // open, complete, expired
	PaymentStatus     string            `json:"payment_status"`
	ClientReferenceID string            `json:"client_reference_id,omitempty"`
	Metadata          map[string]string `json:"metadata,omitempty"`
	SubMetadata       map[string]string `json:"sub_metadata,omitempty"`
	TrialDays         int64             `json:"trial_days,omitempty"`
	TrialWithout      string            `json:"trial_without,omitempty"` // a card: how the trial ends
	SuccessURL        string            `json:"success_url"`
	CancelURL         string            `json:"cancel_url,omitempty"`
	Customer          string            `json:"customer,omitempty"`
	Email             string            `json:"email,omitempty"` // asked for
	PaidBy            string            `json:"paid_by,omitempty"`
	Subscription      string            `json:"subscription,omitempty"`
	Payment           string            `json:"payment,omitempty"`       // intent
	MakeCustomer      bool              `json:"make_customer,omitempty"` // of who pays once
	Items             []*item           `json:"items"`
	Created           int64             `json:"created"`
	ExpiresAt         int64             `json:"expires_at"`
	Decline           string            `json:"decline,omitempty"` // what the page shows
	Failed            bool              `json:"failed,omitempty"`  // the payment that took days
}

// total is what is due at once, in the smallest unit.
func (e *Emulator) total(s *session) int64 {
	var sum int64
	if s.TrialDays > 0 {
		return 0
	}
	for _, it := range s.Items {
		if p := e.s.Prices.Rows[it.Price]; !p.Metered {
			sum += p.cost(it.Quantity)
		}
	}
	return sum
}

func (e *Emulator) sessionView(s *session) any {
	var page, details any
	if s.Status == "open" {
		page = s.URL
	}
	if email := firstOf(s.PaidBy, s.Email); email != "" {
		details = object{"email": email, "name": nil}
	}
	return object{
		"id": s.ID, "object": "checkout.session", "mode": s.Mode, "url": page, "status": s.Status,
		"payment_status": s.PaymentStatus, "client_reference_id": orNull(s.ClientReferenceID),
		"metadata": metadataOf(s.Metadata), "success_url": s.SuccessURL, "cancel_url": orNull(s.CancelURL),
		"customer": orNull(s.Customer), "customer_email": orNull(s.Email), "customer_details": details,
		"subscription": orNull(s.Subscription), "payment_intent": orNull(s.Payment), "created": s.Created, "expires_at": s.ExpiresAt,
		"amount_subtotal": e.total(s), "amount_total": e.total(s), "currency": "usd", "livemode": false, "payment_link": nil,
	}
}

func createSession(c *call) (any, error) {
	if err := c.p.require("mode", "line_items", "success_url"); err != nil {
		return nil, err
	}
	once := c.p.str("mode") == "payment"
	if !once && c.p.str("mode") != "subscription" {
		return nil, invalid("mode", "The emulator has the modes payment and subscription.")
	}
	if once && c.p.has("subscription_data") || !once && c.p.has("customer_creation") {
		return nil, invalid("mode", "You can not pass `subscription_data` in `payment` mode, nor `customer_creation` in `subscription` mode.")
	}
	if c.p.has("customer") && c.p.has("customer_email") {
		return nil, invalid("customer_email", "You may only specify one of these parameters: customer, customer_email.")
	}
	for _, name := range []string{"success_url", "cancel_url"} {
		u, err := url.Parse(strings.ReplaceAll(c.p.str(name), "{CHECKOUT_SESSION_ID}", "id"))
		if c.p.has(name) && (err != nil || u.Host == "") {
			return nil, &apiError{Status: 400, Code: "url_invalid", Param: name, Message: "Not a valid URL"}
		}
	}
	if c.p.has("customer") {
		if _, err := c.customer(c.p.str("customer"), "customer"); err != nil {
			return nil, err
		}
	}
	items, err := c.checkItems("line_items", c.p.list("line_items"), once)
	if err != nil {
		return nil, err
	}
	expires, err := c.p.number("expires_at", c.at.Add(24*time.Hour).Unix())
	if err != nil {
		return nil, err
	}
	if left := time.Unix(expires, 0).Sub(c.at.Truncate(time.Second)); left < 30*time.Minute || left > 24*time.Hour {
		return nil, invalid("expires_at", "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation.")
	}
	sub := params{}
	for inner, v := range c.p.object("subscription_data") {
		sub[strings.Replace(inner, "][", "[", 1)] = []string{v} // "metadata][a" -> "metadata[a"
	}
	s := &session{
		ID: "cs_test_" + randomText(58), Mode: c.p.str("mode"), Status: "open", PaymentStatus: "unpaid",
		ClientReferenceID: c.p.str("client_reference_id"), Metadata: c.p.object("metadata"), SubMetadata: map[string]string{},
		SuccessURL: c.p.str("success_url"), CancelURL: c.p.str("cancel_url"),
		MakeCustomer: c.p.str("customer_creation") == "always",
		Customer:     c.p.str("customer"), Email: c.p.str("customer_email"), Items: items,
		Created: c.at.Unix(), ExpiresAt: expires,
	}
	for name := range sub {
		if key, ok := strings.CutPrefix(name, "metadata["); ok {
			s.SubMetadata[key] = sub.str(name)
		}
	}
	if s.TrialDays, err = sub.number("trial_period_days", 0); err != nil {
		return nil, err
	}
	if c.p.str("payment_method_collection") == "if_required" && c.total(s) == 0 {
		// What Stripe does of itself without a setting is to bill, and to fail.
		if s.TrialWithout, err = trialEnd(sub.str("trial_settings[end_behavior][missing_payment_method")); err != nil {
			return nil, err
		}
	}
	s.URL = "http://" + c.r.Host + "/c/pay/" + s.ID
	c.s.Sessions.put(s.ID, s)
	return c.sessionView(s), nil
}

func getSession(c *call) (any, error) {
	s, ok := c.s.Sessions.get(c.id())
	if !ok {
		return nil, missing("checkout.session", c.id(), "id")
	}
	return c.sessionView(s), nil
}

func listSessions(c *call) (any, error) {
	return page(c, c.s.Sessions.all(), func(s *session) string { return s.ID }, func(s *session) bool {
		return (!c.p.has("customer") || s.Customer == c.p.str("customer")) &&
			(!c.p.has("subscription") || s.Subscription == c.p.str("subscription")) &&
			(!c.p.has("payment_intent") || s.Payment == c.p.str("payment_intent")) &&
			(!c.p.has("status") || s.Status == c.p.str("status"))
	}, func(s *session) any { return c.sessionView(s) })
}

func expireSession(c *call) (any, error) {
	s, ok := c.s.Sessions.get(c.id())
	if !ok {
		return nil, missing("checkout.session", c.id(), "id")
	}
	if s.Status != "open" {
		return nil, invalid("", "Only Checkout Sessions with a status in [\"open\"] can be expired. This Checkout Session has a status of "+s.Status+".")
	}
	c.expire(s)
	return c.sessionView(s), nil
}

// expire needs the lock.
func (e *Emulator) expire(s *session) {
	s.Status = "expired"
	e.emit("checkout.session.expired", e.sessionView(s))
}
