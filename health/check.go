package health

import (
	"context"
	"time"
)

// Status is how a check, or the whole, stands.
type Status string

// The statuses. Only StatusOK is good.
const (
	StatusOK       Status = "ok"
	StatusDegraded Status = "degraded" // works, but not as it should
	StatusDown     Status = "down"     // doesn't work
	StatusUnknown  Status = "unknown"  // not run yet, or so long ago that it proves nothing
)

// Criticality is what a failing check means for the whole.
type Criticality int

// The criticalities. The zero value is Major.
const (
	Major    Criticality = iota // a failure makes the whole degraded
	Critical                    // a failure makes the whole down
	Minor                       // a failure is shown, and leaves the whole as it is
)

// String returns "major", "critical" or "minor".
func (c Criticality) String() string {
	switch c {
	case Critical:
		return "critical"
	case Minor:
		return "minor"
	default:
		return "major"
	}
}

// Check is a check of the platform as a whole, or of this instance.
type Check struct {
	// Name identifies the check: 1 to 64 of a-z, 0-9, '_', '-', '.'. Required,
	// and unique among all checks, those of tenants included.
	Name string

	// Run returns nil if all is well, [Degraded] of an error if things work
	// but not as they should, any other error if they don't. It must honour
	// its context, which carries no values of the request that caused the run:
	// the result is shared by all who ask. It may be called from any
	// goroutine, but never twice at the same time. A panic counts as a
	// failure. Required.
	Run func(ctx context.Context) error

	// Criticality is what a failure means for the whole. Defaults to Major.
	Criticality Criticality

	// Ready says that the check also decides whether this instance gets
	// traffic. Set it only for what other instances may still have when this
	// one hasn't; a dependency that all share takes all of them out at once.
	// A Minor check can't be Ready.
	Ready bool

	// Startup says that the check must have passed once before the instance
	// counts as started, and so before it is ready.
	Startup bool

	// Timeout bounds one run, and may not exceed [Options].ProbeTimeout.
	// Defaults to 1 s.
	Timeout time.Duration

	// TTL is how long a result is served before a probe causes the next run;
	// at least 1 s. Defaults to 1 s, so that a failure shows at a monitor's
	// next probe.
	TTL time.Duration

	// Interval, if positive, has [Aggregator.Run] run the check this often;
	// probes then never cause a run, and TTL must be zero. For checks that
	// are too slow or too dear to run on a probe. Defaults to 0: run when
	// probed.
	Interval time.Duration

	// StaleAfter is the age from which a result proves nothing any more and
	// the check is unknown. Defaults to three intervals, and for a check
	// without an interval to 3 minutes (three probes of an ordinary monitor),
	// which concerns only [Aggregator.Snapshot].
	StaleAfter time.Duration

	// Failures is how many runs in a row must fail before a check that was ok
	// is shown as failing. One good run is always enough to be ok again.
	// Defaults to 1: the first failure shows.
	Failures int
}

// TenantCheck is a check that runs for one tenant at a time, when someone who
// may see that tenant's health asks for it. Runs for different tenants may be
// concurrent, as far as [Options].TenantConcurrency allows.
type TenantCheck struct {
	// Name is as in [Check]. "platform" is taken.
	Name string

	// Run is as in [Check]. tenantID is a UUID in canonical lower-case form;
	// whether a tenant of this id exists is for Run to find out. Required.
	Run func(ctx context.Context, tenantID string) error

	// Criticality is what a failure means for the tenant's whole. Defaults to
	// Major.
	Criticality Criticality

	// Timeout bounds one run, and may not exceed [Options].ProbeTimeout.
	// Defaults to 1 s.
	Timeout time.Duration

	// TTL is how long a tenant's result is served before a probe causes the
	// next run; at least 1 s. Defaults to 10 s.
	TTL time.Duration

	// Failures is as in [Check]. Defaults to 1.
	Failures int
}

// Result is the last known outcome of one check.
type Result struct {
	Name        string
	Tenant      string // the tenant's id; empty for a platform check
	Criticality Criticality
	Status      Status
	Class       Class         // what kind of failure; empty if ok or not run
	Since       time.Time     // when Status last changed; zero if the check never ran
	Time        time.Time     // when the last run ended; zero if the check never ran
	Duration    time.Duration // of the last run
	Failures    int           // failed runs in a row
}

// Report is the answer to one probe.
type Report struct {
	Status Status // of the whole: ok, degraded or down
	Checks []Result
	Time   time.Time
}

// whole is the status that results add up to.
func whole(results []Result) Status {
	status := StatusOK
	for _, r := range results {
		switch {
		case r.Status == StatusOK || r.Criticality == Minor:
		case r.Criticality == Critical && r.Status != StatusDegraded:
			return StatusDown // unknown included: silence of something critical is a failure
		default:
			status = StatusDegraded
		}
	}
	return status
}
