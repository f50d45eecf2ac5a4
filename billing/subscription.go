package billing

import (
	"context"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// SubscriptionStatus is a provider's word for how a subscription stands. The
// values are Stripe's eight (https://docs.stripe.com/api/subscriptions/object).
type SubscriptionStatus string

// The statuses of a subscription.
const (
	Incomplete        SubscriptionStatus = "incomplete"
	IncompleteExpired SubscriptionStatus = "incomplete_expired"
	Trialing          SubscriptionStatus = "trialing"
	Active            SubscriptionStatus = "active"
	PastDue           SubscriptionStatus = "past_due"
	Canceled          SubscriptionStatus = "canceled"
	Unpaid            SubscriptionStatus = "unpaid"
	Paused            SubscriptionStatus = "paused"
)

// Subscription is what the provider says of one tenant's subscription at the
// time it was asked.
type Subscription struct {
	ID                     string
	Customer               string
	Status                 SubscriptionStatus
	Plan                   tenant.Plan // from the flat price's lookup key
	PeriodStart, PeriodEnd time.Time
	CancelAtPeriodEnd      bool
	PastDueSince           time.Time // zero unless past_due
	CollectionPaused       bool
	EndedAt                time.Time // when it ended for good; zero while it runs
	Targets                []Target  // the metered items; both modes while migrating
}

// Notice is a provider's message that something of one object has changed: a
// webhook after its signature was verified. Its payload is a hint, never the
// truth; the truth is fetched.
type Notice struct {
	ID         string // the provider's event id; the same notice comes more than once
	Type       string // "customer.subscription.updated", ...
	Created    time.Time
	ObjectID   string // what changed: "sub_...", "cs_...", "in_..."
	Customer   string // "cus_..." where the payload names it
	APIVersion string
	Live       bool
	Payload    []byte

	// NotBefore is when it is to be worked on. Zero: at once.
	NotBefore time.Time
	// Pulled is set when it was asked for: see [MissedLister].
	Pulled bool
}

// Change is what the provider says now about the tenant that a notice speaks
// of. The zero Change concerns nobody and is ignored.
type Change struct {
	Tenant       tenant.ID
	Customer     string
	Email        string        // of the paying person, where known
	Checkout     string        // the id of the paid checkout session that asks for the tenant
	Subscription *Subscription // nil: none
	Purchase     *Purchase     // of units, for which the notice came; nil: none
	FlushUsage   bool          // a period has ended and its invoice is a draft: report its usage at once

	// Seq orders changes of one customer: it was drawn before the fetch, so a
	// change with a larger Seq is at least as recent. Subscribers ignore a
	// change whose Seq is below one that they have applied.
	Seq int64
}

// Purchase is what a tenant has paid for once: a number of units that are used
// before any is billed. The store of notices makes a grant of it, once for each
// ID, and takes as much of it back as was paid back.
type Purchase struct {
	ID    string // of the payment: "cs_..."
	Pack  string // what it is called in the catalog
	Units int64

	// Refunded is how many of Units were paid back so far. It never falls: what
	// was taken back isn't given again.
	Refunded int64

	// At and ExpiresAt bound the usage that the units are for. A zero ExpiresAt
	// is never.
	At, ExpiresAt time.Time
}

// PermanentError says that repeating is not expected to mend Err. An
// [InboxWorker] gives a notice up when its [Source], or [Subscriber], returns
// one.
type PermanentError struct {
	Err error
	// Tries is after how many attempts it is to be believed; zero means at the
	// first. For what may only look permanent: an object not found because its
	// message has overtaken it.
	Tries int
}

// Error returns the text of e.Err.
func (e *PermanentError) Error() string { return e.Err.Error() }

// Unwrap returns e.Err.
func (e *PermanentError) Unwrap() error { return e.Err }

// Source fetches the truth behind a notice. An error that is no
// [PermanentError] is worth another try.
type Source interface {
	Fetch(ctx context.Context, n Notice) (Change, error)
}

// Subscriber applies what the provider says to the tenant: plan, status,
// period, or its very existence. It must be idempotent, and must ignore a
// change that is older than one it has applied (Change.Seq).
type Subscriber interface {
	Apply(ctx context.Context, c Change) error
}

// SubscriberFunc is a function that is a [Subscriber].
type SubscriberFunc func(ctx context.Context, c Change) error

// Apply calls f.
func (f SubscriberFunc) Apply(ctx context.Context, c Change) error { return f(ctx, c) }

// Inbox keeps notices until they are applied. Accept returns once the notice
// is committed; fresh is false when it was there before.
type Inbox interface {
	Accept(ctx context.Context, n Notice) (fresh bool, err error)
}
