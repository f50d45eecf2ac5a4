package health

import (
	"context"
	"errors"
	"net"
	"os"
)

// Class is the kind of a failure: all that anybody outside of the log gets to
// know of an error.
type Class string

// The classes; there are no others.
const (
	ClassTimeout  Class = "timeout"  // no answer in time
	ClassRefused  Class = "refused"  // no connection, or it broke
	ClassAuth     Class = "auth"     // a credential or a permission was refused
	ClassQuery    Class = "query"    // the other side answered with an error, or with the wrong thing
	ClassInternal Class = "internal" // anything else, panics included
)

// Degraded wraps the error of a check whose subject works, but not as it
// should: the check is [StatusDegraded], not [StatusDown]. Degraded(nil) is
// nil.
//
// An error type may say the same of itself, without importing this package,
// by a method HealthDegraded() bool.
func Degraded(err error) error {
	if err == nil {
		return nil
	}
	return &degradedError{err}
}

// WithClass wraps the error of a check to say what kind of failure it is.
// WithClass(nil, class) is nil.
//
// An error type may say the same of itself, without importing this package,
// by a method HealthClass() string. A class that isn't one of this package is
// [ClassInternal]. An error that says nothing is [ClassTimeout] or
// [ClassRefused] if it is a deadline's or the network's, else [ClassInternal].
func WithClass(err error, class Class) error {
	if err == nil {
		return nil
	}
	return &classError{err, class}
}

type degradedError struct{ error }

func (e *degradedError) Unwrap() error        { return e.error }
func (e *degradedError) HealthDegraded() bool { return true }

type classError struct {
	error
	class Class
}

func (e *classError) Unwrap() error       { return e.error }
func (e *classError) HealthClass() string { return string(e.class) }

// judge turns what a check returned into what may be shown of it.
func judge(err error) (Status, Class) {
	if err == nil {
		return StatusOK, ""
	}
	status := StatusDown
	var d interface{ HealthDegraded() bool }
	if errors.As(err, &d) && d.HealthDegraded() {
		status = StatusDegraded
	}
	return status, classOf(err)
}

func classOf(err error) Class {
	var classed interface{ HealthClass() string }
	if errors.As(err, &classed) {
		switch class := Class(classed.HealthClass()); class {
		case ClassTimeout, ClassRefused, ClassAuth, ClassQuery:
			return class
		}
		return ClassInternal
	}
	var network net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return ClassTimeout
	case errors.As(err, &network):
		if network.Timeout() {
			return ClassTimeout
		}
		return ClassRefused
	}
	return ClassInternal
}
