package billing

import (
	"context"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// NoticeState is where a notice stands in the inbox.
type NoticeState string

// The states of a notice.
const (
	NoticeNew     NoticeState = "new"     // waits, at first or for its next attempt
	NoticeWorking NoticeState = "working" // claimed; after its lease, as good as new
	NoticeApplied NoticeState = "applied" // the tenant is as the provider said
	NoticeIgnored NoticeState = "ignored" // concerns no tenant
	NoticeDead    NoticeState = "dead"    // failed too often, or for good: for an operator, with the reason
)

// NoticeClaim is a notice that the caller alone works on until its lease ends;
// no other notice of the same customer is claimed meanwhile.
type NoticeClaim struct {
	Notice
	Attempt int   // the fence
	Tries   int   // attempts since it was put in the queue, with this one
	Seq     int64 // drawn with the claim, so before the fetch: see [Change]
}

// NoticeVerdict is what became of a notice.
type NoticeVerdict struct {
	State  NoticeState
	Tenant tenant.ID // whom it concerned; zero: nobody, or not known yet
	NextAt time.Time // with NoticeNew
	// Interrupted is set when the work was cut short by the end of its own
	// process: it doesn't count as a try.
	Interrupted bool
	Reason      string
}

// NoticeStore is the durable side of the inbox; package pgledger keeps it in
// PostgreSQL.
type NoticeStore interface {
	Inbox

	// NextNotice claims a notice that is due, or returns nil.
	NextNotice(ctx context.Context, now time.Time, lease time.Duration) (*NoticeClaim, error)

	// Save keeps what the change says of customer, subscription and targets,
	// unless something more recent (by Seq) is kept already, and of a purchase.
	// What it learns
	// from the notice is when the change took effect. It returns the change
	// with its tenant corrected: a customer belongs to the tenant that it was
	// first saved with, whatever metadata says later. A change of a customer
	// that no tenant has, and that names none, is returned with a zero tenant.
	Save(ctx context.Context, now time.Time, n Notice, c Change) (Change, error)

	// FinishNotice records what became of a claim; [ErrFenced] when it is not
	// the notice's latest.
	FinishNotice(ctx context.Context, c NoticeClaim, now time.Time, v NoticeVerdict) error

	// LastPulls returns when the last pulls that came to their end began.
	LastPulls(ctx context.Context) (Pulls, error)

	// SavePull records that a pull came to its end, and when it began.
	SavePull(ctx context.Context, began time.Time, all bool) error

	// Stats is as in [Ledger].
	Stats(ctx context.Context, id tenant.ID) (Stats, error)
}
