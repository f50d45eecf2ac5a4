package apikey

import (
	"context"
	"embed"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgmigrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate creates the table of API keys in schema mcpsaas. It is forward only,
// and safe to run again and at once from several processes. Run tenancy.Migrate
// first: it sees to it that the control role may use the table.
func Migrate(ctx context.Context, conn *pgx.Conn) error {
	if err := pgmigrate.Run(ctx, conn, "apikey", migrations); err != nil {
		return fmt.Errorf("apikey: migrate: %w", err)
	}
	return nil
}
