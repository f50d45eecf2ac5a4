package monitor

import (
	"context"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Spec is what is to be watched.
type Spec struct {
	Tenant tenant.ID
	URL    string // what the monitor calls; empty where there is nothing public to call
	Kind   string // "http" for a health page, "mcp" for a server

	// Key identifies the monitor that this spec asks for: Ensure with the
	// same Key makes no second one.
	Key string
}

// Ref names a monitor where it lives.
type Ref struct {
	Provider string `json:"provider"`
	ID       string `json:"id,omitempty"`
	Key      string `json:"key"` // the spec's; Remove goes by it when there is no ID

	// ManualRequired is set when a person has to make the monitor, with what
	// is said in Note. It is never a pretended success.
	ManualRequired bool   `json:"manual_required,omitempty"`
	Note           string `json:"note,omitempty"`
}

// State is what a monitor says.
type State string

// The states of a monitored thing.
const (
	Unknown  State = "unknown"
	Live     State = "live"
	Degraded State = "degraded"
	Down     State = "down"
)

// Status is what a monitor says and since when.
type Status struct {
	State State
	At    time.Time // of the last probe; zero: none yet
}

// Monitor makes and removes external monitors. Ensure and Remove are
// idempotent, and Remove of one that is gone is a success. Implementations are
// safe for concurrent use.
type Monitor interface {
	// Ensure makes the monitor that s asks for, unless it is there.
	Ensure(ctx context.Context, s Spec) (Ref, error)
	// Remove ends a monitor.
	Remove(ctx context.Context, r Ref) error
	// Status asks what a monitor sees.
	Status(ctx context.Context, r Ref) (Status, error)
}

// Noop monitors nothing. It is for servers that are watched by other means.
type Noop struct{}

var _ Monitor = Noop{}

// Ensure implements [Monitor].
func (Noop) Ensure(_ context.Context, s Spec) (Ref, error) {
	return Ref{Provider: "none", Key: s.Key}, nil
}

// Remove implements [Monitor].
func (Noop) Remove(context.Context, Ref) error { return nil }

// Status implements [Monitor]: it is always Unknown.
func (Noop) Status(context.Context, Ref) (Status, error) { return Status{State: Unknown}, nil }

// Manual is for a monitoring service that has no interface to make monitors
// by: it says what a person has to enter there. The step is shown as
// manual_required for ever; nobody tells Manual that it was done.
type Manual struct {
	// Service is the name of the service, for the note.
	// Defaults to "the monitoring service".
	Service string
}

var _ Monitor = Manual{}

// Ensure implements [Monitor].
func (m Manual) Ensure(_ context.Context, s Spec) (Ref, error) {
	return Ref{Provider: "manual", Key: s.Key, ManualRequired: true, Note: "enter " + s.URL + " at " + m.service()}, nil
}

// Remove implements [Monitor]. There is nothing that it could remove: the
// note that Ensure gave stays in the tenant's steps.
func (m Manual) Remove(context.Context, Ref) error { return nil }

// Status implements [Monitor]: it is always Unknown.
func (Manual) Status(context.Context, Ref) (Status, error) { return Status{State: Unknown}, nil }

func (m Manual) service() string {
	if m.Service == "" {
		return "the monitoring service"
	}
	return m.Service
}
