package onboarding

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Class is what kind of failure stopped a step.
type Class string

// The classes of failures.
const (
	ClassError    Class = "error"    // an ordinary error: tried again
	ClassTimeout  Class = "timeout"  // the step's time ran out: tried again
	ClassPanic    Class = "panic"    // the step panicked: tried again
	ClassTerminal Class = "terminal" // trying again can't help: an operator must look
)

// Terminal marks err as one that trying again can't mend: the operation gives
// up at once and waits for an operator. A nil err stays nil.
func Terminal(err error) error {
	if err == nil {
		return nil
	}
	return &terminalError{err}
}

type terminalError struct{ err error }

func (e *terminalError) Error() string { return e.err.Error() }
func (e *terminalError) Unwrap() error { return e.err }

// RetryAfter marks err as one that will pass, but not before d. The wait isn't
// shorter than the step's own backoff. A nil err stays nil.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &retryError{err, d}
}

type retryError struct {
	err   error
	after time.Duration
}

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

func classify(err error) Class {
	switch {
	case asType[*terminalError](err):
		return ClassTerminal
	case asType[*panicError](err):
		return ClassPanic
	case errors.Is(err, context.DeadlineExceeded):
		return ClassTimeout
	}
	return ClassError
}

func asType[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// failure makes the record of err: bounded, and printable whatever a server
// has answered.
func failure(step string, err error) *Failure {
	const most = 500
	text := strings.ToValidUTF8(strings.ReplaceAll(err.Error(), "\x00", ""), "?")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return &Failure{Step: step, Class: classify(err), Text: text}
}

// StepError says which step of an operation isn't done. [Provisioner.Wait]
// returns it for a tenant whose operation gave up.
type StepError struct {
	Tenant tenant.ID
	Step   string   // the one that failed
	Done   []string // those before it
	Err    error
}

func (e *StepError) Error() string {
	return fmt.Sprintf("onboarding: step %s of tenant %s: %v", e.Step, e.Tenant, e.Err)
}

func (e *StepError) Unwrap() error { return e.Err }
