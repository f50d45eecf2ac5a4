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
	ErrMoved = errors.New("tenancy: the tenant's rows are being moved")

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
	ErrDatabaseUnavailable = errors.New("tenancy: no connection to database")

	// ErrPoolExhausted means that callers keep waiting for a connection.
	ErrPoolExhausted = errors.New("tenancy: the pool is exhausted")
)

// redact makes an error of connecting fit to be shown. Others pass unchanged.
func redact(err error) error { return pgredact.Error(err) }

// sqlState returns the SQLSTATE of err, empty if the server sent none.
func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}
