package health

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Probe runs the platform's checks as far as their cached results are too old,
// and returns all results within [Options].ProbeTimeout.
func (a *Aggregator) Probe(ctx context.Context) Report {
	results := a.gather(ctx, a.checks)
	return Report{Status: whole(results), Checks: results, Time: time.Now()}
}

// ProbeTenant is what the tenant may know of its own health: its own checks,
// run as far as their cached results are too old, and one line named
// "platform" for all of the platform's. tenantID is a UUID; anything else is
// an error, and nothing is run. Whether the tenant exists is for its checks to
// say.
func (a *Aggregator) ProbeTenant(ctx context.Context, tenantID string) (Report, error) {
	id, ok := parseTenant(tenantID)
	if !ok {
		return Report{}, errTenant(tenantID)
	}
	return a.probeTenant(ctx, id), nil
}

func (a *Aggregator) probeTenant(ctx context.Context, id string) Report {
	platform, own := a.probeBoth(ctx, id)
	results := append([]Result{platformResult(platform)}, own...)
	return Report{Status: whole(results), Checks: results, Time: time.Now()}
}

// Snapshot returns the last results of the platform's checks, in the order of
// [Options].Checks, without running any: what a metrics scrape wants. A check
// that nobody has probed for longer than its StaleAfter is unknown.
func (a *Aggregator) Snapshot() []Result {
	now := time.Now()
	results := make([]Result, len(a.checks))
	for i, e := range a.checks {
		results[i] = e.result(now)
	}
	return results
}

func (a *Aggregator) probeBoth(ctx context.Context, id string) (platform, own []Result) {
	both := a.gather(ctx, append(a.checks[:len(a.checks):len(a.checks)], a.tenants.entries(id)...))
	return both[:len(a.checks):len(a.checks)], both[len(a.checks):]
}

// gather starts what must run, all at once, then waits for all of it.
func (a *Aggregator) gather(ctx context.Context, entries []*entry) []Result {
	now := time.Now()
	results := make([]Result, len(entries))
	var waits []wait
	for i, e := range entries {
		if e.periodic {
			results[i] = e.result(now)
			continue
		}
		var f *flight
		if results[i], f = e.begin(now, e.ttl); f != nil {
			waits = append(waits, wait{i, f})
		}
	}
	if waits == nil {
		return results
	}
	ctx, cancel := context.WithTimeout(ctx, a.opts.ProbeTimeout)
	defer cancel()
	for _, w := range waits {
		ended := w.flight.wait(ctx)
		now := time.Now()
		results[w.index] = entries[w.index].result(now)
		if !ended {
			// Whatever it was before, it hasn't answered now.
			r := &results[w.index]
			r.Status, r.Class, r.Since = StatusUnknown, ClassTimeout, now
		}
	}
	return results
}

type wait struct {
	index  int
	flight *flight
}

// wait reports whether the flight has ended when ctx has.
func (f *flight) wait(ctx context.Context) bool {
	select {
	case <-f.done:
		return true
	case <-ctx.Done():
	}
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// platformResult sums the platform up for those who may not see its parts.
func platformResult(results []Result) Result {
	sum := Result{Name: platformLine, Criticality: Critical, Status: whole(results)}
	for _, r := range results {
		if r.Criticality != Minor && r.Time.After(sum.Time) {
			sum.Time = r.Time
		}
	}
	return sum
}

// parseTenant accepts the spelling of a UUID that package tenant accepts, and
// returns it in lower case, so that one tenant has one cache entry.
func parseTenant(s string) (string, bool) {
	if len(s) != 36 {
		return "", false
	}
	zero := true
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return "", false
			}
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
			zero = zero && c == '0'
		default:
			return "", false
		}
	}
	return strings.ToLower(s), !zero
}

func errTenant(s string) error {
	return fmt.Errorf("health: tenant %.40q: want a UUID like 0190a2b4-5c6d-7e8f-8a9b-0c1d2e3f4a5b", s)
}
