package tenant

import (
	"context"
	"errors"
	"slices"
	"time"
)

// ErrNone is returned by code that needs a tenant and finds none in its
// context.
var ErrNone = errors.New("tenant: no tenant in context")

// ErrUnauthenticated is matched by the errors with which a credential is
// refused: malformed, unknown, expired or revoked. Whoever presents such a
// credential learns nothing more. An authenticator's error that doesn't match
// it means that the credential could not be judged.
var ErrUnauthenticated = errors.New("tenant: invalid credential")

// Plan names what a tenant has bought. The set of plans is the application's
// own; these four are the defaults of this module.
type Plan string

// The default plans.
const (
	Free       Plan = "free"
	Starter    Plan = "starter"
	Pro        Plan = "pro"
	Enterprise Plan = "enterprise"
)

// Status is where a tenant stands in its life. Package onboarding owns the
// transitions between them.
type Status string

// The statuses of a tenant's life, in the order in which a tenant usually
// passes them.
const (
	Requested            Status = "requested"
	Provisioning         Status = "provisioning"
	Failed               Status = "failed"
	Active               Status = "active"
	Updating             Status = "updating"
	UpdateFailed         Status = "update_failed"
	Suspended            Status = "suspended"
	DeprovisionScheduled Status = "deprovision_scheduled"
	Deprovisioning       Status = "deprovisioning"
	DeprovisionFailed    Status = "deprovision_failed"
	Purging              Status = "purging"
	Cancelled            Status = "cancelled"
	Deleted              Status = "deleted"
)

// Serves reports whether a tenant in this status may call tools.
func (s Status) Serves() bool {
	return s == Active || s == Updating || s == UpdateFailed
}

// Gone reports whether a tenant in this status has left for good: its
// credentials are refused as if they had never been.
func (s Status) Gone() bool {
	return s == Purging || s == Cancelled || s == Deleted
}

// Scopes that this module gives a meaning to. An application may define more.
const (
	ScopeTools      = "tools:*"     // every tool; a single one is "tool:" + its name
	ScopeHealthRead = "health:read" // the tenant's health in detail
	ScopeExport     = "export"      // the tenant's data in bulk
	ScopeCanary     = "canary"      // the platform's own probe: health tools only, recorded, never billed
)

// Tenant is who is calling: the customer, what it bought, and the principal
// within it. It is a value; copies are independent but for Scopes and Limits,
// which must not be modified.
type Tenant struct {
	ID     ID
	Plan   Plan
	Status Status

	// Version rises with every change of the tenant's plan, status, period or
	// limits, so that two copies can be told apart by age.
	Version int64

	// PeriodStart and PeriodEnd bound the current billing period,
	// [PeriodStart, PeriodEnd), in UTC; both are zero for a tenant without a
	// subscription.
	PeriodStart, PeriodEnd time.Time

	// Limits are the tenant's own, beside and instead of those of its plan.
	Limits []Limit

	// Subject is the principal within the tenant (an API key's id, a token's
	// subject); empty outside of a call.
	Subject string

	// Scopes are what the credential of this call allows.
	Scopes []string
}

// HasScope reports whether the credential of this call carries scope.
func (t Tenant) HasScope(scope string) bool { return slices.Contains(t.Scopes, scope) }

// AllowsTool reports whether the credential of this call may call the tool.
func (t Tenant) AllowsTool(name string) bool {
	return t.HasScope(ScopeTools) || t.HasScope("tool:"+name)
}

type contextKey struct{}

// NewContext returns a context that carries t.
func NewContext(ctx context.Context, t Tenant) context.Context {
	return context.WithValue(ctx, contextKey{}, t)
}

// FromContext returns the tenant that ctx carries. ok is false, and the tenant
// is zero, when there is none or when the one there has no ID.
func FromContext(ctx context.Context) (t Tenant, ok bool) {
	t, ok = ctx.Value(contextKey{}).(Tenant)
	if t.ID.IsZero() {
		return Tenant{}, false
	}
	return t, ok
}
