package health

import (
	"context"
	"fmt"
	"time"
)

// Profile is the question that an endpoint answers.
type Profile int

// The profiles.
const (
	// Live: does the process answer? Always ok; no check runs.
	Live Profile = iota
	// Ready: should this instance get traffic? Down while it is draining, or
	// a check marked Ready is down or unknown, or one marked Startup has never
	// passed. Degraded is ready.
	Ready
	// Startup: has this instance come up? Down until every check marked
	// Startup has passed once; ok for ever after.
	Startup
	// Monitor: does the product work? Every check counts by its criticality,
	// and whatever is not ok is answered with 503.
	Monitor
)

// String returns the profile's name in lower case.
func (p Profile) String() string {
	switch p {
	case Live:
		return "live"
	case Ready:
		return "ready"
	case Startup:
		return "startup"
	case Monitor:
		return "monitor"
	default:
		return fmt.Sprintf("Profile(%d)", int(p))
	}
}

// answer is what one probe gets: good decides the HTTP status.
type answer struct {
	Report
	good bool
}

func (a *Aggregator) answerTo(ctx context.Context, p Profile) answer {
	switch p {
	case Ready:
		return a.ready(ctx)
	case Startup:
		return a.startup(ctx)
	case Monitor:
		report := a.Probe(ctx)
		return answer{report, report.Status == StatusOK}
	default:
		return answer{Report{Status: StatusOK, Time: time.Now()}, true}
	}
}

func (a *Aggregator) ready(ctx context.Context) answer {
	var entries []*entry
	for _, e := range a.checks {
		if e.ready || e.startup && !e.passed.Load() {
			entries = append(entries, e)
		}
	}
	results := a.gather(ctx, entries)
	status := StatusOK
	for i, r := range results {
		switch e := entries[i]; {
		case e.startup && !e.passed.Load(), e.ready && (r.Status == StatusDown || r.Status == StatusUnknown):
			status = StatusDown
		case e.ready && r.Status == StatusDegraded && status == StatusOK:
			status = StatusDegraded
		}
	}
	if a.draining.Load() {
		status = StatusDown
		results = append(results, Result{Name: drainingLine, Criticality: Critical, Status: StatusDown})
	}
	return answer{Report{status, results, time.Now()}, status != StatusDown}
}

func (a *Aggregator) startup(ctx context.Context) answer {
	var waiting []*entry
	for _, e := range a.checks {
		if e.startup && !e.passed.Load() {
			waiting = append(waiting, e)
		}
	}
	results := a.gather(ctx, waiting)
	status := StatusOK
	for _, e := range waiting {
		if !e.passed.Load() {
			status = StatusDown
		}
	}
	return answer{Report{status, results, time.Now()}, status == StatusOK}
}
