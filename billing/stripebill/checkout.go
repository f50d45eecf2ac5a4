package stripebill

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// CheckoutRequest asks for a page on which a tenant pays for a plan, or for a
// pack of units.
type CheckoutRequest struct {
	Tenant tenant.ID   // required
	Plan   tenant.Plan // a plan of the catalog
	Pack   string      // a pack of the catalog; of Plan and Pack exactly one

	// SuccessURL is where the browser goes after payment. Stripe replaces
	// {CHECKOUT_SESSION_ID} in it. Required, absolute.
	SuccessURL string
	// CancelURL is where the browser goes when the buyer turns back. Required,
	// absolute.
	CancelURL string

	// Email fills in the buyer's address. Optional.
	Email string
	// Customer is the tenant's customer at Stripe if there is one already, so
	// that all its subscriptions are found together. Optional.
	Customer string

	// Attempt tells apart checkouts that are otherwise the same. Within a day
	// the same request with the same Attempt gives the same session, so a
	// double click doesn't make two; a tenant that comes back later, or after
	// Stripe failed, wants another. Optional.
	Attempt string
}

// Checkout is how a checkout session stands.
type Checkout struct {
	ID            string
	URL           string // the page to pay on; empty once it can't be paid any more
	Status        string // "open", "complete" or "expired"
	PaymentStatus string // "paid", "unpaid" or "no_payment_required"
	Tenant        tenant.ID
	Plan          tenant.Plan
	Pack          string
	Email         string
	Customer      string
	Subscription  string
	ExpiresAt     time.Time
}

// Paid reports whether the session is complete and nothing is owed on it: the
// condition for giving the tenant what it asked for.
func (c Checkout) Paid() bool {
	return c.Status == "complete" && (c.PaymentStatus == "paid" || c.PaymentStatus == "no_payment_required")
}

// CreateCheckout makes a checkout session: for a subscription to the flat and,
// where there is one, the metered price of the plan; or for one payment for a
// pack. The tenant's id goes into the session's client_reference_id and metadata
// and into the subscription's metadata, so that every later message leads back to
// the tenant. The catalog must be in place ([Client.EnsureCatalog]); else the
// error matches [ErrNotFound].
func (c *Client) CreateCheckout(ctx context.Context, r CheckoutRequest) (Checkout, error) {
	if err := r.check(); err != nil {
		return Checkout{}, fmt.Errorf("stripebill: create checkout: %w", err)
	}
	ask := c.planForm
	if r.Pack != "" {
		ask = c.packForm
	}
	form, err := ask(ctx, r)
	if err != nil {
		return Checkout{}, fmt.Errorf("stripebill: create checkout: %w", err)
	}
	id := r.Tenant.String()
	form.Set("client_reference_id", id)
	form.Set("metadata[tenant_id]", id)
	form.Set("success_url", r.SuccessURL)
	form.Set("cancel_url", r.CancelURL)
	switch {
	case r.Customer != "":
		form.Set("customer", r.Customer)
	case r.Email != "":
		form.Set("customer_email", r.Email)
	}
	var out checkoutSession
	// A session too many does no harm: nobody pays it, and it expires.
	again := func() bool { return false }
	if err := c.create(ctx, "/v1/checkout/sessions", c.derivedKey("checkout", form, r.Attempt), form, &out, again); err != nil {
		return Checkout{}, fmt.Errorf("stripebill: create checkout: %w", err)
	}
	if !validID("cs_", out.ID) || out.URL == "" {
		return Checkout{}, fmt.Errorf("stripebill: create checkout: %w", errForeignAnswer)
	}
	return checkoutOf(out), nil
}

// planForm asks for a session in which a plan is subscribed to.
func (c *Client) planForm(ctx context.Context, r CheckoutRequest) (url.Values, error) {
	prices, err := c.pricesByKey(ctx, c.flatKeyOf(r.Plan), c.usageKeyOf(r.Plan))
	if err != nil {
		return nil, err
	}
	flat, ok := prices[c.flatKeyOf(r.Plan)]
	if !ok {
		return nil, fmt.Errorf("no price for plan %.40q: %w", r.Plan, ErrNotFound)
	}
	form := url.Values{
		"mode":                                   {"subscription"},
		"metadata[plan]":                         {string(r.Plan)},
		"subscription_data[metadata][tenant_id]": {r.Tenant.String()},
		"subscription_data[metadata][plan]":      {string(r.Plan)},
		"line_items[0][price]":                   {flat.ID},
		"line_items[0][quantity]":                {"1"},
	}
	usage, metered := prices[c.usageKeyOf(r.Plan)]
	if metered {
		form.Set("line_items[1][price]", usage.ID) // Stripe refuses a quantity here
	} else if flat.UnitAmount == "0" {
		form.Set("payment_method_collection", "if_required") // nothing to pay: no card to ask for
	}
	return form, nil
}

// Checkout reads a session back, for the page that the buyer returns to. The
// id may be what came in the query: a malformed one matches [ErrNotFound], as
// does one of a session that isn't about a tenant.
func (c *Client) Checkout(ctx context.Context, id string) (Checkout, error) {
	session, err := readSession(ctx, c, id)
	if err != nil {
		return Checkout{}, fmt.Errorf("stripebill: checkout: %w", err)
	}
	out := checkoutOf(session)
	if out.Tenant.IsZero() {
		return Checkout{}, fmt.Errorf("stripebill: checkout: %w", ErrNotFound)
	}
	return out, nil
}

// PortalURL makes a short-lived link to Stripe's customer portal, where the
// customer changes cards and plan and reads invoices. returnURL is where its
// back link leads.
func (c *Client) PortalURL(ctx context.Context, customer, returnURL string) (string, error) {
	if !validID("cus_", customer) {
		return "", fmt.Errorf("stripebill: portal: customer %.40q: %w", customer, ErrNotFound)
	}
	if !absolute(returnURL) {
		return "", fmt.Errorf("stripebill: portal: return URL %.80q: want an absolute URL", returnURL)
	}
	var out struct {
		URL string `json:"url"`
	}
	form := url.Values{"customer": {customer}, "return_url": {returnURL}}
	if err := c.post(ctx, "/v1/billing_portal/sessions", "", form, &out); err != nil {
		return "", fmt.Errorf("stripebill: portal: %w", err)
	}
	if out.URL == "" {
		return "", fmt.Errorf("stripebill: portal: %w", errForeignAnswer)
	}
	return out.URL, nil
}

// CancelSubscription ends a subscription now and bills the usage that has not
// been billed yet. One that has ended already is left as it is. Flush the
// usage first: what is reported later is not billed.
func (c *Client) CancelSubscription(ctx context.Context, id string) error {
	path, err := object("subscriptions", "sub_", id)
	if err != nil {
		return fmt.Errorf("stripebill: cancel subscription: %w", err)
	}
	form := url.Values{"invoice_now": {"true"}, "prorate": {"false"}}
	var out subscription
	_, err = c.do(ctx, request{method: http.MethodDelete, path: path, form: form}, &out)
	if errors.Is(err, ErrNotFound) {
		// So Stripe answers for a subscription that was cancelled before, and
		// for one that never was.
		if sub, err := readSubscription(ctx, c, id); err != nil || sub.Status != "canceled" && sub.Status != "incomplete_expired" {
			return fmt.Errorf("stripebill: cancel subscription: %w", errors.Join(ErrNotFound, err))
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("stripebill: cancel subscription: %w", err)
	}
	return nil
}

func (r CheckoutRequest) check() error {
	var errs []error
	if r.Tenant.IsZero() {
		errs = append(errs, tenant.ErrNone)
	}
	switch {
	case r.Plan != "" && r.Pack != "":
		errs = append(errs, errors.New("Plan, Pack: want one of them"))
	case r.Pack != "" && !planForm.MatchString(r.Pack):
		errs = append(errs, fmt.Errorf("pack %.40q: want 1 to 40 of a-z, 0-9, '-' and '_'", r.Pack))
	case r.Pack == "" && !planForm.MatchString(string(r.Plan)):
		errs = append(errs, fmt.Errorf("plan %.40q: want 1 to 40 of a-z, 0-9, '-' and '_'", r.Plan))
	}
	if !absolute(r.SuccessURL) {
		errs = append(errs, fmt.Errorf("SuccessURL %.80q: want an absolute URL", r.SuccessURL))
	}
	if !absolute(r.CancelURL) {
		errs = append(errs, fmt.Errorf("CancelURL %.80q: want an absolute URL", r.CancelURL))
	}
	if at := strings.IndexByte(r.Email, '@'); r.Email != "" &&
		(at < 1 || at == len(r.Email)-1 || len(r.Email) > 512 || strings.ContainsFunc(r.Email, func(c rune) bool { return c <= ' ' })) {
		errs = append(errs, fmt.Errorf("Email %.80q: want an e-mail address", r.Email))
	}
	if r.Customer != "" && !validID("cus_", r.Customer) {
		errs = append(errs, fmt.Errorf("Customer %.40q: want an id that begins with cus_", r.Customer))
	}
	return errors.Join(errs...)
}

func absolute(s string) bool {
	// The template that Stripe replaces is no URL by itself.
	u, err := url.Parse(strings.ReplaceAll(s, "{CHECKOUT_SESSION_ID}", "x"))
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != ""
}

func checkoutOf(s checkoutSession) Checkout {
	t, _ := tenantOf(s.Metadata)
	return Checkout{
		ID:            s.ID,
		URL:           s.URL,
		Status:        s.Status,
		PaymentStatus: s.PaymentStatus,
		Tenant:        t,
		Plan:          tenant.Plan(s.Metadata[metaPlan]),
		Pack:          s.Metadata[metaPack],
		Email:         s.email(),
		Customer:      string(s.Customer),
		Subscription:  string(s.Subscription),
		ExpiresAt:     s.ExpiresAt.time(),
	}
}

// derivedKey makes an idempotency key from what is asked for, so that asking
// twice is asking once, from whichever replica.
func (c *Client) derivedKey(kind string, form url.Values, more string) string {
	sum := sha256.Sum256([]byte(form.Encode() + "\n" + more)) // Encode sorts by key
	return c.namespace + ":" + kind + ":" + hex.EncodeToString(sum[:16])
}
