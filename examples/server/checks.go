package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/health"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// buildHealth names what is watched. docs/operations.md says what to do about
// each.
func (a *app) buildHealth(context.Context) (err error) {
	roles, err := appRoles(a.config.appURL)
	if err != nil {
		return err
	}
	a.watch = &databaseWatch{control: a.control, canary: a.db.Canary}
	a.checks, err = health.New(&health.Options{
		Checks: []health.Check{
			{Name: "postgres", Run: a.db.Check, Criticality: health.Critical},
			{Name: "isolation", Run: a.db.CheckRoles, Criticality: health.Critical},
			{Name: "audit", Run: tenancy.AuditCheck(a.control, &tenancy.AuditOptions{Roles: roles}), Interval: 5 * time.Minute},
			{Name: "tenant_databases", Run: a.watch.check},
			{Name: "directory", Run: a.directory.Check, Startup: true},
			{Name: "api_keys", Run: a.keys.Check, Startup: true},
			{Name: "redis", Run: a.limiter.Check},
			{Name: "quota_journal", Run: a.checkJournal},
			{Name: "usage", Run: a.sink.Check},
			{Name: "usage_events", Run: a.ledger.Check, Interval: 5 * time.Minute},
			{Name: "stripe_catalog", Run: a.catalog.check},
			{Name: "billing_reporter", Run: a.worker.Check},
			{Name: "webhook_inbox", Run: a.inbox.Check},
			{Name: "provisioner", Run: a.state.Check},
		},
		TenantChecks: []health.TenantCheck{
			{Name: "serving", Run: a.checkServing},
			{Name: "rls_canary", Run: a.db.Canary},
			{Name: "billing", Run: a.checkTenantBilling},
		},
		Authorize:    a.authorizeHealth,
		ResolveToken: a.healthToken,
		Logger:       a.logger,
	})
	return err
}

// checkJournal reports that Redis has not been told of what was let through while
// it was away, and can't be: its own check says whether it is there.
func (a *app) checkJournal(ctx context.Context) error {
	if a.journal == nil {
		return nil
	}
	return a.journal.Check(ctx)
}

var errNotServed = errors.New("the tenant is not being served")

func (a *app) checkServing(_ context.Context, tenantID string) error {
	id, err := tenant.ParseID(tenantID)
	if err != nil {
		return err
	}
	if t, ok := a.directory.Lookup(id); !ok || !t.Status.Serves() {
		return errNotServed
	}
	return nil
}

func (a *app) checkTenantBilling(ctx context.Context, tenantID string) error {
	id, err := tenant.ParseID(tenantID)
	if err != nil {
		return err
	}
	return a.worker.CheckTenant(ctx, id)
}

// authorizeHealth lets the operator see everything and a tenant itself.
func (a *app) authorizeHealth(r *http.Request) (health.Access, bool) {
	if a.isOperator(r) {
		return health.Access{Operator: true}, true
	}
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return health.Access{}, false
	}
	t, err := a.keys.Authenticate(r.Context(), strings.TrimSpace(token))
	if err != nil || !t.HasScope(tenant.ScopeHealthRead) {
		return health.Access{}, false
	}
	return health.Access{TenantID: t.ID.String()}, true
}

// healthToken lets an API key that may do nothing else stand in a monitor's
// address: made by `key create`, revoked and expired like any other.
func (a *app) healthToken(token string) (string, bool) {
	t, err := a.keys.Authenticate(context.Background(), token)
	if err != nil || !slices.Equal(t.Scopes, []string{tenant.ScopeHealthRead}) {
		return "", false
	}
	return t.ID.String(), true
}

func (a *app) isOperator(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	return ok && user == "operator" &&
		subtle.ConstantTimeCompare([]byte(password), []byte(a.config.adminToken)) == 1
}
