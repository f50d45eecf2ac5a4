package billing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Verb is what a person may decide about a batch.
type Verb string

// The verbs. Each says in which states it may be used; it does nothing, without
// an error, to a batch that is already what it asks for.
const (
	// VerbRequeue puts a parked or rejected batch back on its way, after the
	// cause was mended. One that may have been applied is looked up first.
	VerbRequeue Verb = "requeue"
	// VerbMove has a batch that was surely not applied (sealed, parked or
	// rejected) billed with the target's present period, by another batch of
	// the same events.
	VerbMove Verb = "move_to_period"
	// VerbWriteOff gives a batch up that is sealed, parked or rejected: it is
	// never sent again. One that was in doubt remains so at the provider.
	VerbWriteOff Verb = "write_off"
	// VerbVoid takes a confirmed batch back at the provider, within the time
	// that it allows for that (Caps.VoidWindow). For good: its usage is not
	// billed again.
	VerbVoid Verb = "void"
)

// Order is a decision about one batch. All of it goes on record.
type Order struct {
	Verb   Verb
	Batch  string // the batch's id
	Actor  string // who decided
	Reason string // why
}

// Outcome is how a batch stands after an order.
type Outcome struct {
	Batch     string    `json:"batch"`
	Tenant    tenant.ID `json:"tenant"`
	Verb      Verb      `json:"verb"`
	State     State     `json:"state"`
	Quantity  int64     `json:"quantity"`
	Changed   bool      `json:"changed"`             // false: it was so before
	Successor string    `json:"successor,omitempty"` // the batch that stands for one that was moved
}

// RefusedError says why an order can't be carried out on a batch as it is.
type RefusedError struct {
	Verb   Verb
	Batch  string
	State  State
	Reason string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("billing: %s batch %s: it is %s: %s", e.Verb, e.Batch, e.State, e.Reason)
}

// Books is what an [Operator] needs of a ledger.
type Books interface {
	// Operate carries an order out, in one transaction that workers can't come
	// between, and records it. A void comes back as a claim, with the batch in
	// StateVoiding, or as it was before in the claim: the provider has to be
	// asked, and SettleVoid told.
	Operate(ctx context.Context, o Order, lease time.Duration, caps func(Target) Caps) (Outcome, *Claim, error)

	// SettleVoid records what became of a void: StateVoided, StateConfirmed
	// when it was not taken back, or StateVoiding as long as nobody knows. It
	// returns [ErrFenced] when the claim is not the latest.
	SettleVoid(ctx context.Context, c Claim, o Order, s State, r Receipt) error

	// Record notes a decision that is not about a batch.
	Record(ctx context.Context, id tenant.ID, verb, actor, reason string, detail any) error

	// Drifts returns what [Worker.Reconcile] has found of a tenant.
	Drifts(ctx context.Context, id tenant.ID) ([]Drift, error)
}

// Operator is the door for people: what workers leave to them, they decide
// here. Every order is idempotent, on record, and safe beside workers and other
// operators. An Operator is safe for concurrent use.
type Operator struct {
	books  Books
	worker *Worker
}

// NewOperator returns an operator of books. It reaches the provider by w's
// reporter; w need not run.
func NewOperator(books Books, w *Worker) (*Operator, error) {
	var errs []error
	if books == nil {
		errs = append(errs, errors.New("books are nil"))
	}
	if w == nil {
		errs = append(errs, errors.New("worker is nil"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("billing: new operator: %w", err)
	}
	return &Operator{books: books, worker: w}, nil
}

// Do carries an order out. Asking again is asking once: a batch that is what the
// order asks for is left alone. A [*RefusedError] says that the batch is in a
// state, or of an age, in which the order is not allowed; a void of which nobody
// knows whether the provider took it back is one too, with StateVoiding, and is
// to be asked for again.
func (o *Operator) Do(ctx context.Context, order Order) (Outcome, error) {
	if err := accountable(order.Actor, order.Reason); err != nil {
		return Outcome{}, fmt.Errorf("billing: %s: %w", order.Verb, err)
	}
	voider, ok := o.worker.reporter.(Voider)
	if order.Verb == VerbVoid && !ok {
		return Outcome{}, ErrNoVoid
	}
	w := o.worker
	out, claim, err := o.books.Operate(ctx, order, w.opts.Lease, w.reporter.Caps)
	if err != nil || claim == nil {
		return out, err
	}
	state, receipt := o.void(ctx, voider, claim)
	settle, cancel := outlive(ctx, w.opts.CallTimeout, writeGrace)
	defer cancel()
	if err := o.books.SettleVoid(settle, *claim, order, state, receipt); err != nil {
		return out, err
	}
	out.State, out.Changed = state, state != claim.State
	switch state {
	case StateConfirmed:
		return out, &RefusedError{order.Verb, order.Batch, state, "the provider did not take it back: " + receipt.Reason}
	case StateVoiding:
		return out, &RefusedError{order.Verb, order.Batch, state, "the provider may or may not have taken it back, ask again: " + receipt.Reason}
	}
	return out, nil
}

// accountable refuses a decision that nobody answers for.
func accountable(actor, reason string) error {
	if actor == "" {
		return errors.New("actor is empty: who decides?")
	}
	if reason == "" {
		return errors.New("reason is empty: why?")
	}
	return nil
}

// void asks the provider. What was asked before, and may have been done, is told
// by the totals, once they must show it and this attempt surely changed nothing.
func (o *Operator) void(ctx context.Context, v Voider, c *Claim) (State, Receipt) {
	r := o.call(ctx, func(ctx context.Context) (Receipt, error) { return v.Void(ctx, c.Delivery) })
	switch r.Result {
	case Accepted, AlreadyAccepted:
		return StateVoided, r
	case Unknown:
		return StateVoiding, r
	}
	if c.State == StateConfirmed {
		return StateConfirmed, r
	}
	caps := o.worker.reporter.Caps(c.Target)
	if o.worker.opts.Now().Before(c.LastSent.Add(caps.VerifyLag)) {
		return StateVoiding, r
	}
	var presence Presence
	o.call(ctx, func(ctx context.Context) (_ Receipt, err error) {
		presence, err = o.worker.reporter.Verify(ctx, c.Delivery)
		if err != nil {
			presence = Ambiguous
		}
		return Receipt{}, err
	})
	switch presence {
	case Present:
		return StateConfirmed, r
	case Absent:
		return StateVoided, r
	}
	return StateVoiding, r
}

func (o *Operator) call(ctx context.Context, f func(context.Context) (Receipt, error)) (r Receipt) {
	ctx, cancel := outlive(ctx, o.worker.opts.CallTimeout, callGrace)
	defer cancel()
	// The reporter is the application's code.
	defer func() {
		if p := recover(); p != nil {
			r = Receipt{Reason: fmt.Sprintf("reporter panicked: %v", p)}
		}
	}()
	r, err := f(ctx)
	if err != nil {
		return Receipt{Reason: err.Error()}
	}
	return r
}

// Reconcile compares one tenant's usage with the provider's totals now, as
// [Worker.Reconcile] does for all, and returns the differences.
func (o *Operator) Reconcile(ctx context.Context, id tenant.ID, actor, reason string) ([]Drift, error) {
	if err := accountable(actor, reason); err != nil {
		return nil, fmt.Errorf("billing: reconcile: %w", err)
	}
	if err := o.worker.ReconcileTenant(ctx, id); err != nil {
		return nil, err
	}
	drifts, err := o.books.Drifts(ctx, id)
	if err != nil {
		return nil, err
	}
	return drifts, o.books.Record(ctx, id, "reconcile", actor, reason, map[string]int{"drifts": len(drifts)})
}
