package devtest_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/internal/pgmigrate"
)

func Example() {
	migrate := func(ctx context.Context, conn *pgx.Conn) error {
		return pgmigrate.Run(ctx, conn, "demo", nil)
	}
	_ = func(t *testing.T) {
		t.Parallel()
		db := devtest.DB(t, devtest.Template{Name: "demo", Migrate: migrate})
		pool := db.Pool(t) // the owner's

		server := devtest.Redis(t)
		server.Stop() // an outage
		server.Start()
		_ = pool
	}
}
