package tenancy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// schemaLock keeps two processes from making or protecting the same schema at
// once, and only those: provisioning and migrations work on many.
const schemaLock = 0x736368656d61

const schemaLockSQL = `select pg_advisory_xact_lock(hashtextextended($1, $2))`

// schemaRoleSQL makes the role that reaches the schema and nothing else. Roles
// belong to the cluster: another database of it may be making this one at the
// moment.
//
// The application's role may become it and has nothing of it before. That its
// role is NOINHERIT says so up to PostgreSQL 15; since 16 the grant itself does.
const schemaRoleSQL = `do $$
declare
	how pg_catalog.text := '';
begin
	if not exists (select from pg_catalog.pg_roles where rolname operator(pg_catalog.=) {literal}) then
		create role {role} nologin nosuperuser nobypassrls noinherit nocreatedb nocreaterole noreplication;
	end if;
	if not exists (
		select from pg_catalog.pg_auth_members m
		where m.roleid operator(pg_catalog.=) {literal}::pg_catalog.regrole and m.member operator(pg_catalog.=) 'app_user'::pg_catalog.regrole
	) then
		if pg_catalog.current_setting('server_version_num')::pg_catalog.int4 operator(pg_catalog.>=) 160000 then
			how := ' with inherit false, set true';
		end if;
		execute pg_catalog.concat('grant {role} to app_user', how);
	end if;
end $$`

// schemaSQL leaves what exists as it is, so that it waits for nobody.
const schemaSQL = `
create schema if not exists {schema};
revoke all on schema {schema} from public, app_user;
grant usage on schema {schema} to {role}, mcpsaas_control;
create table if not exists {schema}.tenant_config (like public.tenant_config including all);
create table if not exists {schema}.tenant_marker (like public.tenant_marker including all)`

func fillSchema(text string, id tenant.ID) string {
	name := SchemaName(id)
	return strings.NewReplacer("{schema}", pgx.Identifier{name}.Sanitize(), "{role}", pgx.Identifier{name}.Sanitize(),
		"{literal}", quoteLiteral(name)).Replace(text)
}

// createSchema makes the tenant's own schema, the role of the same name that
// reaches it, and our two tables in it, under their policies. What is there
// already stays. tx must run as the owner.
func createSchema(ctx context.Context, tx pgx.Tx, id tenant.ID) error {
	if id.IsZero() || id == Sentinel {
		return ErrUnknownTenant
	}
	if _, err := tx.Exec(ctx, schemaLockSQL, SchemaName(id), int64(schemaLock)); err != nil {
		return fmt.Errorf("create schema: %w", err)
	}
	err := retryRole(ctx, tx, fillSchema(schemaRoleSQL, id))
	if err != nil {
		return fmt.Errorf("create role: %w", err)
	}
	for sql := range strings.SplitSeq(fillSchema(schemaSQL, id), ";") {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("create schema: %w", err)
		}
	}
	return protectSchema(ctx, tx, id)
}

// retryRole runs a statement again that another database of the cluster was
// ahead of: only there the lock doesn't hold.
func retryRole(ctx context.Context, tx pgx.Tx, sql string) error {
	for try := 0; ; try++ {
		err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, sql)
			return err
		})
		if err == nil || try == 2 || !slices.Contains([]string{"42710", "23505", "XX000"}, sqlState(err)) {
			return err
		}
	}
}

// protectSchema protects every table of the tenant's own schema: one with a
// tenant_id by that column and by the schema, one without by the schema. What the
// application's role was granted on views and sequences, the schema's role gets
// instead: a migration can't know its name. Where all is as it should be, it
// takes no lock but its own. tx must run as the owner.
func protectSchema(ctx context.Context, tx pgx.Tx, id tenant.ID) error {
	schema := SchemaName(id)
	if _, err := tx.Exec(ctx, schemaLockSQL, schema, int64(schemaLock)); err != nil {
		return fmt.Errorf("protect schema: %w", err)
	}
	var path string
	if err := tx.QueryRow(ctx, `select current_setting('search_path')`).Scan(&path); err != nil {
		return fmt.Errorf("protect schema: %w", err)
	}
	if _, err := tx.Exec(ctx, pinSQL); err != nil {
		return fmt.Errorf("protect schema: %w", err)
	}
	signed, err := readSigned(ctx, tx)
	if err != nil {
		return fmt.Errorf("protect schema: %w", err)
	}
	states, err := readStates(ctx, tx, schema, nil)
	if err != nil {
		return fmt.Errorf("protect schema: %w", err)
	}
	for _, s := range states {
		if s.Partition {
			continue // the partitioned table's are closed
		}
		p := schemaTable(id, s.Name, s.Column, signed)
		if s.isTable() {
			err = p.apply(ctx, tx, s)
		} else {
			err = p.handOver(ctx, tx, s)
		}
		if err != nil {
			return fmt.Errorf("protect %s.%s: %w", schema, s.Name, err)
		}
	}
	if _, err := tx.Exec(ctx, `select set_config('search_path', $1, true)`, path); err != nil {
		return fmt.Errorf("protect schema: %w", err)
	}
	return nil
}

// handOver gives what everybody or the application's role has on a view or a
// sequence to the role of the schema alone.
func (p protection) handOver(ctx context.Context, tx pgx.Tx, s tableState) error {
	var privileges []string
	for i, grantee := range s.Grantees {
		if grantee == "" || grantee == AppRole {
			privileges = append(privileges, s.Privileges[i])
		}
	}
	if len(privileges) == 0 {
		return nil
	}
	slices.Sort(privileges)
	on := p.table.Sanitize()
	if s.Kind == "S" {
		on = "sequence " + on
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("grant %s on %s to %s", strings.Join(slices.Compact(privileges), ", "), on, pgx.Identifier{p.role}.Sanitize())); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, fmt.Sprintf("revoke all on %s from public, app_user", on))
	return err
}

// dropRoleSQL leaves the role to another database of the cluster that has the
// tenant's schema as well.
const dropRoleSQL = `do $$
begin
	if exists (select from pg_catalog.pg_roles where rolname operator(pg_catalog.=) {literal}) and not exists (
		select from pg_catalog.pg_shdepend d join pg_catalog.pg_database b on b.oid operator(pg_catalog.=) d.dbid
		where d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_authid'::pg_catalog.regclass
		and d.refobjid operator(pg_catalog.=) (select oid from pg_catalog.pg_roles where rolname operator(pg_catalog.=) {literal})
		and b.datname operator(pg_catalog.<>) pg_catalog.current_database()
	) then
		drop role {role};
	end if;
end $$`

// dropSchema takes the tenant's own schema away with everything in it, and the
// role that reaches it. tx must run as the owner.
func dropSchema(ctx context.Context, tx pgx.Tx, id tenant.ID) error {
	name := SchemaName(id)
	if _, err := tx.Exec(ctx, schemaLockSQL, name, int64(schemaLock)); err != nil {
		return fmt.Errorf("drop schema: %w", err)
	}
	if _, err := tx.Exec(ctx, "drop schema if exists "+pgx.Identifier{name}.Sanitize()+" cascade"); err != nil {
		return fmt.Errorf("drop schema: %w", err)
	}
	if err := retryRole(ctx, tx, fillSchema(dropRoleSQL, id)); err != nil {
		return fmt.Errorf("drop role: %w", err)
	}
	if _, err := tx.Exec(ctx, `delete from mcpsaas.tenant_migrations where schema_name = $1`, name); err != nil {
		return fmt.Errorf("drop schema: %w", err)
	}
	return nil
}
