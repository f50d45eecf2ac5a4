package billing

import (
	"context"
	"errors"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Mode is how a target takes usage.
type Mode string

// The modes of a target.
const (
	ModeMeter       Mode = "meter"        // events with an identifier, aggregated by the provider
	ModeUsageRecord Mode = "usage_record" // a quantity set at a timestamp of a subscription item (legacy)
	ModeInvoiceItem Mode = "invoice_item" // a charge by itself on the customer's next invoice: see [LateInvoiceItem]
)

// Target is the place at a provider that one tenant's usage goes to.
type Target struct {
	Tenant   tenant.ID `json:"tenant"`
	Provider string    `json:"provider"` // "stripe", "cloudevents", ...
	Mode     Mode      `json:"mode"`
	Customer string    `json:"customer"`           // the provider's customer id
	Meter    string    `json:"meter,omitempty"`    // the meter's event name (ModeMeter)
	MeterID  string    `json:"meter_id,omitempty"` // the meter's id, to read totals back (ModeMeter)
	Item     string    `json:"item,omitempty"`     // the subscription item's id (informative with ModeMeter)

	// Additive is set while the provider only adds to what is there and refuses
	// to overwrite it: usage records of a subscription with billing thresholds.
	Additive bool `json:"additive,omitempty"`
}

// Delivery is one sealed batch of usage on its way to its target. Quantity,
// Slot and period never change once it is sealed.
type Delivery struct {
	ID       string // UUID of the batch: the identifier of a meter event
	Target   Target
	Quantity int64

	// Slot is the batch's own timestamp: no other batch of the target has it.
	// Several may lie in one Caps.VerifyWindow.
	Slot                   time.Time
	PeriodStart, PeriodEnd time.Time

	// IdempotencyKey smooths the retries of one epoch; ID and Slot carry the
	// meaning, except where Caps.KeyOnly says otherwise.
	IdempotencyKey string

	// FirstSent and LastSent are zero before the first attempt.
	FirstSent, LastSent time.Time

	// WindowConfirmed is the sum of this target's other batches in the same
	// Caps.VerifyWindow that are confirmed: what a total that the provider
	// reports is compared with.
	WindowConfirmed int64
	// WindowUnproved is set when some other batch of the window may or may
	// not have been applied. Then a total that exceeds WindowConfirmed proves
	// nothing; one that equals it still proves that nothing else was applied.
	WindowUnproved bool
}

// Result says what a provider did with a delivery.
type Result int

// The results of a report. The zero value is Unknown: whatever isn't proved
// is unknown.
const (
	Unknown         Result = iota // may or may not have been applied
	Accepted                      // applied now
	AlreadyAccepted               // was applied by an earlier attempt
	NotApplied                    // surely not applied; try again after RetryAfter
	Rejected                      // surely not applied, and will never be
	Unauthorized                  // the credential is refused: nothing can be sent at all
)

// Receipt is a provider's answer to a report.
type Receipt struct {
	Result     Result
	RetryAfter time.Duration // with NotApplied and Unknown: the least wait, zero for the worker's own backoff
	RequestID  string        // the provider's, for support
	Reason     string        // why not, for an operator; never a secret

	// NewEpoch asks for another idempotency key at the next attempt: the
	// provider saved a failure under this one and would replay it.
	NewEpoch bool
}

// Presence is what a provider's totals say of a delivery.
type Presence int

// The presences of a delivery.
const (
	Ambiguous   Presence = iota // the totals fit neither
	Present                     // applied
	Absent                      // not applied
	Unsupported                 // the provider can't tell
)

// Proved returns what the provider's total of d's window says of d: for
// [Reporter]s to answer Verify with.
func (d Delivery) Proved(total int64) Presence {
	switch more := total - d.WindowConfirmed; {
	case more == 0:
		return Absent
	case more == d.Quantity && !d.WindowUnproved:
		return Present
	}
	return Ambiguous
}

// Caps are the rules of a provider for one target.
type Caps struct {
	// Overwrite is set when a repeated delivery replaces the first whatever
	// time has passed, so that it can be sent again while its period is open.
	Overwrite bool
	// DedupeWindow is how long a repeated delivery is recognised. After it
	// the worker verifies before it sends again.
	DedupeWindow time.Duration
	// KeyOnly is set when a repeated delivery is recognised by its idempotency
	// key and by nothing else: under another key it would be applied again.
	KeyOnly bool
	// VerifyLag is how long after a send the totals may not yet show it.
	VerifyLag time.Duration
	// SlotGranularity is the resolution of the provider's timestamps, in which
	// each batch needs a Slot of its own.
	SlotGranularity time.Duration
	// VerifyWindow is the span whose total the provider can tell: Slot rounded
	// down to a multiple of it ([time.Time.Truncate]) and what follows. Zero:
	// the whole billing period.
	VerifyWindow time.Duration
	MaxAge       time.Duration // oldest Slot that is taken; zero: the period's start
	MaxFuture    time.Duration // how far ahead of now a Slot may lie
	LateGrace    time.Duration // how long after the period's end its usage is still taken
	MaxPerSecond float64       // requests a second, over all targets
	MaxQuantity  int64         // largest quantity of one delivery; zero: no limit

	// VoidWindow is for how long after FirstSent a confirmed delivery can be
	// taken back ([Voider]); with Overwrite it can be while its period is open.
	// Zero: not by time.
	VoidWindow time.Duration
}

// Totaler is what a [Reporter] is besides if its provider tells what it has
// counted. [Worker.Reconcile] compares that with what was confirmed.
type Totaler interface {
	// UsageTotal returns what the provider has counted for t in [from, to):
	// whole hours, or exactly one billing period where Caps.VerifyWindow is
	// zero.
	UsageTotal(ctx context.Context, t Target, from, to time.Time) (int64, error)
}

// Reporter sends usage to a provider. Implementations are safe for concurrent
// use; the worker never has two deliveries of one target under way at once.
// They don't retry: the worker's tables do.
type Reporter interface {
	// Report sends d. It returns an error only for what is no answer about d
	// (a cancelled context, a target of another provider); the receipt's
	// Result is then Unknown.
	Report(ctx context.Context, d Delivery) (Receipt, error)
	// Verify reads the total of d's window back and says whether d is in it:
	// Absent when it is d.WindowConfirmed, Present when it is that and
	// d.Quantity, and nothing else is in doubt (d.WindowUnproved).
	Verify(ctx context.Context, d Delivery) (Presence, error)
	// Caps returns the rules for t, without any I/O.
	Caps(t Target) Caps
}

// ErrNoVoid is returned where a provider takes nothing back.
var ErrNoVoid = errors.New("billing: the provider takes nothing back")

// Voider is what a [Reporter] is besides if its provider can take back what it
// has accepted.
type Voider interface {
	// Void takes d, which was accepted, back. Its results are those of
	// Reporter.Report: Accepted and AlreadyAccepted mean that d counts for
	// nothing now, NotApplied and Rejected that it counts as before. Asking
	// again is harmless.
	Void(ctx context.Context, d Delivery) (Receipt, error)
}
