package stripebill

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
)

// errForeignAnswer is a success that doesn't show the object that was asked
// for: a proxy, a captive portal, a wrong APIBase.
var errForeignAnswer = errors.New("stripe: an answer that is not Stripe's")

// classify says what the answer to a report proves. Only a refusal in Stripe's
// own words, with a status in 4xx, proves that nothing was applied; 409 means
// that an earlier attempt is still running, and everything else may have been
// applied.
func classify(resp response, err error) billing.Receipt {
	r := billing.Receipt{RequestID: resp.requestID}
	if err == nil {
		r.Result = billing.Accepted
		if resp.replayed {
			r.Result = billing.AlreadyAccepted
		}
		return r
	}
	r.Reason = err.Error()
	refused, ok := errors.AsType[*APIError](err)
	if !ok {
		r.Result = billing.Unknown
		return r
	}
	switch {
	case duplicateIdentifier(refused):
		r.Result = billing.AlreadyAccepted
		r.Reason = ""
	case refused.Status >= http.StatusInternalServerError:
		// Stripe saves a failure under the key and replays it for a day
		// (https://docs.stripe.com/api/idempotent_requests), so the next
		// attempt needs another. What makes a repetition harmless is the
		// identifier or the slot, not the key.
		r.Result = billing.Unknown
		r.NewEpoch = true
	case refused.Type == "idempotency_error" && refused.Status != http.StatusConflict:
		// The key was used with other parameters: by an earlier release, say,
		// that encoded this delivery otherwise. That attempt may have landed.
		r.Result = billing.Unknown
		r.NewEpoch = true
	case refused.Status == http.StatusConflict:
		r.Result = billing.Unknown
		r.RetryAfter = 2 * time.Second
	case refused.Status == http.StatusTooManyRequests:
		r.Result = billing.NotApplied
		r.RetryAfter = time.Second
	case errors.Is(refused, ErrUnauthorized):
		r.Result = billing.Unauthorized
	case refused.Status == http.StatusBadRequest && refused.Param == "action":
		// The subscription has billing thresholds since its last webhook, after
		// the next of which Target.Additive is set.
		r.Result = billing.NotApplied
		r.RetryAfter = time.Minute
	case refused.Status >= http.StatusBadRequest && inFuture(refused):
		// Clocks differ by more than Stripe's five minutes. It will be taken
		// later.
		r.Result = billing.NotApplied
		r.RetryAfter = time.Minute
	case refused.Status >= http.StatusBadRequest:
		r.Result = billing.Rejected
	default:
		r.Result = billing.Unknown
		r.Reason = fmt.Sprintf("status %d with an error", refused.Status)
	}
	return r
}

// duplicateIdentifier recognises a meter event that was sent before. Stripe
// refuses it with a 400; its code was not always there, its words were.
func duplicateIdentifier(e *APIError) bool {
	return e.Status == http.StatusBadRequest &&
		(e.Code == "duplicate_meter_event" || strings.Contains(e.Message, "already exists with identifier"))
}

func inFuture(e *APIError) bool {
	return strings.Contains(e.Code, "in_future") || strings.Contains(e.Code, "in_the_future") ||
		strings.Contains(e.Message, "in the future")
}
