package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// tenantKeys are the API keys as onboarding wants them.
type tenantKeys struct{ *apikey.Store }

func (k tenantKeys) IssueFirst(ctx context.Context, id tenant.ID) error {
	_, err := k.Store.IssueFirst(ctx, id, apikey.Spec{
		Name: "first key", CreatedBy: "onboarding",
		Scopes: []string{tenant.ScopeTools, tenant.ScopeHealthRead},
	})
	return err
}

func (k tenantKeys) IssueProbe(ctx context.Context, id tenant.ID, ttl time.Duration) (string, error) {
	key, err := k.Issue(ctx, id, apikey.Spec{
		Name: "canary", CreatedBy: "onboarding",
		Scopes: []string{tenant.ScopeCanary}, ExpiresAt: time.Now().Add(ttl),
	})
	return key.Token, err
}

func (k tenantKeys) RevokeAll(ctx context.Context, id tenant.ID) error {
	_, err := k.Store.RevokeAll(ctx, id)
	return err
}

// usageExport puts a tenant's usage events into its archive.
type usageExport struct{ ledger *pgledger.Ledger }

func (u usageExport) Export(ctx context.Context, id tenant.ID, put func(string, func(io.Writer) (int64, error)) error) error {
	return put("usage_events.jsonl", func(w io.Writer) (rows int64, err error) {
		lines := json.NewEncoder(w)
		for event, err := range u.ledger.Events(ctx, id) {
			if err != nil {
				return rows, err
			}
			if err := lines.Encode(event); err != nil {
				return rows, err
			}
			rows++
		}
		return rows, nil
	})
}

// isolation is a tenant's place as onboarding wants it.
type isolation struct{ *office }

func (i isolation) Prepare(ctx context.Context, id tenant.ID) (string, error) {
	return i.prepare(ctx, id)
}

func (i isolation) Prove(ctx context.Context, id tenant.ID, marker string) error {
	return i.data.Prove(ctx, id, marker)
}

func (o *office) eraseRows(ctx context.Context, id tenant.ID) (map[string]int64, error) {
	receipt, err := o.erase(ctx, id)
	if receipt == nil {
		return nil, err
	}
	return receipt.Deleted(), err
}

// unsubscribe ends what the tenant pays for.
func (a *app) unsubscribe(ctx context.Context, id tenant.ID, _ string) error {
	subscriptions, err := a.ledger.Subscriptions(ctx, id)
	if err != nil {
		return err
	}
	for _, s := range subscriptions {
		if err := a.stripe.CancelSubscription(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// welcome is a step of the shop's own: a new tenant finds a few products in
// its catalogue. It runs as the tenant, under its policies, like any tool.
func (a *app) welcome(ctx context.Context, t *onboarding.Task) (any, error) {
	if err := a.directory.Sync(ctx); err != nil {
		return nil, err
	}
	ctx = tenant.NewContext(ctx, tenant.Tenant{ID: t.Tenant})
	return nil, tenancy.TenantTx(ctx, a.db, func(ctx context.Context, tx pgx.Tx) error {
		for i, name := range []string{"Anvil", "Birdseed", "Catapult"} {
			if _, err := tx.Exec(ctx, `
				insert into products (name, price_cents) values ($1, $2)
				on conflict (tenant_id, name) do nothing`, name, 1000*(i+1)); err != nil {
				return fmt.Errorf("welcome: %w", err)
			}
		}
		return nil
	})
}
