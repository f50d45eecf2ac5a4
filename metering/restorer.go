package metering

import (
	"context"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Restorer is what a Limiter is besides if it can be told afterwards of what it
// could not be asked, for [Options.Journal]. For each tenant and journal it
// remembers the last entry that it knows. Told of entries of which it knows the
// first, or a later one, it changes nothing; all methods return the last entry
// that it knows then.
//
// An error of Take or Settle that has a method NotAsked() bool, which returns true,
// says that nothing was done, nor will be. One that has a method Receipt() string
// says that nobody knows: the connection broke before the answer came, say. The
// receipt names the question; told of it, the limiter sees to it that the question
// has one outcome for certain, even if it is still on its way.
//
// meteringtest.TestRestorer tests one, but for receipts.
type Restorer interface {
	// Restore counts r.Uses at the times when they happened, over the limit too.
	// A use that has left its window by now is not counted any more, and no use
	// for longer than if the limiter had been asked. The uses of a call with a
	// Key are left out, attempts excepted, if a charge of the same ID is known
	// under it; if none is known, it is remembered as by Take. So a call that is
	// sent again across the end of an outage is to cost what it did.
	Restore(ctx context.Context, r Restoration) (last int64, err error)

	// SettleLate settles d as Settle does. Receipt is that of a Settle of d that
	// failed, if it has one: then SettleLate changes nothing if that was carried
	// out, but for what it took in addition, which is given back.
	SettleLate(ctx context.Context, e Entries, d Decision, units int64, receipt string) (last int64, err error)

	// Withdraw undoes all that the Take of r has done whose error has the
	// receipt, attempts and loan too, if it was carried out.
	Withdraw(ctx context.Context, e Entries, r Request, receipt string) (last int64, err error)
}

// Entries are the entries of a journal from First to Last that are one tenant's.
type Entries struct {
	Tenant      tenant.ID
	Journal     string
	First, Last int64
}

// Restoration is what a limiter is told of calls that were let through.
type Restoration struct {
	Entries
	Uses []Use

	// Ledger says that Seed tells of what was used in a period before its counter
	// began, so that such uses are not counted.
	Ledger bool

	// Key is that of the call, if it has one: then it is the only call, and
	// KeyTTL, ID and Units are as in its [Request].
	Key    string
	KeyTTL time.Duration
	ID     string
	Units  int64
}

// Use is what was used of a bound at a time.
type Use struct {
	Bound Bound
	Time  time.Time
	Units int64
}

// Seeder is what a Limiter is besides if the counter of a period that it has
// lost can be filled again, for [Options.Ledger]. A counter has a beginning: all
// that was used from then on it has counted itself. It keeps it until it is lost.
// meteringtest.TestSeeder tests one.
type Seeder interface {
	// Since returns the beginning of the counter of b, which has a Period; if none
	// is known, it becomes the present. Final is set if Seed has been called for
	// the last time.
	Since(ctx context.Context, id tenant.ID, b Bound) (since time.Time, final bool, err error)

	// Seed says how many units were used from b.Start until since, and adds what
	// the counter does not have of them; nothing if it began at another time, or
	// has as many already.
	Seed(ctx context.Context, id tenant.ID, b Bound, since time.Time, units int64, final bool) error
}

// Ledger knows what has been recorded, for [Options.Ledger]. pgledger.Ledger is
// one.
type Ledger interface {
	// Units returns how many units the tenant's events from the time from until
	// before to were charged: those of one tool, or of all if tool is empty.
	Units(ctx context.Context, id tenant.ID, tool string, from, to time.Time) (int64, error)
}

// LedgerFunc makes a function a [Ledger].
type LedgerFunc func(ctx context.Context, id tenant.ID, tool string, from, to time.Time) (int64, error)

// Units calls f.
func (f LedgerFunc) Units(ctx context.Context, id tenant.ID, tool string, from, to time.Time) (int64, error) {
	return f(ctx, id, tool, from, to)
}
