package tenancy

import (
	"context"
	"errors"
	"fmt"
)

// Resolver finds the URL of a database by its reference, [Placement.Database].
// It must be safe for concurrent use. An error that isn't a [*ResolveError] is
// shown without its text, which could quote the URL.
type Resolver interface {
	Resolve(ctx context.Context, ref string) (url string, err error)
}

// ResolverFunc is a [Resolver] that is one function.
type ResolverFunc func(ctx context.Context, ref string) (url string, err error)

// Resolve calls f.
func (f ResolverFunc) Resolve(ctx context.Context, ref string) (string, error) { return f(ctx, ref) }

// forgetter is a [Resolver] that can be told that the URL which it returned
// last is out of date.
type forgetter interface {
	Forget(ref string)
}

// ResolveError says why a database's URL wasn't found. It matches
// [ErrDatabaseUnavailable].
type ResolveError struct {
	// Ref is the reference.
	Ref string

	// Reason is shown: it must not have anything from the URL in it.
	Reason string

	// Err is the cause, to branch on. It isn't shown.
	Err error
}

// Error implements error.
func (e *ResolveError) Error() string {
	return fmt.Sprintf("tenancy: resolve database %q: %s", e.Ref, e.Reason)
}

// Is reports whether target is [ErrDatabaseUnavailable].
func (e *ResolveError) Is(target error) bool { return target == ErrDatabaseUnavailable }

// Unwrap returns the cause.
func (e *ResolveError) Unwrap() error { return e.Err }

// resolve asks a resolver, and makes what it says fit to be shown.
func resolve(ctx context.Context, r Resolver, ref string) (string, error) {
	url, err := r.Resolve(ctx, ref)
	switch {
	case err != nil:
		return "", resolveError(ref, err)
	case url == "":
		return "", &ResolveError{Ref: ref, Reason: "the resolver found an empty URL"}
	}
	return url, nil
}

func resolveError(ref string, err error) *ResolveError {
	if known, ok := errors.AsType[*ResolveError](err); ok {
		return known // not what was wrapped around it
	}
	reason := "the resolver failed"
	for _, cause := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, cause) {
			reason = cause.Error()
		}
	}
	return &ResolveError{Ref: ref, Reason: reason, Err: err}
}
