package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
)

// emulatorCommand runs the Stripe emulator alone, for tests that kill the
// server and must find Stripe as it was.
func emulatorCommand(ctx context.Context, env *environment, args []string) error {
	fs := flag.NewFlagSet("server emulator", flag.ContinueOnError)
	fs.SetOutput(env.stderr)
	addr := fs.String("addr", "127.0.0.1:12111", "address to listen on")
	webhook := fs.String("webhook", "", "URL that webhooks are sent to")
	state := fs.String("state", "", "file that keeps everything across restarts")
	secretKey := fs.String("secret-key", "", "key that clients authenticate with (default: a new one, or that of -state)")
	webhookSecret := fs.String("webhook-secret", "", "secret that webhooks are signed with (default: likewise)")
	version := fs.String("api-version", "", "API version of webhooks, and of requests that name none (default 2023-10-16)")
	thin := fs.Bool("thin", false, "send thin webhooks")
	lag := fs.Duration("summary-lag", 0, "how long totals don't show what was reported")
	asJSON := fs.Bool("json", false, "print JSON")
	verbose := fs.Bool("v", false, "log requests and deliveries")
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if fs.NArg() > 0 {
		return usagef("server emulator takes no argument %q", fs.Arg(0))
	}
	level := slog.LevelWarn
	if *verbose {
		level = slog.LevelDebug
	}
	logger := slog.New(slog.NewTextHandler(env.stderr, &slog.HandlerOptions{Level: level}))
	emulator, err := stripetest.New(&stripetest.Options{
		SecretKey: *secretKey, WebhookSecret: *webhookSecret, WebhookURL: *webhook, StateFile: *state, Logger: logger,
		APIVersion: *version, ThinWebhooks: *thin, SummaryLag: *lag,
	})
	if err != nil {
		return err
	}
	defer emulator.Close()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *addr)
	if err != nil {
		return fmt.Errorf("-addr: %w", err)
	}
	base := "http://" + l.Addr().String()
	env.config = &config{json: *asJSON}
	if err := env.print(map[string]string{
		"stripe_api_base": base, "stripe_secret_key": emulator.SecretKey, "webhook_secret": emulator.WebhookSecret,
	}, func() {
		fmt.Fprintf(env.stdout, "STRIPE_API_BASE=%s\nSTRIPE_SECRET_KEY=%s\nSTRIPE_WEBHOOK_SECRET=%s\n", base, emulator.SecretKey, emulator.WebhookSecret)
	}); err != nil {
		return errors.Join(err, l.Close())
	}
	server := newHTTPServer(emulator, logger)
	g := newGroup(ctx)
	g.run("emulator", func(context.Context) error { return serveHTTP(server, l) })
	<-g.ctx.Done()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(server.Shutdown(stop), g.stop(time.Second))
}
