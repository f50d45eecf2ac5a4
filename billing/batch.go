package billing

import "time"

// State is where a batch stands; the package comment has the table of
// transitions.
type State string

// The states of a batch.
const (
	StateSealed     State = "sealed"      // waits to be sent; no send of it was ever applied
	StateSending    State = "sending"     // claimed for a send; after its lease, as good as unknown
	StateVerifying  State = "verifying"   // claimed for a look at the provider's totals
	StateUnknown    State = "unknown"     // was sent, and may or may not have been applied
	StateConfirmed  State = "confirmed"   // applied, proved
	StateParked     State = "parked"      // can't be proved either way, or comes too late: for an operator
	StateRejected   State = "rejected"    // the provider will never take it: for an operator
	StateVoiding    State = "voiding"     // was applied, and is being taken back: an operator asked, and asks again
	StateVoided     State = "voided"      // was applied, and taken back
	StateWrittenOff State = "written_off" // given up, by an operator or by policy
	StateMoved      State = "moved"       // came too late for its period: another batch stands for it, in the next or by itself
)

// Batch is a sealed sum of usage and how far its delivery has come.
type Batch struct {
	Delivery

	TargetID int64 // the ledger's id of Delivery.Target
	State    State
	Attempt  int       // rises with every claim: the fence that a late answer must match
	Epoch    int       // part of the idempotency key
	EpochAt  time.Time // when this epoch's key was first used; zero: not yet

	// WindowSent is when another batch of the same Caps.VerifyWindow, confirmed
	// or in doubt, was last sent; zero: there is none.
	WindowSent time.Time

	// Refused is set when the provider refused a repeated delivery for good
	// while an earlier one may have been applied: it must be looked up, not
	// sent.
	Refused bool
}

// Step is what a worker does next with a batch.
type Step int

// The steps.
const (
	StepHold   Step = iota // nothing before Decision.Until
	StepSend               // report it
	StepVerify             // ask the provider whether it has it
	StepLate               // its period takes no more: what LatePolicy says
)

// Decision is the next step of one batch.
type Decision struct {
	Step     Step
	Until    time.Time // with StepHold
	Reason   string    // with StepLate
	NewEpoch bool      // with StepSend: under a new idempotency key
}

// LatePolicy is what becomes of usage that its billing period takes no more, be
// it that it came late or that it could not be sent in time, and that was surely
// not applied. Usage in doubt is never subject to it, and usage older than 35 days
// is always parked.
type LatePolicy string

// The policies. The first is the default.
const (
	LateNextPeriod LatePolicy = "next_period" // billed with the present period, on record as late
	LatePark       LatePolicy = "park"        // parked: an operator decides
	LateWriteOff   LatePolicy = "write_off"   // never billed, on record as written off

	// LateInvoiceItem has it charged by itself: as an item of the customer's next
	// invoice that says of which period it is, in place of a batch that the period
	// took no more (StateMoved). Where a provider makes none it is LateNextPeriod.
	LateInvoiceItem LatePolicy = "invoice_item"
)

// Claim is a batch that the caller alone may work on until its lease ends. The
// batch's FirstSent and LastSent are those before this claim.
type Claim struct {
	Batch
	Decision
}

// Verdict is what became of a claim.
type Verdict struct {
	State  State
	NextAt time.Time // not to be claimed before

	Clean    bool // no send was applied: forget FirstSent and LastSent
	NewEpoch bool // the next send needs another idempotency key
	Refused  bool // see [Batch]

	RequestID string
	Reason    string

	// Answered is set when the provider took our credential, Unauthorized when
	// it refused it.
	Answered, Unauthorized bool
}
