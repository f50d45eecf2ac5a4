package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// config is what a person can set. Every setting is a flag and an environment
// variable of the same name in capitals; the flag wins. Switches, such as
// -production, are flags alone.
type config struct {
	addr          string
	adminAddr     string
	databaseURL   string
	appURL        string
	replicaURL    string
	redisURL      string
	stripeKey     string
	stripeBase    string
	webhookSecret string
	publicURL     string
	pepper        string
	reporter      string
	reporterToken string
	usageSink     string
	spoolDir      string
	archiveDir    string
	adminToken    string
	alertNets     string
	alertAllowed  []netip.Prefix // alertNets, read
	tellAdmin     bool           // adminToken was made at this start, and is printed
	tenantDBs     string
	databases     databaseTier // tenantDBs, read
	report        time.Duration
	budget        time.Duration

	production bool
	demo       bool
	demoJSON   string
	stateful   bool
	json       bool
	verbose    bool

	now       bool   // tenant delete: without a grace period
	misplaced bool   // tenant list
	dir       string // tenant export, import
	from      string // tenant import
	to        string // tenant move, and what follows
	dryRun    bool
	abort     bool
	purge     bool
	scopes    string // key create
	per       string // tenant limit set
	tool      string
	mode      string

	actor, reason string // billing requeue and the like: who, and why
	item, at      string // billing explain
	events        bool

	kind, expires, reference string // billing grant add
	priority                 int

	severity, sarif, allow string // audit
	strict                 bool
}

// setting ties a flag to its environment variable.
type setting struct {
	flag, env, value, usage string
	dest                    *string
}

func (c *config) settings() []setting {
	return []setting{
		{"addr", "ADDR", "127.0.0.1:8080", "address of the public listener", &c.addr},
		{"admin-addr", "ADMIN_ADDR", "127.0.0.1:8081", "address of the admin listener", &c.adminAddr},
		{"database-url", "DATABASE_URL", "", "PostgreSQL as the owner of the schema", &c.databaseURL},
		{"app-database-url", "APP_DATABASE_URL", "", "the same database as app_user, which row-level security binds", &c.appURL},
		{"replica-database-url", "REPLICA_DATABASE_URL", "", "a read replica of the same database as app_user, for reports (empty: there is none)", &c.replicaURL},
		{"redis-url", "REDIS_URL", "", "Redis, for the quota counters", &c.redisURL},
		{"stripe-secret-key", "STRIPE_SECRET_KEY", "", "Stripe's secret key", &c.stripeKey},
		{"stripe-api-base", "STRIPE_API_BASE", "", "base URL of Stripe's API (empty: Stripe itself)", &c.stripeBase},
		{"stripe-webhook-secret", "STRIPE_WEBHOOK_SECRET", "", "signing secret of the webhook, several separated by commas while rotating", &c.webhookSecret},
		{"public-url", "PUBLIC_URL", "", "how customers reach this server (default: http:// and the address)", &c.publicURL},
		{"api-key-pepper", "API_KEY_PEPPER", "", "secret that API keys are hashed under, 32 characters or more", &c.pepper},
		{"reporter", "REPORTER", "stripe", "where usage is billed: stripe, file:PATH (JSON lines), a URL that takes CloudEvents (OpenMeter's /api/v1/events); all of several, separated by commas", &c.reporter},
		{"reporter-token", "REPORTER_TOKEN", "", "bearer token for a REPORTER that is a URL", &c.reporterToken},
		{"usage-sink", "USAGE_SINK", sinkSpool, "where usage waits for the database: spool (SPOOL_DIR), or stream (REDIS_URL, which must have appendonly)", &c.usageSink},
		{"spool-dir", "SPOOL_DIR", "", "directory on a local disk for usage that isn't in the database yet", &c.spoolDir},
		{"archive-dir", "ARCHIVE_DIR", "", "directory for the archives of deprovisioned tenants (default: beside the spool)", &c.archiveDir},
		{"tenant-databases", "TENANT_DATABASES", "", "databases of tenants that have their own: same-server (made beside DATABASE_URL's), env:PREFIX or file:DIR (empty: there are none; same-server on the dev stack)", &c.tenantDBs},
		{"alert-networks", "ALERT_NETWORKS", "", "networks that tenants' webhooks may lead to, without TLS too, besides https to the public internet: 10.1.0.0/16,... (empty: none)", &c.alertNets},
		{"admin-token", "ADMIN_TOKEN", "", "password of the admin listener, user operator (default: a new one at each start)", &c.adminToken},
	}
}

// parse reads flags and environment. Flags may stand before and after the
// arguments, as in `tenant show ID -json`; what is left are the arguments.
func (c *config) parse(name string, args []string, getenv func(string) string, output io.Writer) ([]string, error) {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(output)
	for _, s := range c.settings() {
		fs.StringVar(s.dest, s.flag, s.value, s.usage+" ($"+s.env+")")
		// Not as the flag's default, which is printed for -help and after every
		// slip: it may be a secret.
		if v := getenv(s.env); v != "" {
			*s.dest = v
		}
	}
	durations := []struct {
		flag, env, usage string
		dest             *time.Duration
	}{
		{"report-interval", "REPORT_INTERVAL", "how often usage is reported to Stripe (default 5m, 2s on the emulator)", &c.report},
		{"redis-budget", "REDIS_BUDGET", "how long a call may wait for Redis before its plan's outage policy holds (default 25ms, 250ms on the dev stack's)", &c.budget},
	}
	given := map[string]string{}
	for _, d := range durations {
		given[d.env] = getenv(d.env)
		fs.Func(d.flag, d.usage+" ($"+d.env+")", func(s string) error {
			given[d.env] = s
			return nil
		})
	}
	fs.BoolVar(&c.production, "production", false, "take nothing from the dev stack: a missing setting is an error")
	fs.BoolVar(&c.demo, "demo", false, "make one demo tenant per plan (on when nothing is configured)")
	fs.StringVar(&c.demoJSON, "demo-json", "", "write the demo's URLs and keys to this file once ready; implies -demo")
	fs.BoolVar(&c.stateful, "stateful", false, "serve stateful sessions (revisions up to 2025-11-25)")
	fs.BoolVar(&c.json, "json", false, "print JSON")
	fs.BoolVar(&c.verbose, "v", false, "log debug messages")

	fs.BoolVar(&c.now, "now", false, "tenant delete: without a grace period; there is no way back")
	fs.BoolVar(&c.misplaced, "misplaced", false, "tenant list: only tenants that aren't where their plan would put a new one")
	fs.StringVar(&c.dir, "dir", "", "tenant export, import: the directory of the files")
	fs.StringVar(&c.from, "from", "", "tenant import: whose export it is (default: the tenant's own)")
	fs.StringVar(&c.to, "to", "", "tenant move: shared, schema, database (the tenant's own) or database:REFERENCE")
	fs.StringVar(&c.actor, "actor", "", "billing: who decides, for the record")
	fs.StringVar(&c.reason, "reason", "", "billing: why, for the record")
	fs.StringVar(&c.item, "item", "", "billing explain: this subscription item alone")
	fs.StringVar(&c.at, "at", "", "billing explain: the billing period that this time or date lies in (default: the present one)")
	fs.BoolVar(&c.events, "events", false, "billing explain: with the ids of the events")
	fs.BoolVar(&c.dryRun, "dry-run", false, "tenant move, billing backfill: say what would be done and what is in the way, and do nothing")
	fs.StringVar(&c.kind, "kind", "free", "billing grant add: free or prepaid")
	fs.StringVar(&c.expires, "expires", "", "billing grant add: the first day (or time) of which usage isn't covered any more, or a duration from now (default: never)")
	fs.StringVar(&c.reference, "reference", "", "billing grant add: what it is for, once: an invoice, a ticket")
	fs.IntVar(&c.priority, "priority", 0, "billing grant add: which is used first, the lowest")
	fs.BoolVar(&c.abort, "abort", false, "tenant move: give up the move that was begun")
	fs.BoolVar(&c.purge, "purge", false, "tenant move: delete what earlier moves have left behind")
	fs.StringVar(&c.per, "per", "", "tenant limit set: day, month, billing or the length of a window like 24h, for a limit beside those of the plan")
	fs.StringVar(&c.tool, "tool", "", "tenant limit set: the tool that a limit with -per is for")
	fs.StringVar(&c.mode, "mode", "", "tenant limit set: hard, soft (tells the tenant and refuses nothing) or shadow (tells the operator)")
	fs.StringVar(&c.severity, "severity", "warning", "audit: the least severity that makes it fail: note, warning or error")
	fs.StringVar(&c.sarif, "sarif", "", "audit: write a SARIF log to this file as well")
	fs.StringVar(&c.allow, "allow", "", "audit: file with the findings that are accepted, as JSON: [{\"rule\", \"object\", \"reason\"}]")
	fs.BoolVar(&c.strict, "strict", false, "audit: report also what holds on every PostgreSQL as installed")
	fs.StringVar(&c.scopes, "scopes", tenant.ScopeTools+","+tenant.ScopeHealthRead, "key create: what the key allows, separated by commas")

	var rest []string
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		if fs.NArg() == 0 {
			break
		}
		rest = append(rest, fs.Arg(0))
		args = fs.Args()[1:]
	}
	for _, d := range durations {
		if given[d.env] == "" {
			continue
		}
		v, err := time.ParseDuration(given[d.env])
		if err != nil || v <= 0 {
			return nil, fmt.Errorf("%s %q: want a positive duration like 5m", d.env, given[d.env])
		}
		*d.dest = v
	}
	if c.demoJSON != "" {
		c.demo = true
	}
	for _, network := range split(c.alertNets) {
		p, err := netip.ParsePrefix(network)
		if err != nil {
			return nil, fmt.Errorf("ALERT_NETWORKS: %q is no network: want one like 10.1.0.0/16", network)
		}
		c.alertAllowed = append(c.alertAllowed, p)
	}
	var err error
	c.databases, err = parseDatabaseTier(c.tenantDBs)
	return rest, err
}

// unconfigured reports whether nothing that the dev stack could provide is set.
func (c *config) unconfigured() bool {
	return c.databaseURL == "" && c.redisURL == "" && c.stripeKey == "" && c.stripeBase == ""
}

// The values of USAGE_SINK.
const (
	sinkSpool  = "spool"
	sinkStream = "stream"
)

// minAdminToken is the length from which on guessing is hopeless: the public
// listener, too, takes the operator's word at /health.
const minAdminToken = 16

// check refuses what can't work, naming every setting that is wrong.
func (c *config) check() error {
	var errs []error
	if c.production {
		for _, s := range c.settings() {
			switch s.env {
			case "STRIPE_API_BASE", "ALERT_NETWORKS", "ARCHIVE_DIR", "ADMIN_TOKEN", "ADDR", "ADMIN_ADDR", "TENANT_DATABASES", "REPLICA_DATABASE_URL", "REPORTER_TOKEN":
				continue
			}
			if s.env == "SPOOL_DIR" && c.usageSink == sinkStream && c.archiveDir != "" {
				continue // nothing would be kept there
			}
			if *s.dest == "" {
				errs = append(errs, fmt.Errorf("%s is not set (-%s): %s", s.env, s.flag, s.usage))
			}
		}
		if c.demo {
			errs = append(errs, errors.New("-demo makes tenants with keys that are printed: not with -production"))
		}
	}
	if c.usageSink != sinkSpool && c.usageSink != sinkStream {
		errs = append(errs, fmt.Errorf("USAGE_SINK is %q: want %s or %s", c.usageSink, sinkSpool, sinkStream))
	}
	if c.stripeKey == "" && c.stripeBase != "" {
		errs = append(errs, errors.New("STRIPE_SECRET_KEY is not set, but STRIPE_API_BASE is"))
	}
	if c.stripeKey != "" && c.webhookSecret == "" && !c.production {
		errs = append(errs, errors.New("STRIPE_WEBHOOK_SECRET is not set, but STRIPE_SECRET_KEY is"))
	}
	if c.databaseURL == "" && c.replicaURL != "" {
		errs = append(errs, errors.New("DATABASE_URL is not set, but REPLICA_DATABASE_URL is"))
	}
	if c.databaseURL == "" && c.appURL != "" {
		errs = append(errs, errors.New("DATABASE_URL is not set, but APP_DATABASE_URL is"))
	}
	if c.pepper != "" && len(c.pepper) < 32 {
		errs = append(errs, fmt.Errorf("API_KEY_PEPPER has %d characters: want 32 or more", len(c.pepper)))
	}
	if n := len(c.adminToken); n > 0 && n < minAdminToken {
		errs = append(errs, fmt.Errorf("ADMIN_TOKEN has %d characters: want %d or more", n, minAdminToken))
	}
	if c.demoJSON != "" {
		if info, err := os.Stat(filepath.Dir(c.demoJSON)); err != nil || !info.IsDir() {
			errs = append(errs, fmt.Errorf("-demo-json %q: its directory does not exist", c.demoJSON))
		}
	}
	return errors.Join(errs...)
}

// webhookSecrets returns the signing secrets, the newest first.
func (c *config) webhookSecrets() []string { return split(c.webhookSecret) }

// scopeList returns what -scopes says.
func (c *config) scopeList() []string { return split(c.scopes) }

func split(list string) []string {
	var parts []string
	for s := range strings.SplitSeq(list, ",") {
		if s = strings.TrimSpace(s); s != "" {
			parts = append(parts, s)
		}
	}
	return parts
}
