package pgstate

import (
	"context"
	"embed"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgmigrate"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate creates or updates the tables of this package, as the owner of the
// database and after tenancy.Migrate. It is safe to run twice and at once.
func Migrate(ctx context.Context, conn *pgx.Conn) error {
	if err := pgmigrate.Run(ctx, conn, "pgstate", migrations); err != nil {
		return fmt.Errorf("pgstate: migrate: %w", pgredact.Error(err))
	}
	return nil
}
