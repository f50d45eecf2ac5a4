package tenancy

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// CanaryError says what a canary found. Its text names no tenant but the one
// that was asked for, and no row's content.
type CanaryError struct {
	Class CanaryClass
}

// CanaryClass is what went wrong.
type CanaryClass string

// The classes, the worst first.
const (
	CanaryOpen     CanaryClass = "open_without_context" // rows are visible although no tenant is set
	CanarySentinel CanaryClass = "sentinel_visible"     // the row that no tenant may see is visible
	CanaryForeign  CanaryClass = "foreign_rows"         // rows of other tenants are visible
	CanaryInactive CanaryClass = "policies_inactive"    // row level security is not active for the role
	CanaryBlind    CanaryClass = "own_row_missing"      // the tenant's own marker is not visible, or was never written
	CanaryUnarmed  CanaryClass = "sentinel_missing"     // there is no sentinel row, so that not seeing it proves nothing
)

// Error implements error.
func (e *CanaryError) Error() string { return "tenancy: canary: " + string(e.Class) }

// A canary must not filter: a WHERE clause would hide what the policies let
// through. The limits keep it cheap where they let everything through.
const (
	countSQL = `select count(*) from (select from public.tenant_marker limit 3) m`

	insideSQL = `
select row_security_active('public.tenant_marker'), count(*),
	count(*) filter (where tenant_id = $1),
	exists (select from public.tenant_marker where tenant_id = $2)
from (select tenant_id from public.tenant_marker limit 3) m`

	// setSQL sets a context over another one, which no statement of a tenant
	// goes by.
	setSQL = `select set_config('` + Setting + `', $1, true)`
)

// Canary proves, in one round trip as the application's role, that the tenant
// sees its own marker and nothing else: not the sentinel's, and without a
// context none at all. It returns a [*CanaryError] for what it finds, and any
// other error when it could find out nothing. It is what package health runs
// for one tenant.
func (db *DB) Canary(ctx context.Context, tenantID string) error {
	id, err := tenant.ParseID(tenantID)
	if err != nil {
		return fmt.Errorf("tenancy: canary: %w", err)
	}
	_, conn, err := db.acquire(tenant.NewContext(ctx, tenant.Tenant{ID: id}))
	if err != nil {
		return fmt.Errorf("tenancy: canary: %w", err)
	}
	defer conn.Release()

	var outside, visible, mine, sentinels int
	var active, sentinel bool
	batch := &pgx.Batch{}
	batch.Queue(countSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&outside) })
	batch.Queue(db.statement("mcpsaas_enter"), id.String())
	batch.Queue(insideSQL, id, Sentinel).QueryRow(func(row pgx.Row) error {
		return row.Scan(&active, &visible, &mine, &sentinel)
	})
	// Seeing no sentinel means something only if there is one to see.
	batch.Queue(setSQL, Sentinel.String())
	batch.Queue(countSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&sentinels) })
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("tenancy: canary: %w", db.verdict(conn.Conn(), err))
	}
	switch {
	case outside > 0:
		return &CanaryError{CanaryOpen}
	case sentinel:
		return &CanaryError{CanarySentinel}
	case visible > mine:
		return &CanaryError{CanaryForeign}
	case !active:
		return &CanaryError{CanaryInactive}
	case mine != 1:
		return &CanaryError{CanaryBlind}
	case sentinels != 1:
		return &CanaryError{CanaryUnarmed}
	}
	return nil
}

const markerSQL = `
select count(*), coalesce(min(marker::text) filter (where tenant_id = $1), '')
from (select tenant_id, marker from public.tenant_marker limit 100) m`

// Marker returns the marker of the tenant in ctx, and how many markers it can
// see at all, which must be one (counted to a hundred at most). It is for a tool
// by which a probe from outside asks what [DB.Canary] asks from inside.
func (db *DB) Marker(ctx context.Context) (marker string, visible int, err error) {
	t, ok := tenant.FromContext(ctx)
	if !ok {
		return "", 0, tenant.ErrNone
	}
	if err := db.QueryRow(ctx, markerSQL, t.ID).Scan(&visible, &marker); err != nil {
		return "", 0, fmt.Errorf("tenancy: marker: %w", err)
	}
	if marker == "" {
		return "", visible, &CanaryError{CanaryBlind}
	}
	return marker, visible, nil
}
