package stripebill

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

var (
	// ErrUnauthorized is matched when Stripe refuses the credential.
	ErrUnauthorized = errors.New("stripebill: the Stripe key is refused")
	// ErrNotFound is matched when Stripe has no object of that id.
	ErrNotFound = errors.New("stripebill: no such object at Stripe")
)

// APIError is a refusal by Stripe. It matches [ErrUnauthorized] and
// [ErrNotFound]. See https://docs.stripe.com/api/errors.
type APIError struct {
	Status    int    // the HTTP status
	Type      string // "invalid_request_error", "idempotency_error", "api_error", ...
	Code      string // "resource_missing", "rate_limit", ...; often empty
	Param     string // the parameter it is about
	Message   string // Stripe's own words, for an operator
	RequestID string // for Stripe's support
}

// Error names the refusal without anything secret.
func (e *APIError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "stripe: %d %s", e.Status, e.Type)
	if e.Code != "" {
		b.WriteString(" " + e.Code)
	}
	// The message of a 401 quotes a part of the key.
	if e.Message != "" && e.Status != http.StatusUnauthorized {
		b.WriteString(": " + e.Message)
	}
	if e.RequestID != "" {
		b.WriteString(" (request " + e.RequestID + ")")
	}
	return b.String()
}

// Is reports whether the refusal is of the kind of target.
func (e *APIError) Is(target error) bool {
	switch target {
	case ErrUnauthorized:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
	case ErrNotFound:
		return e.Status == http.StatusNotFound || e.Code == "resource_missing"
	}
	return false
}

// transportError is a request without a usable answer. Its text has no URL, no
// address and no response body; the cause is there for errors.Is.
type transportError struct {
	cause    error
	answered bool // there was an answer, but it can't be read
}

func (e *transportError) Unwrap() error { return e.cause }

func (e *transportError) Error() string {
	var timeout net.Error
	switch {
	case errors.Is(e.cause, context.Canceled):
		return "stripe: request cancelled"
	case errors.Is(e.cause, context.DeadlineExceeded), errors.As(e.cause, &timeout) && timeout.Timeout():
		return "stripe: no answer in time"
	case e.answered:
		return "stripe: unreadable answer"
	}
	var op *net.OpError
	if errors.As(e.cause, &op) && op.Op == "dial" {
		return "stripe: no connection"
	}
	if errors.As(e.cause, new(net.Error)) {
		return "stripe: connection lost"
	}
	return "stripe: unreadable answer"
}
