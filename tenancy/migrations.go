package tenancy

import (
	"context"
	"embed"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgmigrate"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Names that the database knows this package by.
const (
	// AppRole is the role that tenants' statements run as: it may log in, owns
	// nothing and sees of a table what the policies let through.
	AppRole = "app_user"

	// ControlRole is the role that the server's own statements run as, on the
	// tables of schema mcpsaas.
	ControlRole = "mcpsaas_control"

	// Setting is the configuration parameter that carries the tenant's id to
	// the policies, for the length of one transaction.
	Setting = "app.current_tenant_id"
)

// Sentinel owns the one row of tenant_marker that no tenant may ever see. It
// is nobody's id: [DB] refuses to run as it.
var Sentinel = tenant.MustParseID("5e471e15-0000-4000-8000-000000000000")

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate creates what the package needs: the roles, the table of tenants, and
// the tables tenant_config and tenant_marker under their policies. conn must
// own the database and have CREATEROLE, or be a superuser, and be outside of a
// transaction. Migrate is forward only, and safe to run again and at once from
// several processes.
func Migrate(ctx context.Context, conn *pgx.Conn) error {
	if err := pgmigrate.Run(ctx, conn, "tenancy", migrations); err != nil {
		return fmt.Errorf("tenancy: migrate: %w", err)
	}
	err := protect(ctx, conn, []pgx.Identifier{{"public", "tenant_config"}, {"public", "tenant_marker"}})
	if err != nil {
		return fmt.Errorf("tenancy: migrate: %w", err)
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// The policies are forced on the owner too.
		if _, err := tx.Exec(ctx, actSQL, Sentinel.String()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, insertMarkerSQL, Sentinel)
		return err
	})
	if err != nil {
		return fmt.Errorf("tenancy: migrate: write the sentinel row: %w", err)
	}
	return nil
}
