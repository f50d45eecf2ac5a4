package billing

import (
	"context"
	"errors"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// ErrFenced is returned by [Ledger.Settle] when the claim is no longer the
// latest of its batch: its lease ran out and another worker took over. The
// other worker's answer counts.
var ErrFenced = errors.New("billing: claim was taken over")

// Ledger is the durable state of the pipeline; package pgledger keeps it in
// PostgreSQL. Every method is one transaction, committed when it returns
// (Seal: one for each batch). It is used by many workers at once.
type Ledger interface {
	// Backlog returns the tenants with billable usage in no batch yet, those
	// whose billing period ends before soon first.
	Backlog(ctx context.Context, now, soon time.Time) (Backlog, error)

	// Seal moves the tenant's billable usage into batches with slots of their
	// own and returns how many there are. Usage whose period is not yet known,
	// or for which no slot is free yet, stays for a later call.
	Seal(ctx context.Context, id tenant.ID, now time.Time, caps func(Target) Caps) (sealed int, err error)

	// Open returns the targets with batches on their way, those whose billing
	// period ends before soon first; only those of one tenant unless id is
	// zero.
	Open(ctx context.Context, id tenant.ID, soon time.Time) ([]OpenTarget, error)

	// Claim takes the first open batch of the target under a lease, after
	// decide has said what for. First is what was sent and is in doubt, the
	// latest before the others, then the rest in order of their slots: so
	// nothing is sent while the fate of another batch is open. It returns nil
	// when there is none, when it is claimed by another, or not due yet. A
	// decision to hold is carried out and returned, and so is what is due to
	// lateness ([LatePolicy]): the claim has the new state, or holds, and needs
	// no Settle.
	Claim(ctx context.Context, target int64, now time.Time, lease time.Duration, caps Caps, decide func(Batch) Decision) (*Claim, error)

	// Settle records what became of a claim. It returns [ErrFenced], and
	// changes nothing, when the claim is not the latest.
	Settle(ctx context.Context, c Claim, now time.Time, v Verdict) error

	// BeginReconcile gives the comparison with the provider's totals to the
	// caller, unless somebody has begun one after since.
	BeginReconcile(ctx context.Context, now, since time.Time) (bool, error)

	// Spans returns what of each target's usage is to be compared: the billing
	// periods that are running, or ended in the last three days. Those that
	// follow on each other are one span where Caps.VerifyWindow isn't zero.
	Spans(ctx context.Context, now time.Time, caps func(Target) Caps) ([]Span, error)

	// Sum returns what the ledger has of a span; what was confirmed after fresh
	// may not be in the provider's total yet.
	Sum(ctx context.Context, s Span, fresh time.Time) (Sum, error)

	// SaveDrifts records the drifts that a comparison of the span has found,
	// in place of those that earlier ones had.
	SaveDrifts(ctx context.Context, s Span, now time.Time, found []Drift) error

	// EndReconcile records that all spans were compared.
	EndReconcile(ctx context.Context, now time.Time) error

	// Stats returns the numbers that tell whether usage reaches the provider,
	// of one tenant unless id is zero.
	Stats(ctx context.Context, id tenant.ID) (Stats, error)
}

// Backlog is the usage that waits to be sealed.
type Backlog struct {
	Tenants []tenant.ID
	// NextClose is when the next billing period ends; zero: none is known.
	NextClose time.Time
}

// OpenTarget is a target with batches on their way.
type OpenTarget struct {
	ID     int64
	Target Target
	// NextAt is when its first batch may be claimed: its backoff's end, or its
	// lease's.
	NextAt time.Time
}

// StatsLimit is where the counts in [Stats] stop, so that counting costs the
// same however bad things are.
const StatsLimit = 1000

// Stats are the numbers behind the billing health checks. Counts stop at
// [StatsLimit]; a zero time means none, and is left out of its JSON.
type Stats struct {
	OldestUnsealed    time.Time `json:"oldest_unsealed,omitzero"`    // billable usage in no batch yet: when it was recorded
	OldestUnconfirmed time.Time `json:"oldest_unconfirmed,omitzero"` // batches on their way: when the oldest was sealed
	Unsealed          int       `json:"unsealed"`                    // events
	Open              int       `json:"open"`                        // batches on their way, of which Unknown
	Unknown           int       `json:"unknown"`
	Parked            int       `json:"parked"`
	Rejected          int       `json:"rejected"`

	// AtRisk counts the targets with usage that should have been sent by now,
	// and whose billing period is about to end or has ended.
	AtRisk int `json:"at_risk"`

	// Drifting counts the windows whose total at the provider is not what was
	// confirmed, and Drift is by how many units, whether more or less; as of
	// LastReconcile.
	Drifting      int       `json:"drifting"`
	Drift         int64     `json:"drift"`
	LastReconcile time.Time `json:"last_reconcile,omitzero"`

	LastAnswer   time.Time `json:"last_answer,omitzero"`  // last call that the provider answered under our credential
	Unauthorized time.Time `json:"unauthorized,omitzero"` // when it refused the credential, unless it took one since

	LastNotice     time.Time `json:"last_notice,omitzero"`   // last webhook received
	LastPull       time.Time `json:"last_pull,omitzero"`     // when webhooks that were missed were last asked for
	Unheard        time.Time `json:"unheard,omitzero"`       // since when notices have come by that alone; zero: webhooks arrive
	OldestNotice   time.Time `json:"oldest_notice,omitzero"` // oldest notice not applied yet: when it was received
	PendingNotices int       `json:"pending_notices"`
	DeadNotices    int       `json:"dead_notices"`
}
