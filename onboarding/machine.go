package onboarding

import (
	"errors"
	"fmt"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Event is what may happen to a tenant.
type Event string

// The events of a tenant's life.
const (
	EventStart       Event = "start"       // the reconciler begins to provision
	EventActivate    Event = "activate"    // every step is verified and the canary has passed
	EventFail        Event = "fail"        // an operation gave up
	EventRetry       Event = "retry"       // a failed operation begins again
	EventCancel      Event = "cancel"      // withdrawn before anything was made
	EventSuspend     Event = "suspend"     // unpaid, or an operator's hold
	EventResume      Event = "resume"      // the last hold is gone
	EventUpdate      Event = "update"      // a move to another tier begins
	EventUpdated     Event = "updated"     // the move is verified and done
	EventRollBack    Event = "roll_back"   // a failed move is given up, the old place stays
	EventSchedule    Event = "schedule"    // deletion is wanted; the door closes, the data stays
	EventRestore     Event = "restore"     // deletion is no longer wanted
	EventDeprovision Event = "deprovision" // the grace period is over
	EventPurge       Event = "purge"       // the archive was read back and is good
	EventBury        Event = "bury"        // nothing is left but the tombstone
)

// transitions is the whole life of a tenant. What isn't here is forbidden.
var transitions = map[tenant.Status]map[Event]tenant.Status{
	tenant.Requested: {
		EventStart:  tenant.Provisioning,
		EventCancel: tenant.Cancelled,
	},
	tenant.Provisioning: {
		EventActivate: tenant.Active,
		EventFail:     tenant.Failed,
	},
	tenant.Failed: {
		EventRetry:    tenant.Provisioning,
		EventSchedule: tenant.DeprovisionScheduled,
	},
	tenant.Active: {
		EventUpdate:   tenant.Updating,
		EventSuspend:  tenant.Suspended,
		EventSchedule: tenant.DeprovisionScheduled,
	},
	tenant.Updating: {
		EventUpdated: tenant.Active,
		EventSuspend: tenant.Suspended,
		EventFail:    tenant.UpdateFailed,
	},
	tenant.UpdateFailed: {
		EventRetry:    tenant.Updating,
		EventRollBack: tenant.Active,
	},
	tenant.Suspended: {
		EventResume:   tenant.Active,
		EventSchedule: tenant.DeprovisionScheduled,
	},
	tenant.DeprovisionScheduled: {
		EventRestore:     tenant.Active,
		EventDeprovision: tenant.Deprovisioning,
	},
	tenant.Deprovisioning: {
		EventPurge: tenant.Purging,
		EventFail:  tenant.DeprovisionFailed,
	},
	tenant.DeprovisionFailed: {
		EventRetry:    tenant.Deprovisioning,
		EventSchedule: tenant.DeprovisionScheduled,
	},
	tenant.Purging: {
		EventBury: tenant.Deleted,
	},
	tenant.Cancelled: {},
	tenant.Deleted:   {},
}

// Next returns where e takes a tenant that stands in from. A pair that the
// life of a tenant doesn't have is refused with a [*TransitionError]. It is a
// pure function: the whole state machine.
func Next(from tenant.Status, e Event) (tenant.Status, error) {
	to, ok := transitions[from][e]
	if !ok {
		return from, &TransitionError{From: from, Event: e}
	}
	return to, nil
}

// final reports whether s is a tombstone: the tenant is gone for ever and its
// id is never used again.
func final(s tenant.Status) bool { return s == tenant.Deleted || s == tenant.Cancelled }

// leaving reports whether s is past the grace period: the tenant can't be
// raised any more.
func leaving(s tenant.Status) bool {
	return s == tenant.Deprovisioning || s == tenant.DeprovisionFailed || s == tenant.Purging
}

var (
	// ErrForbidden is matched by every [*TransitionError]: the tenant's state
	// doesn't allow what was asked. Nothing was changed.
	ErrForbidden = errors.New("onboarding: forbidden transition")

	// ErrTombstone is matched by a [*TransitionError] of a tenant that is
	// deleted or on its way there. Its id is never used again.
	ErrTombstone = errors.New("onboarding: tenant is gone")

	// ErrUnknownTenant says that there is no such tenant, and that what was
	// asked doesn't make one.
	ErrUnknownTenant = errors.New("onboarding: unknown tenant")

	// ErrInvalid is matched by an error about what was asked; its text names
	// the field. Nothing was changed.
	ErrInvalid = errors.New("onboarding: invalid request")
)

// TransitionError says that a tenant in state From can't take Event. Nothing
// was changed.
type TransitionError struct {
	Tenant tenant.ID // zero from [Next]
	From   tenant.Status
	Event  Event
}

func (e *TransitionError) Error() string {
	if e.Tenant.IsZero() {
		return fmt.Sprintf("onboarding: %s a tenant that is %s: forbidden", e.Event, e.From)
	}
	return fmt.Sprintf("onboarding: %s tenant %s that is %s: forbidden", e.Event, e.Tenant, e.From)
}

// Is matches [ErrForbidden], and [ErrTombstone] where the tenant is gone.
func (e *TransitionError) Is(target error) bool {
	return target == ErrForbidden || target == ErrTombstone && (final(e.From) || leaving(e.From))
}
