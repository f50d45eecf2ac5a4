package onboarding

import (
	"context"
	"errors"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

var (
	// ErrLeaseLost says that somebody else has taken over the tenant, or that
	// its state was changed meanwhile. Nothing was written.
	ErrLeaseLost = errors.New("onboarding: lease lost")

	// ErrNoneDue says that there is no work to do now.
	ErrNoneDue = errors.New("onboarding: no tenant is due")
)

// Change edits a record and returns what the audit log is to say of it. It may
// run again when the store retries, so it must depend on nothing but the
// record. An error of it leaves everything unchanged and is handed on.
type Change func(*Record) ([]Entry, error)

// State keeps what the provisioner must not forget. Package pgstate has it on
// PostgreSQL. Implementations are safe for concurrent use, by several
// processes at once; each method is one transaction.
type State interface {
	// Load returns the tenant's record, or [ErrUnknownTenant].
	Load(ctx context.Context, id tenant.ID) (Record, error)

	// Update locks the tenant's record, lets change edit it, and writes it,
	// the tenant's entry in the directory, the audit entries and the
	// notification to the replicas, all at once or not at all. Where there is
	// none it makes one in state [tenant.Requested] if create is set, else it
	// returns [ErrUnknownTenant]. It takes no lease: the fence stays.
	Update(ctx context.Context, id tenant.ID, create bool, change Change) (Record, error)

	// Claim takes the lease of the tenant that is due the longest and that
	// nobody holds, raising its fence. It returns [ErrNoneDue] when there is
	// none. The lease ends by itself after ttl.
	Claim(ctx context.Context, owner string, ttl time.Duration) (Record, error)

	// Renew extends the lease, or returns [ErrLeaseLost].
	Renew(ctx context.Context, held Record, ttl time.Duration) error

	// Advance is Update for the holder of the lease: it returns
	// [ErrLeaseLost] unless the record still has held's Fence.
	Advance(ctx context.Context, held Record, change Change) (Record, error)

	// Steps returns the steps of an operation, in the order of their making.
	Steps(ctx context.Context, id tenant.ID, op string) ([]StepRecord, error)

	// PutStep writes one step, or returns [ErrLeaseLost] unless the record
	// still has held's Fence and State.
	PutStep(ctx context.Context, held Record, step StepRecord) error

	// Watch calls wake whenever another process may have made a tenant due,
	// until ctx ends. It is a shortcut only: the provisioner polls as well.
	Watch(ctx context.Context, wake func()) error
}
