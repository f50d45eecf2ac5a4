package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// pack is a number of units that is paid for before they are used.
type pack struct {
	Name  string // in the catalog at Stripe
	Title string
	Cents int64
	Units int64
	Days  int
}

// Price is for a reader.
func (p pack) Price() string { return money(p.Cents) }

var packs = []pack{
	{"units-100k", "100,000 units", 8000, 100_000, 365},
	{"units-1m", "1,000,000 units", 60000, 1_000_000, 365},
}

var (
	errNoPack = errors.New("unknown pack: want one of " + packNames())
	errGratis = errors.New("the units of this plan cost nothing: there is nothing to buy")
)

func packNames() string {
	names := make([]string, len(packs))
	for i, p := range packs {
		names[i] = p.Name
	}
	return strings.Join(names, ", ")
}

// sellPack opens a checkout for a pack, as the customer that the tenant is at
// Stripe.
func sellPack(ctx context.Context, stripe *stripebill.Client, ledger *pgledger.Ledger, id tenant.ID, plan tenant.Plan, name, attempt, publicURL string) (stripebill.Checkout, error) {
	if !slices.ContainsFunc(packs, func(p pack) bool { return p.Name == name }) {
		return stripebill.Checkout{}, errNoPack
	}
	if i := slices.IndexFunc(offers, func(o offer) bool { return o.Plan == plan }); i < 0 || offers[i].Unit == "0" {
		return stripebill.Checkout{}, errGratis
	}
	customer, err := ledger.Customer(ctx, id)
	if err != nil && !errors.Is(err, pgledger.ErrNotFound) { // who was made without a checkout has none
		return stripebill.Checkout{}, err
	}
	return stripe.CreateCheckout(ctx, stripebill.CheckoutRequest{
		Tenant: id, Pack: name, Customer: customer, Attempt: attempt,
		SuccessURL: publicURL + "/units/return?session_id={CHECKOUT_SESSION_ID}",
		CancelURL:  publicURL + "/units",
	})
}

// choosePack shows the packs.
func (s *signup) choosePack(w http.ResponseWriter, r *http.Request) {
	s.page(w, http.StatusOK, "units.html", struct {
		Packs   []pack
		Attempt string // a double click is one attempt
	}{packs, rand.Text()})
}

// buyPack opens a checkout for the tenant whose API key was given: in the form, or
// as a bearer token. The units are there once Stripe says that they are paid.
func (s *signup) buyPack(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		token = r.PostForm.Get("api_key") // never from the address, which is logged on its way
	}
	t, err := s.keys.Authenticate(r.Context(), strings.TrimSpace(token))
	switch {
	case errors.Is(err, tenant.ErrUnauthenticated):
		s.fail(w, r, http.StatusUnauthorized, "this is no valid API key")
		return
	case err != nil:
		s.fail(w, r, http.StatusServiceUnavailable, "the key can't be judged at the moment; try again in a second")
		return
	case !t.Status.Serves():
		s.fail(w, r, http.StatusForbidden, "this tenant is "+string(t.Status)+": it can buy nothing")
		return
	}
	if !s.mayAsk(w, r) {
		return
	}
	attempt := r.PostForm.Get("attempt")
	if attempt == "" {
		attempt = rand.Text()
	}
	checkout, err := sellPack(r.Context(), s.stripe, s.ledger, t.ID, t.Plan, r.PostForm.Get("pack"), attempt, s.publicURL)
	switch {
	case errors.Is(err, errNoPack):
		s.fail(w, r, http.StatusBadRequest, err.Error())
		return
	case errors.Is(err, errGratis):
		s.fail(w, r, http.StatusConflict, err.Error())
		return
	case err != nil:
		s.logger.ErrorContext(r.Context(), "checkout can't be opened", "tenant", t.ID, "err", err)
		s.fail(w, r, http.StatusBadGateway, "the checkout can't be opened at the moment; try again in a minute")
		return
	}
	if wantsJSON(r) {
		s.json(w, http.StatusOK, map[string]any{"tenant": t.ID, "session": checkout.ID, "url": checkout.URL})
		return
	}
	http.Redirect(w, r, checkout.URL, http.StatusSeeOther)
}

// bought is where a buyer comes back to.
func (s *signup) bought(w http.ResponseWriter, r *http.Request) {
	checkout, ok := s.readCheckout(w, r)
	if !ok {
		return
	}
	i := slices.IndexFunc(packs, func(p pack) bool { return p.Name == checkout.Pack })
	if i < 0 {
		s.fail(w, r, http.StatusNotFound, "this checkout was not for units")
		return
	}
	s.page(w, http.StatusOK, "bought.html", struct {
		Pack pack
		Paid bool // a bank debit takes days
	}{packs[i], checkout.Paid()})
}

// billingCheckout opens a checkout for a tenant, and prints where to pay.
func billingCheckout(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("billing checkout", args, 2, 2); err != nil {
		return err
	}
	id, err := parseTenant(args[0])
	if err != nil {
		return err
	}
	if err := needPublicURL(env); err != nil {
		return err
	}
	return withDesk(ctx, env, func(ctx context.Context, d *desk) error {
		r, err := d.provisioner.Tenant(ctx, id)
		if err != nil {
			return named(id, err)
		}
		if !r.State.Serves() {
			return fmt.Errorf("tenant %s is %s: it can buy nothing", id, r.State)
		}
		checkout, err := sellPack(ctx, d.stripe, d.ledger, id, r.Spec.Plan, args[1], rand.Text(), env.config.publicURL)
		if errors.Is(err, errNoPack) || errors.Is(err, errGratis) {
			return usagef("%w", err)
		}
		if err != nil {
			return err
		}
		return env.print(map[string]any{"tenant": id, "session": checkout.ID, "url": checkout.URL, "expires_at": checkout.ExpiresAt}, func() {
			fmt.Fprintf(env.stdout, "%s\nuntil %s\n", checkout.URL, checkout.ExpiresAt.Format(time.RFC3339))
		})
	})
}
