package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/redis/go-redis/v9"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/health"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/alert"
	"github.com/mcpsaas/mcpsaas/metering/redisquota"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/onboarding/pgstate"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// toolTimeout ends a tool call; a tenant that is leaving is drained by waiting
// it out.
const toolTimeout = 15 * time.Second

// What a server had in hand when it was killed, the next one takes over when
// the lease runs out: these are shorter than the defaults, since buyers wait
// for it. Taking over too early costs a call more, never a wrong result.
const (
	noticeTimeout    = 8 * time.Second
	noticeLease      = 10 * time.Second
	batchLease       = 15 * time.Second
	provisionerLease = 5 * time.Second
)

// controlConns is the least size of the control pool.
const controlConns = 16

// stallMargin is how long usage and notices of Stripe may wait, beyond what is
// planned, before health tells of it: longer than a lease and a few retries.
const stallMargin = 30 * time.Second

// office is the part of the product that commands need as well as the server:
// the books, without anything that serves.
type office struct {
	control     *pgxpool.Pool
	ownerURL    string
	appURL      string // may be empty for a command
	databases   databaseTier
	data        *tenancy.Data
	directory   *tenancy.Directory
	keys        *apikey.Store
	ledger      *pgledger.Ledger
	state       *pgstate.Store
	provisioner *onboarding.Provisioner // without steps: it raises what is desired
	logger      *slog.Logger
}

// openControl connects to the database as the control role, and reaches from there
// every tenant's place as its owner.
func openControl(ctx context.Context, c *config) (*pgxpool.Pool, *tenancy.Data, error) {
	cfg, err := tenancy.ControlConfig(c.databaseURL)
	if err != nil {
		return nil, nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	// Followers of tables keep connections, and so do exports and moves.
	cfg.MaxConns = max(cfg.MaxConns, controlConns)
	control, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	data, err := tenancy.NewData(control, &tenancy.DataOptions{
		Databases: c.databases.resolver(c.databaseURL, asOwner), Files: shopFiles,
	})
	if err != nil {
		control.Close()
		return nil, nil, err
	}
	return control, data, nil
}

func openOffice(ctx context.Context, c *config, logger *slog.Logger) (*office, error) {
	if c.databaseURL == "" {
		return nil, usagef("DATABASE_URL is not set (-database-url)")
	}
	o := &office{ownerURL: c.databaseURL, appURL: c.appURL, databases: c.databases, logger: logger}
	var err error
	if o.control, o.data, err = openControl(ctx, c); err != nil {
		return nil, err
	}
	if err := o.build(c); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

func (o *office) build(c *config) (err error) {
	if o.directory, err = tenancy.NewDirectory(o.control, &tenancy.DirectoryOptions{Logger: o.logger}); err != nil {
		return err
	}
	if o.keys, err = apikey.New(o.control, o.directory, [][]byte{[]byte(c.pepper)}, &apikey.Options{Logger: o.logger}); err != nil {
		return err
	}
	if o.ledger, err = pgledger.New(o.control, &pgledger.Options{Late: late, InvoiceItem: stripebill.InvoiceItem}); err != nil {
		return err
	}
	if o.state, err = pgstate.New(o.control, &pgstate.Options{Place: c.databases.place, PlanChanged: applyCap}); err != nil {
		return err
	}
	o.provisioner, err = onboarding.New(o.state, onboarding.Steps{}, &onboarding.Options{Logger: o.logger})
	return err
}

func (o *office) close() {
	o.data.Close()
	o.control.Close()
}

// usageSink is where usage waits until the ledger has it.
type usageSink interface {
	usage.Sink
	Run(ctx context.Context, store usage.Store) error
	Flush(ctx context.Context) error
	Check(ctx context.Context) error
}

// app is the product, assembled.
type app struct {
	*office
	db      *tenancy.DB
	redis   *redis.Client
	limiter *redisquota.Limiter
	alerts  *redisquota.Alerts
	sender  *alert.Sender
	spool   *usage.Spool // nil where usage waits in Redis
	journal *usage.Spool // of what Redis could not be told; nil where there is no disk
	sink    usageSink
	meter   *metering.Meter
	metrics *metrics
	stripe  *stripebill.Client
	catalog *catalogKeeper
	reports *reporting
	worker  *billing.Worker
	inbox   *billing.InboxWorker
	checks  *health.Aggregator
	watch   *databaseWatch
	mcp     http.Handler // the MCP endpoint with authentication, as the canary calls it
	config  *config
	extend  func(*app, *mcp.Server)
}

// newApp assembles the product from settings that are all there. It starts
// nothing; see work.
func newApp(ctx context.Context, c *config, logger *slog.Logger, extend func(*app, *mcp.Server)) (_ *app, err error) {
	a := &app{config: c, metrics: newMetrics(), extend: extend}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.office, err = openOffice(ctx, c, logger); err != nil {
		return nil, err
	}
	for _, build := range []func(context.Context) error{a.buildTenancy, a.buildMetering, a.buildBilling, a.buildMCP, a.buildOnboarding, a.buildHealth} {
		if err := build(ctx); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *app) buildTenancy(ctx context.Context) (err error) {
	if a.db, err = tenancy.Open(ctx, a.config.appURL, &tenancy.Options{
		Directory: a.directory,
		Databases: &tenancy.DatabasesOptions{Resolver: a.databases.resolver(a.config.appURL, asApp)},
		Limits:    limits,
		Replica:   a.config.replicaURL,
		Logger:    a.logger,
	}); err != nil {
		return fmt.Errorf("APP_DATABASE_URL: %w", err)
	}
	return nil
}

func (a *app) buildMetering(context.Context) (err error) {
	if a.redis, err = redisquota.NewClient(a.config.redisURL); err != nil {
		return fmt.Errorf("REDIS_URL: %w", err)
	}
	if a.limiter, err = redisquota.New(a.redis, nil); err != nil {
		return err
	}
	if a.config.usageSink == sinkStream {
		a.sink, err = redisquota.NewStream(a.redis, &redisquota.StreamOptions{Budget: a.config.budget, AlarmAge: stallMargin, Logger: a.logger})
	} else {
		a.spool, err = usage.OpenSpool(a.config.spoolDir, &usage.SpoolOptions{
			AlarmAge: stallMargin, DrainTimeout: time.Second, Logger: a.logger, // stop has flushed it before
		})
		a.sink = a.spool
	}
	if err != nil {
		return fmt.Errorf("USAGE_SINK, SPOOL_DIR: %w", err)
	}
	if a.alerts, err = redisquota.NewAlerts(a.redis, nil); err != nil {
		return err
	}
	if a.sender, err = newSender(a.config, alert.EndpointsFunc(a.endpoint)); err != nil {
		return err
	}
	opts := &metering.Options{
		Tools:   tools,
		Plans:   plans,
		Alerts:  &metering.AlertOptions{Tell: a.tell, Store: a.alerts, OwnPercent: a.ownPercent, LimitPercent: map[string][]int{spendLimit: {50, 80, 100}}},
		Budget:  a.config.budget,
		Ledger:  a.ledger,
		Logger:  a.logger,
		Observe: a.metrics.observe,
	}
	if a.config.spoolDir != "" {
		a.journal, err = usage.OpenJournal(filepath.Join(a.config.spoolDir, "quota"), &usage.SpoolOptions{DrainTimeout: time.Second, Logger: a.logger})
		if err != nil {
			return fmt.Errorf("SPOOL_DIR: %w", err)
		}
		opts.Journal = a.journal
	}
	a.meter, err = metering.New(a.limiter, a.sink, opts)
	return err
}

func (a *app) buildBilling(context.Context) (err error) {
	if a.stripe, err = stripebill.New(a.config.stripeKey, &stripebill.Options{APIBase: a.config.stripeBase, Logger: a.logger}); err != nil {
		return fmt.Errorf("STRIPE_SECRET_KEY, STRIPE_API_BASE: %w", err)
	}
	a.catalog = newCatalogKeeper(a.stripe, a.logger)
	if a.reports, err = newReporting(a.config, a.stripe); err != nil {
		return err
	}
	if a.worker, err = billing.NewWorker(a.ledger, a.reports, &billing.WorkerOptions{
		Interval:   a.config.report,
		Lease:      batchLease,
		StallAfter: 2*a.config.report + stallMargin,
		Logger:     a.logger,
	}); err != nil {
		return err
	}
	a.inbox, err = billing.NewInboxWorker(a.ledger, billing.Route(stripebill.NewSource(a.stripe, nil), a.reports.route), billing.SubscriberFunc(a.applySubscription), &billing.InboxOptions{
		Flush:      a.flushUsage,
		Timeout:    noticeTimeout,
		Lease:      noticeLease,
		StallAfter: stallMargin,
		Logger:     a.logger,
	})
	return err
}

func (a *app) buildMCP(ctx context.Context) error {
	server := mcp.NewServer(&mcp.Implementation{Name: "shop", Title: "Shop catalogue", Version: "v1.0.0"}, mcptenant.ServerOptions(nil))
	server.AddReceivingMiddleware(
		mcptenant.Middleware(&mcptenant.MiddlewareOptions{
			Timeout:    toolTimeout,
			SupportURL: a.config.publicURL + "/signup",
			OnFault:    a.metrics.fault,
			Logger:     a.logger,
		}),
		a.meter.Middleware(),
	)
	s := &shop{db: a.db}
	mcp.AddTool(server, &mcp.Tool{Name: "search_products", Description: "Finds products of your catalogue by a part of their name. Costs 1 unit.",
		Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}}, metering.WithMetering(a.meter, "search_products", s.search))
	mcp.AddTool(server, &mcp.Tool{Name: "add_product", Description: "Adds a product to your catalogue. Costs 1 unit."},
		metering.WithMetering(a.meter, "add_product", s.add))
	mcp.AddTool(server, &mcp.Tool{Name: "generate_report", Description: "Sums up your catalogue, with progress. Costs 20 units.",
		Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}}, metering.WithMetering(a.meter, "generate_report", s.report))
	a.meter.AddUsage(server, &metering.UsageOptions{Totals: a.totals, Grants: a.grants})
	tool, handler := onboarding.HealthCheckTool(a.db)
	mcp.AddTool(server, tool, metering.WithMetering(a.meter, tool.Name, handler))
	if err := a.meter.Coverage(ctx, server); err != nil {
		return err
	}
	if a.extend != nil {
		a.extend(a, server)
	}

	opts := &mcp.StreamableHTTPOptions{Stateless: true, PropagateRequestCancellation: true, Logger: a.logger}
	if a.config.stateful {
		opts = &mcp.StreamableHTTPOptions{SessionTimeout: 30 * time.Minute, Logger: a.logger}
	}
	a.mcp = mcptenant.Authenticate(a.keys,
		mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, opts),
		&mcptenant.Options{
			ResourceMetadataURL: a.config.publicURL + mcptenant.ResourceMetadataPath + "/mcp",
			Logger:              a.logger,
		})
	return nil
}

func (a *app) buildOnboarding(context.Context) error {
	canary, err := onboarding.NewCanary(&onboarding.CanaryOptions{Handler: a.mcp})
	if err != nil {
		return err
	}
	steps, err := onboarding.Standard(onboarding.Parts{
		Isolation:   isolation{a.office},
		Keys:        tenantKeys{a.keys},
		Canary:      canary,
		Configure:   a.data.Configure,
		Staleness:   time.Second + toolTimeout,
		SettleUsage: a.flushUsage,
		Unsubscribe: a.unsubscribe,
		Archive:     onboarding.Dir(archiveDir(a.config)),
		Exports:     []onboarding.Exporter{a.data, usageExport{a.ledger}},
		Erase:       a.eraseRows,
		Clean:       []onboarding.Action{a.limiter.Forget, a.alerts.Forget},
	})
	if err != nil {
		return err
	}
	// The shop's own step comes before the probe key and the canary, which prove
	// the whole.
	steps.Provision = slices.Insert(steps.Provision, len(steps.Provision)-2, onboarding.Step{Name: "welcome", Do: a.welcome})
	a.provisioner, err = onboarding.New(a.state, steps, &onboarding.Options{Lease: provisionerLease, Logger: a.logger})
	return err
}

// work starts everything that runs beside the requests.
func (a *app) work(g *group) {
	g.run("directory", a.directory.Run)
	g.run("api keys", a.keys.Run)
	g.run("metering", a.meter.Run)
	g.run("usage", func(ctx context.Context) error { return a.sink.Run(ctx, a.ledger) })
	g.run("usage months", a.ledger.Run)
	g.run("catalog", a.catalog.run)
	g.run("billing worker", a.worker.Run)
	g.run("webhook inbox", a.inbox.Run)
	g.run("provisioner", a.provisioner.Run)
	g.run("moves", a.endMoves)
	g.run("tenant databases", a.watch.run)
	g.run("health", a.checks.Run)
}

// ready waits until calls can be authenticated.
func (a *app) ready(ctx context.Context) error {
	return errors.Join(a.directory.Ready(ctx), a.keys.Ready(ctx))
}

func (a *app) close() {
	for _, spool := range []*usage.Spool{a.spool, a.journal} {
		if spool == nil {
			continue
		}
		if err := spool.Close(); err != nil {
			a.logger.Error("spool can't be closed", "err", err)
		}
	}
	if a.redis != nil {
		a.redis.Close()
	}
	if a.reports != nil {
		a.reports.close()
	}
	// A pool waits for its connections, and a connection for a database that
	// may not answer. The end of the process closes them as well.
	pools := newGroup(context.Background())
	if a.db != nil {
		pools.run("pool of tenants", func(context.Context) error { a.db.Close(); return nil })
	}
	if a.office != nil {
		pools.run("pool of control tables", func(context.Context) error { a.office.close(); return nil })
	}
	if err := pools.stop(closeTimeout); err != nil {
		a.logger.Warn("connections are not closed", "err", err)
	}
}

// applySubscription makes of what Stripe says what the tenant should be.
func (a *app) applySubscription(ctx context.Context, c billing.Change) error {
	s := c.Subscription
	if s == nil {
		return nil
	}
	want := onboarding.Desired{
		Request: onboarding.Request{
			Tenant: c.Tenant, Plan: s.Plan, Email: c.Email, Customer: c.Customer,
			PeriodStart: s.PeriodStart, PeriodEnd: s.PeriodEnd,
		},
		Seq: c.Seq, Checkout: c.Checkout,
	}
	switch (billing.AccessPolicy{}).Access(*s, time.Now()) {
	case billing.AccessLimited:
		want.Plan = tenant.Free
	case billing.AccessSuspended:
		want.Suspend = string(s.Status)
	case billing.AccessDeprovision:
		want.Cancel = true
	}
	err := a.provisioner.Raise(ctx, want)
	if errors.Is(err, onboarding.ErrForbidden) { // trying again can't help: a tombstone wins
		a.logger.WarnContext(ctx, "what Stripe says of a tenant is refused", "tenant", c.Tenant, "customer", c.Customer, "err", err)
		return nil
	}
	return err
}

// flushUsage carries the tenant's usage from this process to Stripe.
func (a *app) flushUsage(ctx context.Context, id tenant.ID) error {
	if err := a.sink.Flush(ctx); err != nil {
		return err
	}
	return a.worker.Flush(ctx, id)
}

func archiveDir(c *config) string {
	if c.archiveDir != "" {
		return c.archiveDir
	}
	return filepath.Join(filepath.Dir(filepath.Clean(c.spoolDir)), "archive")
}
