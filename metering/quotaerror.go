package metering

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Errors of a call that was not run, or not answered.
var (
	// ErrQuotaExceeded is matched by every refusal of a limit; see [QuotaError].
	ErrQuotaExceeded = errors.New("metering: quota exceeded")

	// ErrNotInPlan is matched when the tenant's plan does not have the tool.
	ErrNotInPlan = errors.New("metering: tool is not part of the plan")

	// ErrUnavailable is matched when the limiter can't be asked and the
	// tenant's plan is not served without it.
	ErrUnavailable = errors.New("metering: limiter is not available")

	// ErrUnauthenticated is returned for a call without a tenant in its context.
	ErrUnauthenticated error = callError("Unauthenticated")

	// ErrUnknownPlan is matched for a tenant whose plan the Meter does not know.
	ErrUnknownPlan error = callError("metering: the tenant's plan is not configured")

	// ErrInvalidKey is returned for an unusable idempotency key.
	ErrInvalidKey error = callError("metering: invalid " + MetaIdempotencyKey + ": want a string of 1 to 200 printable ASCII characters")

	// ErrNotRecorded is returned instead of a tool's answer when its usage
	// could not be made durable. The call has been given its units back; if the
	// sink knew it beforehand, the tool has not run.
	ErrNotRecorded error = callError("metering: usage can't be recorded; the call was not charged and has no answer, try again")
)

// callError is an error whose text may be shown to the caller of a tool.
type callError string

func (e callError) Error() string       { return string(e) }
func (e callError) UserMessage() string { return string(e) }

// Codes of a refusal, in its text and in its _meta.
const (
	CodeQuotaExceeded = "quota_exceeded"       // the plan is used up: a window of an hour or more, or a period
	CodeRateLimited   = "rate_limited"         // too fast: a shorter window, or too many attempts
	CodeNotInPlan     = "not_in_plan"          // the plan does not have the tool
	CodeUnavailable   = "metering_unavailable" // the limiter is away and the plan is not served without it
	CodeUnknownPlan   = "unknown_plan"         // the Meter does not know the tenant's plan: a mistake of the operator
)

// QuotaError is a refused call: the tool did not run and nothing was charged.
// It matches [ErrQuotaExceeded], or by its Code [ErrUnavailable], [ErrNotInPlan] or
// [ErrUnknownPlan]. Its text is meant for the agent that called.
type QuotaError struct {
	Code      string
	Tool      string
	Plan      tenant.Plan
	Limit     string // the name of the limit that refused; of several, of the one that holds the call the longest
	Units     int64  // what the call would have cost
	Allowed   int64  // what the limit allows
	Used      int64
	Remaining int64

	// RetryAfter is when the call would be admitted, if the tenant does not
	// use units meanwhile; negative means never under this plan.
	RetryAfter time.Duration

	// ResetAt is RetryAfter as a time by the limiter's clock; zero for never.
	ResetAt time.Time
}

// Error is the text that the agent reads.
func (e *QuotaError) Error() string {
	if e.Code == CodeUnavailable {
		return fmt.Sprintf("%s: %s can't be metered for plan %s at the moment; retry in %s", e.Code, e.Tool, e.Plan, seconds(e.RetryAfter))
	}
	if e.Code == CodeNotInPlan {
		return fmt.Sprintf("%s: %s is not part of plan %s", e.Code, e.Tool, e.Plan)
	}
	if e.Code == CodeUnknownPlan {
		return fmt.Sprintf("%s: %s can't be used; plan %s is not set up", e.Code, e.Tool, e.Plan)
	}
	if e.RetryAfter < 0 {
		return fmt.Sprintf("%s: %s limit reached for plan %s; the call costs %d units, more than the limit of %d (%s) ever allows", e.Code, e.Tool, e.Plan, e.Units, e.Allowed, e.Limit)
	}
	return fmt.Sprintf("%s: %s limit reached for plan %s; %d of %d units used (%s), retry in %s", e.Code, e.Tool, e.Plan, e.Used, e.Allowed, e.Limit, seconds(e.RetryAfter))
}

// UserMessage is Error: a refusal holds nothing that its caller may not see.
func (e *QuotaError) UserMessage() string { return e.Error() }

// Is makes errors.Is(err, ErrQuotaExceeded) work.
func (e *QuotaError) Is(target error) bool {
	switch e.Code {
	case CodeUnavailable:
		return target == ErrUnavailable
	case CodeNotInPlan:
		return target == ErrNotInPlan
	case CodeUnknownPlan:
		return target == ErrUnknownPlan
	}
	return target == ErrQuotaExceeded
}

// seconds rounds up: a caller that waits as told must be admitted.
func seconds(d time.Duration) string {
	return fmt.Sprintf("%ds", int64(math.Ceil(d.Seconds())))
}

func quotaError(d Decision, tool string, plan tenant.Plan) *QuotaError {
	at := d.Refused // or another that holds the call longer: its facts go with its wait
	for i, l := range d.Limits {
		if held := d.Limits[at].RetryAfter; held >= 0 && (l.RetryAfter < 0 || l.RetryAfter > held) {
			at = i
		}
	}
	bound, state := d.Request.Bounds[at], d.Limits[at]
	e := &QuotaError{
		Code:       CodeQuotaExceeded,
		Tool:       tool,
		Plan:       plan,
		Limit:      state.Name,
		Units:      bound.Weight(d.Request.Units),
		Allowed:    state.Units,
		Used:       state.Units - state.Remaining,
		Remaining:  state.Remaining,
		RetryAfter: state.RetryAfter,
	}
	if bound.Attempts || bound.short() {
		e.Code = CodeRateLimited
	}
	if e.RetryAfter >= 0 {
		e.ResetAt = d.Time.Add(e.RetryAfter)
	}
	return e
}
