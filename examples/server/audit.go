package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
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
		return fmt.Errorf("DATABASE_URL: %w", pgredact.Error(err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	report, err := tenancy.Audit(ctx, conn, &opts)
	if err != nil {
		return err
	}
	unseen := auditDatabases(ctx, conn, c.databases.resolver(c.databaseURL, asOwner), &opts, report)
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
	return errors.Join(report.Err(least), unseen)
}

// databasesSQL lists the databases of tenants that have one to themselves and were
// ever served in it.
const databasesSQL = `
select distinct database_ref from mcpsaas.tenants
where placement = 'database' and status not in ('requested', 'provisioning', 'failed', 'deleted') order by 1`

// auditDatabases adds to the report what is found in tenants' own databases, which
// have the same tables: an allowance goes for all of them. It returns an error for
// each that can't be looked at.
func auditDatabases(ctx context.Context, home *pgx.Conn, databases tenancy.Resolver, opts *tenancy.AuditOptions, report *tenancy.AuditReport) error {
	rows, err := home.Query(ctx, databasesSQL)
	if err != nil {
		return err
	}
	refs, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42P01" { // undefined_table
		return nil
	}
	if err == nil && len(refs) > 0 && databases == nil {
		return fmt.Errorf("%d databases of tenants' own are not audited: TENANT_DATABASES is not set (-tenant-databases)", len(refs))
	}
	errs := []error{err}
	for _, ref := range refs {
		errs = append(errs, auditDatabase(ctx, databases, ref, opts, report))
	}
	return errors.Join(errs...)
}

func auditDatabase(ctx context.Context, databases tenancy.Resolver, ref string, opts *tenancy.AuditOptions, report *tenancy.AuditReport) error {
	url, err := databases.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("database %q: %w", ref, pgredact.Error(err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	own, err := tenancy.Audit(ctx, conn, opts)
	if err != nil {
		return fmt.Errorf("database %q: %w", ref, err)
	}
	report.Tables += own.Tables
	for _, f := range own.Findings {
		if f.Name == staleAllowance {
			continue // the first database says so
		}
		f.Object = ref + ": " + f.Object
		report.Findings = append(report.Findings, f)
	}
	for _, f := range own.Allowed {
		f.Object = ref + ": " + f.Object
		report.Allowed = append(report.Allowed, f)
	}
	return nil
}

// staleAllowance is the name of the rule by which an allowance that isn't needed is
// reported.
const staleAllowance = "stale-allowance"
