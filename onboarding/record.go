package onboarding

import (
	"encoding/json"
	"maps"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Who may hold a tenant suspended or ask for its deletion.
const (
	ByBilling  = "billing"
	ByOperator = "operator"
)

// Spec is what a tenant should be. It is stored as JSON.
type Spec struct {
	Name     string      `json:"name,omitempty"`
	Email    string      `json:"email,omitempty"`
	Customer string      `json:"customer,omitempty"` // the billing provider's id
	Plan     tenant.Plan `json:"plan"`

	// The current billing period, [PeriodStart, PeriodEnd); zero without a
	// subscription.
	PeriodStart time.Time `json:"period_start,omitzero"`
	PeriodEnd   time.Time `json:"period_end,omitzero"`

	// Checkout is the id of the paid checkout session that asked for the
	// tenant, so that its return page can be told from a stranger's.
	Checkout string `json:"checkout,omitempty"`

	// Holds says who keeps the tenant suspended and why, by [ByBilling] or
	// [ByOperator]. Empty: it may serve.
	Holds map[string]string `json:"holds,omitempty"`

	// DeleteAt is when the tenant is to be deprovisioned; zero: it stays.
	// DeleteBy is who wants it.
	DeleteAt time.Time `json:"delete_at,omitzero"`
	DeleteBy string    `json:"delete_by,omitempty"`
}

func (s Spec) clone() Spec {
	s.Holds = maps.Clone(s.Holds)
	return s
}

func (s Spec) equal(o Spec) bool {
	return s.Name == o.Name && s.Email == o.Email && s.Customer == o.Customer && s.Plan == o.Plan &&
		s.PeriodStart.Equal(o.PeriodStart) && s.PeriodEnd.Equal(o.PeriodEnd) && s.Checkout == o.Checkout &&
		maps.Equal(s.Holds, o.Holds) && s.DeleteAt.Equal(o.DeleteAt) && s.DeleteBy == o.DeleteBy
}

// Record is where a tenant stands and what it should be. It is a value; a
// [State] hands out copies.
type Record struct {
	Tenant tenant.ID
	State  tenant.Status
	Spec   Spec

	// SpecVersion rises with every change of Spec; ObservedVersion is the one
	// that the tenant has reached.
	SpecVersion, ObservedVersion int64

	// BillingSeq is the largest [Desired.Seq] applied.
	BillingSeq int64

	// Generation rises with each deprovisioning, so that its steps are told
	// from those of one that was called off.
	Generation int64

	// Fence rises each time the lease is taken: a writer that holds an older
	// one writes nothing.
	Fence      int64
	LeaseOwner string    // empty: nobody works on it
	LeaseUntil time.Time // by the store's clock

	// NextAt is when there is work to do; zero: none until someone asks.
	NextAt time.Time

	// Failure is why the last operation isn't done; nil when nothing is wrong.
	Failure *Failure

	ArchiveName   string // where the verified archive lies
	ArchiveDigest string // SHA-256 of its manifest, in hex

	CreatedAt, UpdatedAt                        time.Time
	ActivatedAt, ClosedAt, ArchivedAt, BuriedAt time.Time // zero: not yet

	// Now is the store's clock when this copy was read. All decisions are
	// taken by it, so that replicas need not agree on the time.
	Now time.Time
}

// Failure is the last error of a tenant's operation, as it is kept.
type Failure struct {
	Step  string `json:"step"`
	Class Class  `json:"class"`
	Text  string `json:"text"` // for operators only: it may name tables or hosts
}

// StepState is where a step stands.
type StepState string

// The states of a step.
const (
	StepPending StepState = "pending" // not begun, or to be begun again
	StepRunning StepState = "running" // begun; after a crash it stays so until the next owner
	StepDone    StepState = "done"
	StepFailed  StepState = "failed" // waits for NextAt, or gave up
)

// StepRecord is one step of one operation, as it is kept.
type StepRecord struct {
	Op        string          `json:"op"` // "provision", "attend", "deprovision-1", "purge-1": kind and generation
	Name      string          `json:"name"`
	State     StepState       `json:"state"`
	Attempt   int             `json:"attempt"`          // how often it was begun since the last retry
	NextAt    time.Time       `json:"next_at,omitzero"` // zero unless it waits
	Failure   *Failure        `json:"failure,omitempty"`
	Output    json.RawMessage `json:"output,omitempty"`    // what Do returned; never a secret
	StartedAt time.Time       `json:"started_at,omitzero"` // of the last attempt
	EndedAt   time.Time       `json:"ended_at,omitzero"`
}

// Entry is a line of the audit log: an operator's act or a transition.
type Entry struct {
	Tenant tenant.ID     `json:"tenant"`
	At     time.Time     `json:"at"`    // set by the store
	Actor  string        `json:"actor"` // "billing", "reconciler", or who the operator is
	Action string        `json:"action"`
	Reason string        `json:"reason,omitempty"`
	From   tenant.Status `json:"from"` // equal to To where the state stayed
	To     tenant.Status `json:"to"`
}
