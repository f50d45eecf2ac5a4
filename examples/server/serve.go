package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"github.com/redis/go-redis/v9"

	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/health"
	"github.com/mcpsaas/mcpsaas/tenancy/mcptenant"
)

// Bounds of an orderly stop: all of it within 15 seconds, also when everything
// that it talks to hangs. What isn't done by then is done by the next start, as
// after a kill.
const (
	drainTimeout = 5 * time.Second // for the calls under way
	flushTimeout = 2 * time.Second // for usage on its way to the database
	workTimeout  = 2 * time.Second // for the workers to give back what they hold
	closeTimeout = time.Second     // for the connections to the database
	devTimeout   = 2 * time.Second // for the servers of the dev stack
)

// catalogPatience is how long a start waits for Stripe before it goes on
// without.
const catalogPatience = 5 * time.Second

// serve runs the server until ctx ends.
func serve(ctx context.Context, env *environment, args []string) (err error) {
	serving := false
	defer func() {
		if ctx.Err() != nil && !serving { // asked to stop, which whatever was being started can't know
			err = nil
		}
	}()
	if len(args) > 0 {
		return usagef("server serve takes no argument %q", args[0])
	}
	c := env.config
	if err := c.check(); err != nil {
		return err
	}
	level := slog.LevelWarn
	if c.verbose {
		level = slog.LevelDebug
	}
	logger := slog.New(slog.NewTextHandler(env.stderr, &slog.HandlerOptions{Level: level}))
	// The SDK leaves much garbage per request: collecting it less often is
	// worth more than twice the calls per second. GOGC still wins.
	if env.getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}

	redis.SetLogger(redisLog{logger}) // its own goes to standard error

	public, err := net.Listen("tcp", c.addr)
	if err != nil {
		return fmt.Errorf("ADDR: %w", err)
	}
	defer public.Close()
	admin, err := net.Listen("tcp", c.adminAddr)
	if err != nil {
		return fmt.Errorf("ADMIN_ADDR: %w", err)
	}
	defer admin.Close()
	if c.publicURL == "" {
		c.publicURL = "http://" + public.Addr().String()
	}

	c.tellAdmin = c.adminToken == ""
	if c.tellAdmin {
		c.adminToken = rand.Text()
	}
	if c.unconfigured() && !c.production {
		c.demo = true
	}
	dev := &devParts{}
	if !c.production {
		fmt.Fprintln(env.stdout, "Starting what is not configured ...")
		if dev, err = fillIn(ctx, c, logger); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, dev.close()) }()
		if err := migrateToServe(ctx, c, logger); err != nil {
			return err
		}
		for _, line := range dev.banner {
			fmt.Fprintln(env.stdout, "  "+line)
		}
	} else if err := checkMigrated(ctx, c.databaseURL); err != nil {
		return err
	}

	a, err := newApp(ctx, c, logger, env.extend)
	if err != nil {
		return err
	}
	defer a.close()
	publicMux, err := a.publicMux()
	if err != nil {
		return err
	}

	serving = true
	workers := newGroup(context.WithoutCancel(ctx))
	a.work(workers)
	servers := newGroup(ctx)
	publicServer := newHTTPServer(publicMux, logger)
	adminServer := newHTTPServer(a.adminMux(), logger)
	servers.run("public listener", func(context.Context) error { return serveHTTP(publicServer, public) })
	servers.run("admin listener", func(context.Context) error { return serveHTTP(adminServer, admin) })

	err = a.announce(servers.ctx, env.stdout, dev, admin.Addr().String())
	if err == nil {
		select {
		case <-servers.ctx.Done(): // a signal, or a listener that failed
		case <-workers.ctx.Done(): // a worker that failed
		}
	}
	return errors.Join(ignoreCanceled(err), a.stop(servers, workers, publicServer, adminServer))
}

// redisLog takes what the Redis client would print. The checks tell of an
// outage; its lines, one for each attempt, are for debugging.
type redisLog struct{ logger *slog.Logger }

func (l redisLog) Printf(ctx context.Context, format string, v ...any) {
	l.logger.DebugContext(ctx, "redis client", "message", fmt.Sprintf(format, v...))
}

// announce waits until the product serves, makes the demo, and says so.
func (a *app) announce(ctx context.Context, stdout io.Writer, dev *devParts, adminAddr string) error {
	if err := a.ready(ctx); err != nil {
		return err
	}
	_ = a.catalog.wait(ctx, catalogPatience) // its check says what became of it
	adminURL := "http://operator:" + a.config.adminToken + "@" + adminAddr
	if a.config.demo {
		d, err := a.makeDemo(ctx, adminURL)
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		d.print(stdout)
		if a.config.demoJSON != "" {
			if err := d.write(a.config.demoJSON); err != nil {
				return fmt.Errorf("-demo-json: %w", err)
			}
		}
	}
	if !a.config.tellAdmin { // a secret that is known needn't be in a log
		adminURL = "http://" + adminAddr
	}
	fmt.Fprintf(stdout, "\nready: MCP at %s/mcp, console at %s/console\n", a.config.publicURL, adminURL)
	return nil
}

// stop ends in the order in which nothing is lost: no new calls, the calls
// under way, their usage, the workers.
func (a *app) stop(servers, workers *group, public, admin *http.Server) error {
	a.checks.SetDraining(true)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(servers.ctx), drainTimeout)
	defer cancel()
	var errs []error
	if err := public.Shutdown(ctx); err != nil {
		// Streams have no end of their own. Their calls are cut off, and were
		// not answered.
		errs = append(errs, ignoreDeadline(err), public.Close())
	}
	flush, cancelFlush := context.WithTimeout(context.WithoutCancel(servers.ctx), flushTimeout)
	defer cancelFlush()
	if err := a.sink.Flush(flush); err != nil {
		a.logger.Warn("usage waits for the next start, or another server", "err", err)
	}
	errs = append(errs, admin.Close())
	for _, g := range []*group{servers, workers} {
		err := g.stop(workTimeout)
		if errors.Is(err, errStillRunning) {
			a.logger.Warn("not waiting any longer", "err", err)
			err = nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func ignoreDeadline(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func newHTTPServer(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // for the body; streams of answers have no end
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

func serveHTTP(s *http.Server, l net.Listener) error {
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// publicMux is what the world can reach.
func (a *app) publicMux() (http.Handler, error) {
	webhook, err := stripebill.NewWebhook(a.inbox, a.config.webhookSecrets(), &stripebill.WebhookOptions{Logger: a.logger})
	if err != nil {
		return nil, fmt.Errorf("STRIPE_WEBHOOK_SECRET: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/mcp", a.mcp)
	resource := mcptenant.ProtectedResource(&oauthex.ProtectedResourceMetadata{
		Resource:               a.config.publicURL + "/mcp",
		ResourceName:           "Shop catalogue",
		BearerMethodsSupported: []string{"header"},
	})
	mux.Handle(mcptenant.ResourceMetadataPath, resource)
	mux.Handle(mcptenant.ResourceMetadataPath+"/", resource)
	mux.Handle("/livez", a.checks.Handler(health.Live))
	mux.Handle("/readyz", a.checks.Handler(health.Ready))
	mux.Handle("/startupz", a.checks.Handler(health.Startup))
	mux.Handle("/health", a.checks.Handler(health.Monitor))
	mux.Handle("/health/t/{token}", a.checks.TokenHandler())
	mux.Handle("/webhooks/stripe", webhook)
	(&signup{
		stripe: a.stripe, keys: a.keys, ledger: a.ledger, lookup: a.directory.Lookup,
		publicURL: a.config.publicURL, logger: a.logger,
	}).register(mux)
	mux.Handle("GET /{$}", http.RedirectHandler("/signup", http.StatusSeeOther))
	return mux, nil
}
