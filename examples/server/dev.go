package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing/stripebill/stripetest"
	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy"
)

// devParts is what stands in for settings that are missing.
type devParts struct {
	stack    *devstack.Stack
	emulator *stripetest.Emulator
	listener *http.Server
	banner   []string
}

// fillIn starts what the configuration leaves out and writes it into c. Once
// the database is somebody's own, files that belong to its content stay in the
// user's cache directory, so that a restart finds them.
func fillIn(ctx context.Context, c *config, logger *slog.Logger) (_ *devParts, err error) {
	d := &devParts{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	ownDatabase := c.databaseURL != ""
	if d.stack, err = devstack.Start(ctx, devstack.Options{
		Postgres: !ownDatabase, Redis: c.redisURL == "", Logger: logger,
	}); err != nil {
		return d, err
	}
	d.banner = append(d.banner, d.stack.Banner...)
	dir := d.stack.Dir
	if ownDatabase {
		if c.spoolDir == "" || c.pepper == "" || c.stripeKey == "" { // else nothing is kept there
			if dir, err = cacheDir(c.databaseURL); err != nil {
				return d, err
			}
		}
	} else {
		c.databaseURL, c.appURL = d.stack.DatabaseURL, d.stack.AppDatabaseURL
		d.say("PostgreSQL: of this run's own, gone when it ends; DATABASE_URL takes yours")
		if c.databases.kind == "" {
			c.databases.kind = sameServer
			d.say("Databases of tenants' own: made beside it; TENANT_DATABASES=same-server for commands")
		}
	}
	if c.redisURL == "" {
		c.redisURL = d.stack.RedisURL
		if c.budget == 0 {
			// Here Redis shares a busy machine with compilers and clients: 25 ms
			// without an answer are no outage.
			c.budget = 250 * time.Millisecond
		}
		if len(d.stack.Banner) == 0 {
			d.say("Redis: of this run's own; REDIS_URL takes yours")
		}
	}
	if c.spoolDir == "" {
		c.spoolDir = filepath.Join(dir, "spool")
	}
	if c.pepper, err = devPepper(c.pepper, dir); err != nil {
		return d, err
	}
	if c.appURL == "" {
		if c.appURL, err = appURL(ctx, c); err != nil {
			return d, err
		}
	}
	if c.stripeKey == "" {
		if err := d.startEmulator(ctx, c, filepath.Join(dir, "stripe.json"), logger); err != nil {
			return d, err
		}
		d.say("Stripe: an emulator at " + c.stripeBase + "; STRIPE_SECRET_KEY takes the real one")
	}
	if c.report == 0 {
		c.report = 5 * time.Minute
		if d.emulator != nil {
			c.report = 2 * time.Second
		}
	}
	return d, nil
}

func (d *devParts) say(line string) { d.banner = append(d.banner, line) }

// startEmulator serves a Stripe of this run's own, which calls the server's
// webhook.
func (d *devParts) startEmulator(ctx context.Context, c *config, stateFile string, logger *slog.Logger) error {
	var err error
	if d.emulator, err = stripetest.New(&stripetest.Options{
		StateFile: stateFile, WebhookURL: c.publicURL + "/webhooks/stripe", Logger: logger,
	}); err != nil {
		return fmt.Errorf("Stripe emulator: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("Stripe emulator: %w", err)
	}
	d.listener = newHTTPServer(d.emulator, logger)
	go d.listener.Serve(l) // ends with close
	c.stripeBase = "http://" + l.Addr().String()
	c.stripeKey, c.webhookSecret = d.emulator.SecretKey, d.emulator.WebhookSecret
	return nil
}

func (d *devParts) close() error {
	var errs []error
	if d.emulator != nil {
		d.emulator.Close()
	}
	if d.listener != nil {
		errs = append(errs, d.listener.Close())
	}
	if d.stack != nil {
		ctx, cancel := context.WithTimeout(context.Background(), devTimeout)
		defer cancel()
		errs = append(errs, d.stack.Close(ctx))
	}
	return errors.Join(errs...)
}

// cacheDir returns a directory that belongs to the database.
func cacheDir(databaseURL string) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("there is no place for what SPOOL_DIR, API_KEY_PEPPER and STRIPE_SECRET_KEY leave out: %w", err)
	}
	sum := sha256.Sum256([]byte(databaseURL))
	dir := filepath.Join(base, "mcpsaas", hex.EncodeToString(sum[:8]))
	return dir, os.MkdirAll(dir, 0o700)
}

// devPepper keeps the pepper that API keys were made with: with another one
// they would all be refused after a restart.
func devPepper(given, dir string) (string, error) {
	if given != "" {
		return given, nil
	}
	path := filepath.Join(dir, "pepper")
	if b, err := os.ReadFile(path); err == nil && len(b) >= 32 {
		return string(b), nil
	}
	pepper := rand.Text() + rand.Text()
	return pepper, os.WriteFile(path, []byte(pepper), 0o600)
}

// appURL makes the address of app_user from the owner's, with a password that
// every replica derives alike.
func appURL(ctx context.Context, c *config) (string, error) {
	u, err := url.Parse(c.databaseURL)
	if err != nil || !strings.HasPrefix(u.Scheme, "postgres") {
		return "", errors.New("APP_DATABASE_URL is not set, and can't be derived: DATABASE_URL is not a URL")
	}
	conn, err := pgx.Connect(ctx, c.databaseURL)
	if err != nil {
		return "", fmt.Errorf("DATABASE_URL: %w", pgredact.Error(err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := tenancy.Migrate(ctx, conn); err != nil { // makes the role
		return "", err
	}
	mac := hmac.New(sha256.New, []byte(c.pepper))
	mac.Write([]byte("password of app_user"))
	password := hex.EncodeToString(mac.Sum(nil))
	if _, err := conn.Exec(ctx, "alter role "+pgx.Identifier{tenancy.AppRole}.Sanitize()+" login password '"+password+"'"); err != nil {
		return "", fmt.Errorf("APP_DATABASE_URL is not set, and app_user can't be given a password: %w", err)
	}
	u.User = url.UserPassword(tenancy.AppRole, password)
	q := u.Query()
	q.Del("user")
	q.Del("password")
	u.RawQuery = q.Encode()
	return u.String(), nil
}
