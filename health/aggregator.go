package health

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"sync/atomic"
	"time"
)

// Options configure [New]. The zero value is an aggregator without checks.
type Options struct {
	// Checks are the checks of the platform and of this instance. Every one
	// of them counts for [Monitor].
	Checks []Check

	// TenantChecks run for the one tenant that is asked for.
	TenantChecks []TenantCheck

	// Authorize says what the sender of a request may see; ok is false for a
	// stranger. It runs on every probe but Live's and must not do I/O. nil
	// means that everybody is a stranger.
	Authorize func(r *http.Request) (access Access, ok bool)

	// ResolveToken returns the id of the tenant that a capability token (the
	// last part of /health/t/{token}) stands for; ok is false for a token
	// that is unknown, revoked or expired. It should compare hashes in
	// constant time and answer from memory: a stranger can call it as often
	// as it likes. nil means that there are no tokens.
	ResolveToken func(token string) (tenantID string, ok bool)

	// ClientIP returns the address that strangers are limited by. Set it
	// behind a proxy, where all requests come from one address. Defaults to
	// the host of RemoteAddr.
	ClientIP func(r *http.Request) string

	// OnChange is told of every change of a check's status, in order, one at
	// a time, in a goroutine of its own. When it is too slow, the oldest
	// changes that wait for it are dropped (50 may wait), which is logged.
	OnChange func(Transition)

	// ProbeTimeout bounds the answer to one probe: what hasn't ended by then
	// is unknown. Defaults to 2 s.
	ProbeTimeout time.Duration

	// TenantConcurrency is how many checks of tenants run at once. Keep it
	// below what the tenants' own calls can spare of the database pool.
	// Defaults to 8.
	TenantConcurrency int

	// MaxTenants is how many tenants' results are kept; those that were asked
	// for longest ago make room. Defaults to 10,000.
	MaxTenants int

	// Logger gets every change of a status with its error, at level Warn or
	// (recovery) Info, panics at Error, and each failed run at Debug.
	// Defaults to none.
	Logger *slog.Logger
}

// Aggregator runs checks and answers probes from their results. It is safe
// for concurrent use.
type Aggregator struct {
	opts     Options
	log      *slog.Logger
	checks   []*entry // as in opts.Checks
	tenants  *tenantCache
	history  *history
	limiter  *ipLimiter
	draining atomic.Bool
}

// New returns an aggregator of the checks in opts, none of which has run. It
// refuses options that make no sense with an error that names each of them,
// starts no goroutine and runs no check.
func New(opts *Options) (*Aggregator, error) {
	a := &Aggregator{}
	if opts != nil {
		a.opts = *opts
	}
	if err := a.opts.complete(); err != nil {
		return nil, fmt.Errorf("health: new aggregator: %w", err)
	}
	a.log = a.opts.Logger
	a.history = &history{onChange: a.opts.OnChange, log: a.log}
	a.limiter = newIPLimiter()
	for _, c := range a.opts.Checks {
		a.checks = append(a.checks, &entry{
			a: a, run: c.Run, timeout: c.Timeout, ttl: c.TTL, stale: c.StaleAfter, damping: c.Failures,
			periodic: c.Interval > 0, ready: c.Ready, startup: c.Startup,
			last: Result{Name: c.Name, Criticality: c.Criticality, Status: StatusUnknown},
		})
	}
	a.tenants = newTenantCache(a)
	return a, nil
}

// SetDraining tells [Ready] to answer 503 (true), or to ask the checks again.
// Set it when the server begins to stop, and keep serving until the load
// balancer has had the time to see it.
func (a *Aggregator) SetDraining(draining bool) { a.draining.Store(draining) }

var nameRE = regexp.MustCompile(`^[a-z0-9_.-]{1,64}$`)

// Names of lines in an answer that are no checks.
const (
	platformLine = "platform"
	drainingLine = "draining"
)

// complete fills in the defaults, in copies of the caller's slices, and
// validates.
func (o *Options) complete() error {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	duration := func(field string, d *time.Duration, least, fallback time.Duration) {
		if *d == 0 {
			*d = fallback
		} else if *d < least {
			refuse("%s: %v is below %v", field, *d, least)
		}
	}
	count := func(field string, n *int, fallback int) {
		if *n == 0 {
			*n = fallback
		} else if *n < 0 {
			refuse("%s: %d is negative", field, *n)
		}
	}
	names := map[string]bool{platformLine: true, drainingLine: true}
	common := func(at, name string, missingRun bool, criticality Criticality, timeout *time.Duration, failures *int) {
		switch {
		case !nameRE.MatchString(name):
			refuse("%s.Name: %.70q: want 1 to 64 of a-z, 0-9, '_', '-', '.'", at, name)
		case names[name]:
			refuse("%s.Name: %q is taken", at, name)
		}
		names[name] = true
		if missingRun {
			refuse("%s.Run: missing", at)
		}
		if criticality < Major || criticality > Minor {
			refuse("%s.Criticality: %d is none", at, criticality)
		}
		duration(at+".Timeout", timeout, time.Nanosecond, min(time.Second, o.ProbeTimeout))
		if *timeout > o.ProbeTimeout {
			refuse("%s.Timeout: %v exceeds ProbeTimeout %v", at, *timeout, o.ProbeTimeout)
		}
		count(at+".Failures", failures, 1)
	}

	duration("ProbeTimeout", &o.ProbeTimeout, time.Millisecond, 2*time.Second)
	count("TenantConcurrency", &o.TenantConcurrency, 8)
	count("MaxTenants", &o.MaxTenants, 10_000)
	o.Checks = append([]Check(nil), o.Checks...)
	for i := range o.Checks {
		c, at := &o.Checks[i], fmt.Sprintf("Checks[%d]", i)
		common(at, c.Name, c.Run == nil, c.Criticality, &c.Timeout, &c.Failures)
		if c.Ready && c.Criticality == Minor {
			refuse("%s.Criticality: minor contradicts Ready", at)
		}
		staleAfter := 3 * time.Minute
		switch {
		case c.Interval < 0:
			refuse("%s.Interval: %v is negative", at, c.Interval)
		case c.Interval > 0 && c.TTL != 0:
			refuse("%s.TTL: has no meaning with an Interval", at)
		case c.Interval > 0:
			staleAfter = 3 * c.Interval
		default:
			duration(at+".TTL", &c.TTL, time.Second, time.Second)
		}
		duration(at+".StaleAfter", &c.StaleAfter, max(c.TTL, c.Interval), staleAfter)
	}
	o.TenantChecks = append([]TenantCheck(nil), o.TenantChecks...)
	for i := range o.TenantChecks {
		c, at := &o.TenantChecks[i], fmt.Sprintf("TenantChecks[%d]", i)
		common(at, c.Name, c.Run == nil, c.Criticality, &c.Timeout, &c.Failures)
		duration(at+".TTL", &c.TTL, time.Second, 10*time.Second)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.ClientIP == nil {
		o.ClientIP = remoteHost
	}
	return errors.Join(errs...)
}
