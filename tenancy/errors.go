package tenancy

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// Errors to branch on.
var (
	// ErrUnsafeRole is matched by a [*RoleError].
	ErrUnsafeRole = errors.New("tenancy: row level security does not bind this role")

	// ErrTampered means that a statement changed what only this package may: it
	// ended the transaction, began one, set the tenant's context for the session,
	// or left a cursor there with hold. The connection was closed. A cause is
	// injected SQL.
	ErrTampered = errors.New("tenancy: the tenant's context was tampered with")

	// ErrUnknownTenant means that the tenant in the context is none of the
	// directory's, or the sentinel.
	ErrUnknownTenant = errors.New("tenancy: unknown tenant")

	// ErrDeleted means that the tenant was deleted: its id is a tombstone.
	ErrDeleted = errors.New("tenancy: the tenant was deleted")

	// ErrUnprotected means that a table has a column tenant_id, and no
	// protection.
	ErrUnprotected = errors.New("tenancy: table is not protected")

	// ErrPoolExhausted means that callers keep waiting for a connection.
	ErrPoolExhausted = errors.New("tenancy: the pool is exhausted")
)

// connectError is a failure to connect without what the driver's own message
// tells: the host, the user and the database.
type connectError struct {
	reason string
	cause  error // a *pgconn.PgError or an error of the context, or nil
}

func (e *connectError) Error() string { return "tenancy: connect to the database: " + e.reason }
func (e *connectError) Unwrap() error { return e.cause }

// redact makes an error of connecting fit to be shown. Others pass unchanged.
func redact(err error) error {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); !ok {
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

// sqlState returns the SQLSTATE of err, empty if the server sent none.
func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}
