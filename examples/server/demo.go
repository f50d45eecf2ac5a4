package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// demoID is the id of the n-th plan's demo tenant, the same at each start. The id
// of one that was deleted is never used again: the next generation follows.
func demoID(n, generation int) tenant.ID {
	return tenant.MustParseID(fmt.Sprintf("de300000-0000-4000-8000-%06x%06x", generation, n+1))
}

const demoKeyName = "demo"

// demoPatience is how long a demo tenant may take: after a kill, the leases of
// the dead server have to run out first.
const demoPatience = time.Minute

// demo is what -demo-json writes.
type demo struct {
	MCPURL          string       `json:"mcp_url"`
	HealthURL       string       `json:"health_url"`
	AdminURL        string       `json:"admin_url"`
	WebhookURL      string       `json:"webhook_url"`
	WebhookSecret   string       `json:"webhook_secret"`
	StripeAPIBase   string       `json:"stripe_api_base"`
	StripeSecretKey string       `json:"stripe_secret_key"`
	DatabaseURL     string       `json:"database_url"`
	AppDatabaseURL  string       `json:"app_database_url"`
	RedisURL        string       `json:"redis_url"`
	Tenants         []demoTenant `json:"tenants"`

	publicURL string
}

type demoTenant struct {
	ID             tenant.ID   `json:"id"`
	Plan           tenant.Plan `json:"plan"`
	APIKey         string      `json:"api_key"`
	StripeCustomer string      `json:"stripe_customer"`
	Placement      string      `json:"placement"`
}

// makeDemo brings one tenant per plan into being by the road that any customer
// takes: checkout, payment, webhook, provisioning. What is there already is
// left as it is, but for the keys: those of the last start are revoked.
func (a *app) makeDemo(ctx context.Context, adminURL string) (*demo, error) {
	c := a.config
	d := &demo{
		MCPURL: c.publicURL + "/mcp", HealthURL: c.publicURL + "/health", AdminURL: adminURL,
		WebhookURL: c.publicURL + "/webhooks/stripe", WebhookSecret: c.webhookSecrets()[0],
		StripeAPIBase: c.stripeBase, StripeSecretKey: c.stripeKey,
		DatabaseURL: c.databaseURL, AppDatabaseURL: c.appURL, RedisURL: c.redisURL,
		publicURL: c.publicURL,
	}
	for n, o := range offers {
		id, err := a.liveDemo(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("tenant of plan %s: %w", o.Plan, err)
		}
		record, err := a.demoTenant(ctx, id, o.Plan)
		if err != nil {
			return nil, fmt.Errorf("tenant of plan %s: %w", o.Plan, err)
		}
		key, err := a.demoKey(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("key for plan %s: %w", o.Plan, err)
		}
		d.Tenants = append(d.Tenants, demoTenant{ID: id, Plan: o.Plan, APIKey: key, StripeCustomer: record.Spec.Customer})
	}
	if err := a.directory.Sync(ctx); err != nil {
		return nil, err
	}
	for i, t := range d.Tenants {
		at, _, _ := a.directory.Placement(t.ID)
		d.Tenants[i].Placement = at.String()
	}
	return d, nil
}

// liveDemo returns the id of the first generation that has not left.
func (a *app) liveDemo(ctx context.Context, n int) (tenant.ID, error) {
	for generation := 0; ; generation++ {
		id := demoID(n, generation)
		record, err := a.provisioner.Tenant(ctx, id)
		if errors.Is(err, onboarding.ErrUnknownTenant) {
			return id, nil
		}
		if err != nil {
			return id, err
		}
		switch record.State {
		case tenant.Deprovisioning, tenant.DeprovisionFailed, tenant.Purging, tenant.Deleted, tenant.Cancelled:
		default:
			return id, nil
		}
	}
}

func (a *app) demoTenant(ctx context.Context, id tenant.ID, plan tenant.Plan) (onboarding.Record, error) {
	record, err := a.provisioner.Tenant(ctx, id)
	// What was suspended or is to leave is so by somebody's wish.
	if err == nil && (record.State.Serves() || record.State == tenant.Suspended || record.State == tenant.DeprovisionScheduled) {
		return record, nil
	}
	if err != nil && !errors.Is(err, onboarding.ErrUnknownTenant) {
		return onboarding.Record{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	if err != nil { // unknown
		if err := a.catalog.wait(ctx, demoPatience); err != nil {
			return onboarding.Record{}, err
		}
		checkout, err := a.stripe.CreateCheckout(ctx, stripebill.CheckoutRequest{
			Tenant: id, Plan: plan, Email: string(plan) + "@example.com",
			SuccessURL: a.config.publicURL + "/signup/return?session_id={CHECKOUT_SESSION_ID}",
			CancelURL:  a.config.publicURL + "/signup",
		})
		if err != nil {
			return onboarding.Record{}, err
		}
		if err := payAsBuyer(ctx, checkout.URL); err != nil {
			return onboarding.Record{}, err
		}
	}
	for {
		record, err := a.provisioner.Wait(ctx, id, tenant.Active)
		if !errors.Is(err, onboarding.ErrUnknownTenant) {
			return record, err
		}
		select { // the webhook is on its way
		case <-ctx.Done():
			return onboarding.Record{}, fmt.Errorf("no webhook arrived: %w", context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// payAsBuyer presses the button of the emulator's checkout page. Stripe's own
// page wants a card.
func payAsBuyer(ctx context.Context, page string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, page, nil)
	if err != nil {
		return err
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode >= 400 {
		u, _ := url.Parse(page)
		return fmt.Errorf("the checkout page of %s answered %s: only the emulator's can be paid by -demo", u.Host, res.Status)
	}
	return nil
}

func (a *app) demoKey(ctx context.Context, id tenant.ID) (string, error) {
	keys, err := a.keys.List(ctx, id)
	if err != nil {
		return "", err
	}
	for _, k := range keys {
		if k.Name == demoKeyName && k.RevokedAt.IsZero() {
			if err := a.keys.Revoke(ctx, k.ID); err != nil {
				return "", err
			}
		}
	}
	key, err := a.keys.Issue(ctx, id, apikey.Spec{
		Name: demoKeyName, CreatedBy: "-demo",
		Scopes: []string{tenant.ScopeTools, tenant.ScopeHealthRead},
	})
	return key.Token, err
}

// print tells a person what to try.
func (d *demo) print(w io.Writer) {
	fmt.Fprintf(w, "\nDemo tenants:\n")
	for _, t := range d.Tenants {
		fmt.Fprintf(w, "  %-10s  %s  %s  %s\n", t.Plan, t.ID, t.APIKey, tierOf(t.Placement))
	}
	key := d.Tenants[0].APIKey
	fmt.Fprintf(w, `
Try it:
  curl -s %s -H 'Authorization: Bearer %s' \
    -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \
    -d '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search_products","arguments":{"query":"anvil"}}}'

  %s/signup      buy a plan
  %s      health, for monitors

An MCP client takes this:
%s
`, d.MCPURL, key, d.publicURL, d.HealthURL, clientConfig(d.publicURL, key))
}

// write puts the demo where a program finds it, whole or not at all.
func (d *demo) write(path string) error {
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".demo-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n')) // CreateTemp makes it readable for the owner alone
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), path)
}
