package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy"
)

// appRoles returns the role that tenants' statements log in as, none if that is
// not configured.
func appRoles(url string) ([]string, error) {
	if url == "" {
		return nil, nil
	}
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, errors.New("APP_DATABASE_URL is malformed")
	}
	return []string{config.User}, nil
}

// auditCommand looks for ways around isolation in the database's catalog. Its
// exit code is for pipelines: 1 if there is a finding of at least -severity.
func auditCommand(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("audit", args, 0, 0); err != nil {
		return err
	}
	c := env.config
	if c.databaseURL == "" {
		return usagef("DATABASE_URL is not set (-database-url)")
	}
	var least tenancy.Severity
	if err := least.UnmarshalText([]byte(c.severity)); err != nil {
		return usagef("-severity: %v", err)
	}
	opts := tenancy.AuditOptions{Strict: c.strict}
	if c.allow != "" {
		text, err := os.ReadFile(c.allow)
		if err != nil {
			return usagef("-allow: %v", err)
		}
		if err := json.Unmarshal(text, &opts.Allow); err != nil {
			return usagef("-allow %s: %v", c.allow, err)
		}
	}
	var err error
	if opts.Roles, err = appRoles(c.appURL); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	conn, err := pgx.Connect(ctx, c.databaseURL)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	report, err := tenancy.Audit(ctx, conn, &opts)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if c.sarif != "" {
		if err := report.SARIF(&text); err != nil {
			return err
		}
		if err := os.WriteFile(c.sarif, text.Bytes(), 0o644); err != nil {
			return fmt.Errorf("-sarif: %w", err)
		}
		text.Reset()
	}
	if err := report.Text(&text); err != nil {
		return err
	}
	if err := env.print(report, func() { fmt.Fprint(env.stdout, text.String()) }); err != nil {
		return err
	}
	return report.Err(least)
}
