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
	cause  error // a *pgconn.PgError or an error of the context, or nil
}

func (e *connectError) Error() string { return "connect to the database: " + e.reason }
func (e *connectError) Unwrap() error { return e.cause }

// Error makes an error of connecting, or of the network, fit to be shown: both
// name addresses. Others pass unchanged. What was wrapped around it is lost: call
// it before adding to an error.
func Error(err error) error {
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	_, network := errors.AsType[*net.OpError](err)
	if !connecting && !network {
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
	return &connectError{reason: "unreachable"}
}
