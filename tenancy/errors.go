package tenancy

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
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

	// ErrMoved means that the tenant's rows are being moved, or were moved to
	// where nobody knows of yet, and that two seconds were not enough to find
	// them. Nothing was done; the same call may succeed later.
	// It has a method Temporary that says so, and so has [ErrDatabaseUnavailable].
	ErrMoved error = passing("tenancy: the tenant's rows are being moved")

	// ErrUnknownTenant means that the tenant in the context is none of the
	// directory's, or the sentinel.
	ErrUnknownTenant = errors.New("tenancy: unknown tenant")

	// ErrDeleted means that the tenant was deleted: its id is a tombstone.
	ErrDeleted = errors.New("tenancy: the tenant was deleted")

	// ErrUnprotected means that a table has a column tenant_id, and no
	// protection.
	ErrUnprotected = errors.New("tenancy: table is not protected")

	// ErrTenantBusy means that the tenant is being prepared, moved, exported,
	// imported or erased by somebody else.
	ErrTenantBusy = errors.New("tenancy: the tenant is being worked on")

	// ErrDatabaseUnavailable means that a tenant's own database doesn't exist or
	// can't be reached. The error names the reference, [Placement.Database].
	ErrDatabaseUnavailable error = passing("tenancy: no connection to database")

	// ErrPoolExhausted means that callers keep waiting for a connection.
	ErrPoolExhausted = errors.New("tenancy: the pool is exhausted")
)

// passing is an error after which the same call may succeed, without any change of
// it: nothing was done.
type passing string

func (e passing) Error() string { return string(e) }

// Temporary is what packages that don't know this one ask for, as that of
// [net.Error].
func (passing) Temporary() bool { return true }

// redact makes an error of connecting fit to be shown. Others pass unchanged.
func redact(err error) error { return pgredact.Error(err) }

// sqlState returns the SQLSTATE of err, empty if the server sent none.
func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}
