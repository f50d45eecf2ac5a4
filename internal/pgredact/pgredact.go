// Package pgredact keeps the address of a database out of errors, which are
// logged and handed on.
package pgredact

import (
	"context"
	"errors"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// connectError is a failure to connect without what the driver's own message
// tells: the host, the user and the database.
type connectError struct {
	reason string
	cause  error // a *pgconn.PgError, an error of the context, or unreachable; or nil
}

// unreachable is what is left of an error of the network: that it was one, for
// those who tell a service that is away from a fault of their own.
var unreachable = &net.OpError{Op: "dial", Err: errors.New("unreachable")}

func (e *connectError) Error() string { return "connect to the database: " + e.reason }
func (e *connectError) Unwrap() error { return e.cause }

// Error makes an error of connecting, of the network, or of a URL that can't be
// read, fit to be shown: they name addresses. Others pass unchanged. What was wrapped
// around it is lost: call it before adding to an error.
func Error(err error) error {
	if _, parsing := errors.AsType[*pgconn.ParseConfigError](err); parsing {
		return &connectError{reason: "malformed URL"}
	}
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	network, _ := errors.AsType[*net.OpError](err)
	if !connecting && (network == nil || network == unreachable) {
		return err
	}
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return &connectError{reason: "refused (SQLSTATE " + refused.Code + ")", cause: refused}
	}
	for _, cause := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, cause) {
			return &connectError{reason: cause.Error(), cause: cause}
		}
	}
	return &connectError{reason: "unreachable", cause: unreachable}
}
