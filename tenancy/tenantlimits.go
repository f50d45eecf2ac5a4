package tenancy

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const setLimitsSQL = `
update mcpsaas.tenants
set limits = $2, version = version + 1, changed = pg_current_xact_id(), updated_at = now()
where id = $1 and status <> 'deleted'
returning version`

// maxLimits bounds what every call of a tenant has to be checked against.
const maxLimits = 20

// SetLimits writes the limits that the tenant has of its own, all of them, and
// returns its new version; none takes back what was written before. Everything
// else is as with [SetStatus]: tx is a transaction of the control pool, and
// every replica's [Directory] knows of it within a second of the commit. To
// change one limit of several, read them by [LockTenant] first.
//
// They stay through a change of the tenant's plan. Here only their names are
// looked at: what a limit may be, metering.Plan.With tells.
func SetLimits(ctx context.Context, tx pgx.Tx, id tenant.ID, limits []tenant.Limit) (version int64, err error) {
	if err := validateLimits(limits); err != nil {
		return 0, fmt.Errorf("tenancy: set limits: %w", err)
	}
	if limits == nil {
		limits = []tenant.Limit{}
	}
	if version, err = setTenant(ctx, tx, setLimitsSQL, id, limits); err != nil {
		return 0, fmt.Errorf("tenancy: set limits: %w", err)
	}
	return version, nil
}

func validateLimits(limits []tenant.Limit) error {
	if len(limits) > maxLimits {
		return fmt.Errorf("%d limits are more than %d", len(limits), maxLimits)
	}
	names := make(map[string]bool, len(limits))
	for _, l := range limits {
		switch {
		case l.Name == "":
			return errors.New("a limit has no name")
		case names[l.Name]:
			return fmt.Errorf("two limits are named %q", l.Name)
		}
		names[l.Name] = true
	}
	return nil
}

// orNone makes an empty list nil, as it is in a tenant without limits of its own.
func orNone(limits []tenant.Limit) []tenant.Limit {
	if len(limits) == 0 {
		return nil
	}
	return limits
}
