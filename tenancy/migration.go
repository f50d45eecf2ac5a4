package tenancy

import (
	"fmt"
	"strings"
	"time"
)

// MigrationState says how a schema stands, or how it came out of a run.
type MigrationState string

const (
	// MigrationCurrent is a schema with nothing to do.
	MigrationCurrent MigrationState = "current"

	// MigrationPending is a schema that lacks files, in [Migrator.Status].
	MigrationPending MigrationState = "pending"

	// MigrationAhead is a schema that has all files and newer ones that this
	// program doesn't know: it is older than the database. Not a failure.
	MigrationAhead MigrationState = "ahead"

	// MigrationApplied is a schema that the run has brought up to date.
	MigrationApplied MigrationState = "applied"

	// MigrationFailed is a schema of which a file failed. The files before it
	// stay.
	MigrationFailed MigrationState = "failed"

	// MigrationStopped is a schema that was not started, or was interrupted
	// between two files or in one that was rolled back, because the run
	// ended early.
	MigrationStopped MigrationState = "stopped"
)

// MigrationStatus is how one schema stands.
type MigrationStatus struct {
	Target  MigrationTarget
	State   MigrationState // current, pending, ahead, or failed where it can't be read or doesn't exist
	Version int64          // the newest file that was applied; zero: none
	Pending int            // how many files are not applied as they are now
	Err     error          // why State is failed

	// LastError is why the last attempt at the next file failed, as the table
	// has it; empty if it didn't.
	LastError string
}

// MigrationOutcome is how one schema came out of a run.
type MigrationOutcome struct {
	Target  MigrationTarget
	State   MigrationState
	Applied []string      // the names of the files that this run has applied
	Took    time.Duration // zero if there was nothing to do
	Err     error         // why State is failed or stopped
}

// MigrationResult is the outcome of a run, in the order of the targets.
type MigrationResult struct {
	Outcomes []MigrationOutcome
	Took     time.Duration
}

// Count returns how many schemas came out as state.
func (r *MigrationResult) Count(state MigrationState) int {
	n := 0
	for i := range r.Outcomes {
		if r.Outcomes[i].State == state {
			n++
		}
	}
	return n
}

// MigrationProgress is how far a run is.
type MigrationProgress struct {
	Total   int // schemas
	Done    int // current, ahead or applied
	Failed  int
	Running int
	Canary  bool // whether it is the canaries that are worked on
	Elapsed time.Duration

	// Last is the schema that was finished last; nil at the start.
	Last *MigrationOutcome
}

// MigrateError says that a run did not bring every schema up to date. It
// unwraps to Cause and to the error of each schema.
type MigrateError struct {
	// Failed are the schemas that failed.
	Failed []MigrationOutcome

	// Stopped is how many schemas were not started or not finished.
	Stopped int

	// Total is the number of all schemas.
	Total int

	// Cause is why the run ended early: [ErrCanaryFailed],
	// [ErrTooManyFailures] or the context's. Nil if it didn't.
	Cause error
}

// Error names the first schemas that failed.
func (e *MigrateError) Error() string {
	const most = 3
	var b strings.Builder
	fmt.Fprintf(&b, "tenancy: migrate: %d of %d schemas failed", len(e.Failed), e.Total)
	if e.Stopped > 0 {
		fmt.Fprintf(&b, ", %d not done", e.Stopped)
	}
	if e.Cause != nil {
		fmt.Fprintf(&b, ": %v", e.Cause)
	}
	for i, o := range e.Failed {
		if i == most {
			fmt.Fprintf(&b, "\n  and %d more", len(e.Failed)-most)
			break
		}
		fmt.Fprintf(&b, "\n  %v", o.Err)
	}
	return b.String()
}

// Unwrap returns what [errors.Is] and [errors.As] look through.
func (e *MigrateError) Unwrap() []error {
	var errs []error
	if e.Cause != nil {
		errs = append(errs, e.Cause)
	}
	for _, o := range e.Failed {
		errs = append(errs, o.Err)
	}
	return errs
}
