package stripebill_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
	"github.com/stretchr/testify/require"
)

// books are all that stands between a webhook and the plan of the next call: the
// handler, the inbox on PostgreSQL, the policy, and the directory that calls ask.
type books struct {
	db        *devtest.Database
	pool      *pgxpool.Pool
	ledger    *pgledger.Ledger
	inbox     *billing.InboxWorker
	hook      http.Handler
	directory *tenancy.Directory
}

var ledgerTemplate = devtest.Template{
	Name: "stripebill",
	Migrate: func(ctx context.Context, conn *pgx.Conn) error {
		if err := tenancy.Migrate(ctx, conn); err != nil {
			return err
		}
		return pgledger.Migrate(ctx, conn)
	},
}

func controlPool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	config.ConnConfig.RuntimeParams["role"] = tenancy.ControlRole
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// open returns books whose webhooks are signed by secret, and whose truth comes
// from source.
func openBooks(t testing.TB, source billing.Source, secrets []string, now, signed func() time.Time) *books {
	t.Helper()
	b := &books{db: devtest.DB(t, ledgerTemplate)}
	b.pool = controlPool(t, b.db.URL)
	var err error
	b.ledger, err = pgledger.New(b.pool, &pgledger.Options{Now: now})
	require.NoError(t, err)
	b.inbox, err = billing.NewInboxWorker(b.ledger, source, billing.SubscriberFunc(b.subscriber(now)),
		&billing.InboxOptions{Now: now, Logger: devtest.Logger(t)})
	require.NoError(t, err)
	b.hook, err = stripebill.NewWebhook(b.inbox, secrets, &stripebill.WebhookOptions{Now: signed})
	require.NoError(t, err)
	b.directory, err = tenancy.NewDirectory(b.pool, nil)
	require.NoError(t, err)
	return b
}

// subscriber writes the tenant as an application does: by the policy.
func (b *books) subscriber(now func() time.Time) func(context.Context, billing.Change) error {
	return func(ctx context.Context, c billing.Change) error {
		s := c.Subscription
		if s == nil {
			return nil
		}
		r := tenancy.Record{ID: c.Tenant, Plan: s.Plan, Status: tenant.Active, PeriodStart: s.PeriodStart, PeriodEnd: s.PeriodEnd}
		switch (billing.AccessPolicy{}).Access(*s, now()) {
		case billing.AccessLimited:
			r.Plan = tenant.Free
		case billing.AccessSuspended:
			r.Status = tenant.Suspended
		case billing.AccessDeprovision:
			r.Status = tenant.DeprovisionScheduled
		}
		return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
			if had, err := tenancy.LockTenant(ctx, tx, c.Tenant); err == nil && r.Plan == "" {
				r.Plan = had.Plan
			} else if err != nil && !errors.Is(err, tenancy.ErrUnknownTenant) {
				return err
			}
			_, err := tenancy.PutTenant(ctx, tx, r)
			return err
		})
	}
}

// webhook delivers a body as Stripe would.
func (b *books) webhook(body []byte, secret string, at time.Time) int {
	req := httptest.NewRequest(http.MethodPost, "/webhooks/stripe", bytesReader(body))
	req.Header.Set("Stripe-Signature", stripetest.Sign(body, secret, at))
	rec := httptest.NewRecorder()
	b.hook.ServeHTTP(rec, req)
	return rec.Code
}

// text returns a query's one value.
func (b *books) text(t testing.TB, sql string, args ...any) (s string) {
	t.Helper()
	require.NoError(t, b.pool.QueryRow(t.Context(), sql, args...).Scan(&s))
	return s
}

// nextCall is what the next call of a tenant finds: its plan and status.
func (b *books) nextCall(t testing.TB, id tenant.ID) tenant.Tenant {
	t.Helper()
	require.NoError(t, b.directory.Sync(t.Context()))
	found, ok := b.directory.Lookup(id)
	require.True(t, ok)
	return found
}

// shop is books for an emulated account, to which webhooks go over the network.
type shop struct {
	world
	*books
	front *httptest.Server
}

func openShop(t *testing.T, opts *stripetest.Options) shop {
	t.Helper()
	w := setup(t, opts)
	s := shop{world: w, books: openBooks(t, w.source, []string{w.stripe.WebhookSecret}, w.stripe.Now, func() time.Time { return start })}
	s.front = httptest.NewServer(s.hook)
	t.Cleanup(s.front.Close)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.directory.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	require.NoError(t, s.directory.Ready(t.Context()))
	_, err := w.client.EnsureCatalog(t.Context(), lifeCatalog)
	require.NoError(t, err)
	s.stripe.SetWebhookURL(s.front.URL)
	return s
}

var lifeCatalog = stripebill.Catalog{Plans: []stripebill.CatalogPlan{
	{Plan: "free", Name: "Free"},
	{Plan: "starter", Name: "Starter", Amount: 1900, Unit: "0.2"},
	{Plan: "pro", Name: "Pro", Amount: 4900, Unit: "0.1"},
}}

// settle waits until every webhook was taken and applies what came.
func (s shop) settle(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return len(s.stripe.Undelivered()) == 0 }, time.Minute, time.Millisecond)
	require.NoError(t, s.inbox.Drain(t.Context()))
}

// price returns the id of a price of the catalog.
func (s shop) price(t *testing.T, key string) string {
	t.Helper()
	return s.rawObject(t, http.MethodGet, "/v1/prices?lookup_keys[]="+key, "")["data"].([]any)[0].(map[string]any)["id"].(string)
}

// change moves a subscription to another plan, both its prices.
func (s shop) change(t *testing.T, subscription, from, to string) {
	t.Helper()
	sub := s.rawObject(t, http.MethodGet, "/v1/subscriptions/"+subscription, "")
	form := "proration_behavior=none"
	for i, item := range sub["items"].(map[string]any)["data"].([]any) {
		key := item.(map[string]any)["price"].(map[string]any)["lookup_key"].(string)
		n := string(rune('0' + i))
		form += "&items[" + n + "][id]=" + item.(map[string]any)["id"].(string) +
			"&items[" + n + "][price]=" + s.price(t, "mcpsaas:"+to+key[len("mcpsaas:"+from):])
	}
	s.rawObject(t, http.MethodPost, "/v1/subscriptions/"+subscription, form)
}
