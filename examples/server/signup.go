package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

//go:embed web/*.html
var webFiles embed.FS

var pages = template.Must(template.ParseFS(webFiles, "web/*.html"))

// signup sells: it sends a buyer to Stripe's checkout, and hands out the first
// API key to whoever comes back from it. Tenants buy units here as well.
type signup struct {
	stripe    *stripebill.Client
	keys      *apikey.Store
	ledger    *pgledger.Ledger
	lookup    func(tenant.ID) (tenant.Tenant, bool)
	publicURL string
	logger    *slog.Logger
	strangers bucket
}

func (s *signup) register(mux *http.ServeMux) {
	mux.HandleFunc("GET /signup", s.form(s.choose))
	mux.HandleFunc("POST /signup", s.form(s.begin))
	mux.HandleFunc("GET /signup/return", s.form(s.comeBack))
	mux.HandleFunc("POST /signup/return", s.form(s.claim))
	mux.HandleFunc("GET /units", s.form(s.choosePack))
	mux.HandleFunc("POST /units", s.form(s.buyPack))
	mux.HandleFunc("GET /units/return", s.form(s.bought))
}

// maxForm is the size of the largest form. A browser sends less than 200 bytes.
const maxForm = 16 << 10

// form reads a small form before next asks for its fields. It takes no
// multipart form, whose files net/http would keep on disk, however large.
func (s *signup) form(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
				s.fail(w, r, http.StatusRequestEntityTooLarge, "the form is larger than 16 KiB")
				return
			}
			s.fail(w, r, http.StatusBadRequest, "the form can't be read")
			return
		}
		next(w, r)
	}
}

// choose shows the plans; with ?plan= it goes straight to checkout, so that a
// link on a price list can.
func (s *signup) choose(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("plan") {
		s.begin(w, r)
		return
	}
	s.page(w, http.StatusOK, "signup.html", struct{ Plans []offer }{offers})
}

// begin opens a checkout for a new tenant. The tenant exists from the moment
// that Stripe says it is paid, not before.
func (s *signup) begin(w http.ResponseWriter, r *http.Request) {
	plan := tenant.Plan(r.Form.Get("plan"))
	if !sold(plan) {
		s.fail(w, r, http.StatusBadRequest, "unknown plan "+quote(string(plan))+": want one of "+planNames())
		return
	}
	if !s.mayAsk(w, r) {
		return
	}
	id := tenant.NewID()
	checkout, err := s.stripe.CreateCheckout(r.Context(), stripebill.CheckoutRequest{
		Tenant:     id,
		Plan:       plan,
		SuccessURL: s.publicURL + "/signup/return?session_id={CHECKOUT_SESSION_ID}",
		CancelURL:  s.publicURL + "/signup",
	})
	if err != nil {
		s.logger.ErrorContext(r.Context(), "checkout can't be opened", "plan", plan, "err", err)
		s.fail(w, r, http.StatusBadGateway, "the checkout can't be opened at the moment; try again in a minute")
		return
	}
	if wantsJSON(r) {
		s.json(w, http.StatusOK, map[string]any{"tenant": id, "session": checkout.ID, "url": checkout.URL})
		return
	}
	http.Redirect(w, r, checkout.URL, http.StatusSeeOther)
}

// mayAsk refuses a request that would cause one call to Stripe too many.
func (s *signup) mayAsk(w http.ResponseWriter, r *http.Request) bool {
	if s.strangers.take(time.Now()) {
		return true
	}
	w.Header().Set("Retry-After", "1")
	s.fail(w, r, http.StatusTooManyRequests, "too many sign-ups at once; try again in a second")
	return false
}

// returned is what the return page shows.
type returned struct {
	Session      string      `json:"session"`
	Tenant       tenant.ID   `json:"tenant"`
	Plan         tenant.Plan `json:"plan"`
	Ready        bool        `json:"ready"`
	Claimed      bool        `json:"claimed,omitempty"`
	Key          string      `json:"api_key,omitempty"`
	ClientConfig string      `json:"-"`
}

// readCheckout reads the checkout that a buyer comes back from. Its id can't be
// guessed: who knows it has been there.
func (s *signup) readCheckout(w http.ResponseWriter, r *http.Request) (stripebill.Checkout, bool) {
	if !s.mayAsk(w, r) {
		return stripebill.Checkout{}, false
	}
	id := r.Form.Get("session_id")
	checkout, err := s.stripe.Checkout(r.Context(), id)
	if errors.Is(err, stripebill.ErrNotFound) {
		s.fail(w, r, http.StatusNotFound, "session_id "+quote(id)+": no such checkout")
		return checkout, false
	}
	if err != nil {
		s.logger.ErrorContext(r.Context(), "checkout can't be read", "err", err)
		s.fail(w, r, http.StatusBadGateway, "the checkout can't be read at the moment; try again in a minute")
		return checkout, false
	}
	return checkout, true
}

func (s *signup) session(w http.ResponseWriter, r *http.Request) (returned, bool) {
	checkout, ok := s.readCheckout(w, r)
	switch {
	case !ok:
		return returned{}, false
	case checkout.Pack != "": // who pays for units may be anybody: the key isn't theirs
		s.fail(w, r, http.StatusNotFound, "this checkout was not for a plan")
		return returned{}, false
	case !checkout.Paid():
		s.fail(w, r, http.StatusPaymentRequired, "this checkout has not been paid")
		return returned{}, false
	}
	out := returned{Session: checkout.ID, Tenant: checkout.Tenant, Plan: checkout.Plan}
	if t, ok := s.lookup(checkout.Tenant); ok {
		out.Ready, out.Plan = t.Status.Serves(), t.Plan
	}
	return out, true
}

func (s *signup) comeBack(w http.ResponseWriter, r *http.Request) {
	if out, ok := s.session(w, r); ok {
		s.show(w, r, out)
	}
}

// claim shows the first key, once. It is a POST so that no preview of a link
// spends it.
func (s *signup) claim(w http.ResponseWriter, r *http.Request) {
	out, ok := s.session(w, r)
	if !ok {
		return
	}
	if out.Ready {
		token, err := s.keys.Claim(r.Context(), out.Tenant)
		switch {
		case errors.Is(err, apikey.ErrClaimed):
			out.Ready, out.Claimed = false, true
		case err != nil:
			s.logger.ErrorContext(r.Context(), "first key can't be handed out", "tenant", out.Tenant, "err", err)
			s.fail(w, r, http.StatusServiceUnavailable, "the key can't be shown at the moment; try again in a minute")
			return
		default:
			out.Key, out.ClientConfig = token, clientConfig(s.publicURL, token)
		}
	}
	s.show(w, r, out)
}

func (s *signup) show(w http.ResponseWriter, r *http.Request, out returned) {
	w.Header().Set("Cache-Control", "no-store")
	if wantsJSON(r) {
		s.json(w, http.StatusOK, out)
		return
	}
	s.page(w, http.StatusOK, "return.html", out)
}

func (s *signup) page(w http.ResponseWriter, status int, name string, data any) {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, data); err != nil {
		s.logger.Error("page can't be drawn", "page", name, "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action *; frame-ancestors 'none'; base-uri 'none'")
	w.Header().Set("Referrer-Policy", "no-referrer") // the session id is in the address
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

func (s *signup) json(w http.ResponseWriter, status int, data any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(data)
}

func (s *signup) fail(w http.ResponseWriter, r *http.Request, status int, message string) {
	if wantsJSON(r) {
		s.json(w, status, map[string]string{"error": message})
		return
	}
	http.Error(w, message, status)
}

func wantsJSON(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "application/json")
}

// clientConfig is what a person pastes into an MCP client.
func clientConfig(publicURL, token string) string {
	b, _ := json.MarshalIndent(map[string]any{"mcpServers": map[string]any{"shop": map[string]any{
		"type":    "http",
		"url":     publicURL + "/mcp",
		"headers": map[string]string{"Authorization": "Bearer " + token},
	}}}, "", "  ")
	return string(b)
}
