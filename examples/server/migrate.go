package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/onboarding/pgstate"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// shopFiles are applied to every schema that holds tenants' rows.
//
//go:embed migrations/*.sql
var shopFiles embed.FS

// migrate brings the databases up to date: the library's tables, the shop's own,
// and the policies on the latter, wherever tenants' rows are. It tells how far it
// is with the shop's tables.
func migrate(ctx context.Context, c *config, progress func(tenancy.MigrationProgress)) (*tenancy.MigrationResult, error) {
	if err := migrateLibrary(ctx, c.databaseURL); err != nil {
		return nil, err
	}
	control, data, err := openControl(ctx, c)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	defer data.Close()
	return data.Migrate(ctx, &tenancy.MigratorOptions{Progress: progress})
}

// migrateToServe does the same for a server that is about to start. A tenant's own
// place that can't be reached or brought up to date is no reason not to serve the
// others: its checks are red.
func migrateToServe(ctx context.Context, c *config, logger *slog.Logger) error {
	result, err := migrate(ctx, c, nil)
	if result == nil {
		return err
	}
	for _, o := range result.Outcomes {
		if o.Target.Canary && o.Err != nil {
			return err
		}
	}
	if err != nil {
		logger.ErrorContext(ctx, "a tenant's place is not up to date", "err", err)
	}
	return ctx.Err()
}

func migrateLibrary(ctx context.Context, databaseURL string) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", pgredact.Error(err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, m := range []func(context.Context, *pgx.Conn) error{
		tenancy.Migrate, apikey.Migrate, pgledger.Migrate, pgstate.Migrate,
	} {
		if err := m(ctx, conn); err != nil {
			return err
		}
	}
	return nil
}

// checkMigrated refuses to serve on a database that migrate hasn't seen.
func checkMigrated(ctx context.Context, databaseURL string) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", pgredact.Error(err))
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
	line := &progressLine{w: env.stdout, live: isTerminal(env.stdout), quiet: env.config.json}
	result, err := migrate(ctx, env.config, line.show)
	line.end()
	if env.config.json && result != nil {
		report := migrateReport{Migrated: err == nil, Seconds: time.Since(start).Seconds(), Schemas: make(map[tenancy.MigrationState]int)}
		for _, o := range result.Outcomes {
			report.Schemas[o.State]++
			if o.State == tenancy.MigrationFailed {
				report.Failed = append(report.Failed, failedSchema{o.Target.Schema, o.Target.Tenant, o.Err.Error()})
			}
		}
		return errors.Join(err, json.NewEncoder(env.stdout).Encode(report))
	}
	if err != nil {
		return err
	}
	if !env.config.json {
		fmt.Fprintf(env.stdout, "the schema is up to date (%s)\n", time.Since(start).Round(time.Millisecond))
	}
	return nil
}

// migrateReport is what migrate -json prints.
type migrateReport struct {
	Migrated bool                           `json:"migrated"`
	Seconds  float64                        `json:"seconds"`
	Schemas  map[tenancy.MigrationState]int `json:"schemas"`
	Failed   []failedSchema                 `json:"failed,omitempty"`
}

type failedSchema struct {
	Schema string    `json:"schema"`
	Tenant tenant.ID `json:"tenant,omitzero"` // whose it is; none for one that several share
	Error  string    `json:"error"`
}
