package main

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/onboarding/pgstate"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
)

//go:embed schema.sql
var schemaSQL string

// migrate brings the database up to date: the library's tables, the shop's own,
// and the policies on the latter.
func migrate(ctx context.Context, databaseURL string) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, m := range []func(context.Context, *pgx.Conn) error{
		tenancy.Migrate, apikey.Migrate, pgledger.Migrate, pgstate.Migrate, migrateShop,
	} {
		if err := m(ctx, conn); err != nil {
			return err
		}
	}
	return nil
}

func migrateShop(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, schemaSQL); err != nil {
		return fmt.Errorf("schema of the shop: %w", err)
	}
	return tenancy.Protect(ctx, conn, "products")
}

// checkMigrated refuses to serve on a database that migrate hasn't seen.
func checkMigrated(ctx context.Context, databaseURL string) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var missing []string
	for _, table := range []string{"mcpsaas.tenants", "mcpsaas.api_keys", "mcpsaas.usage_events", "mcpsaas.tenant_lifecycle", "public.products"} {
		var there bool
		if err := conn.QueryRow(ctx, `select to_regclass($1) is not null`, table).Scan(&there); err != nil {
			return fmt.Errorf("DATABASE_URL: %w", err)
		}
		if !there {
			missing = append(missing, table)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the database has no %s: run `server migrate`", missing[0])
	}
	return nil
}

func migrateCommand(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("migrate", args, 0, 0); err != nil {
		return err
	}
	if env.config.databaseURL == "" {
		return usagef("DATABASE_URL is not set (-database-url)")
	}
	start := time.Now()
	if err := migrate(ctx, env.config.databaseURL); err != nil {
		return err
	}
	took := time.Since(start)
	return env.print(map[string]any{"migrated": true, "seconds": took.Seconds()}, func() {
		fmt.Fprintf(env.stdout, "the schema is up to date (%s)\n", took.Round(time.Millisecond))
	})
}
