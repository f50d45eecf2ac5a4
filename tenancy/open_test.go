package tenancy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
)

// Roles belong to the whole cluster, which ends with the process, so that a
// test which spoils one makes its own.
func (b *bundle) role(t *testing.T, attributes string) string {
	t.Helper()
	name := fmt.Sprintf("app_%s", b.Name)
	b.superuser(t, fmt.Sprintf(`create role %s login noinherit %s`, name, attributes))
	b.superuser(t, fmt.Sprintf(`grant select, insert, update, delete on products, stock to %s; grant select on tenant_marker to %[1]s;
grant usage on schema mcpsaas_app to %[1]s; grant execute on all functions in schema mcpsaas_app to %[1]s`, name))
	return name
}

// Each row is a way to make row level security void, which Open refuses, and
// CheckRoles on a handle that has passed. Mutations that it saw: any one of the
// catalogs left out of what CheckRoles takes for unchanged.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		class      string
		before     string // harmless
		spoil      string // with the role for {role}
		unmendable bool   // the printed statement asks for a name
	}{
		{class: "superuser", spoil: `alter role {role} superuser`},
		{class: "bypassrls", spoil: `alter role {role} bypassrls`},
		{class: "createrole", spoil: `alter role {role} createrole`},
		{class: "replication", spoil: `alter role {role} replication`},
		{class: "member", spoil: `grant ` + devstack.OwnerRole + ` to {role}`, unmendable: true},
		{class: "member", spoil: `grant pg_read_server_files to {role}`},
		{class: "member", spoil: `grant pg_read_all_data to {role}`},
		{class: "owner", spoil: `alter table products owner to {role}`, unmendable: true},
		{class: "owner", spoil: `alter database {database} owner to {role}`, unmendable: true},
		{class: "member", before: `create role {role}_f nologin; grant {role}_f to {role}; create function mine() returns int security definer language sql as 'select 1'`,
			spoil: `alter function mine() owner to {role}_f`},
		{class: "temporary", spoil: `grant temporary on database {database} to public`},
		{class: "create", spoil: `grant create on schema public to public`},
		{class: "create", spoil: `grant create on database {database} to {role}`},
		{class: "control_schema", spoil: `grant usage on schema mcpsaas to {role}`},
		// What a role may become by set role counts, although it inherits nothing.
		{class: "control_schema", spoil: `create role {role}_c nologin; grant usage on schema mcpsaas to {role}_c; grant {role}_c to {role}`},
		{class: "temporary", spoil: `create role {role}_t nologin; grant temporary on database {database} to {role}_t; grant {role}_t to {role}`},
		{class: "create", spoil: `create role {role}_s nologin; grant create on schema public to {role}_s; grant {role}_s to {role}`},
		{class: "create", spoil: `create role {role}_d nologin; grant create on database {database} to {role}_d; grant {role}_d to {role}`},
		{class: "excess", spoil: `create role {role}_x nologin; grant truncate on products to {role}_x; grant {role}_x to {role}`},
		{class: "not_enabled", spoil: `create table bare (tenant_id uuid); create role {role}_b nologin; grant select on bare to {role}_b; grant {role}_b to {role}`, unmendable: true},
		{class: "not_enabled", spoil: `alter table products disable row level security`},
		{class: "not_forced", spoil: `alter table products no force row level security`},
		{class: "not_enabled", spoil: `create table bare (tenant_id uuid); grant select on bare to {role}`, unmendable: true},
		{class: "excess", spoil: `grant truncate on products to {role}`},
		{class: "excess", spoil: `grant references (id) on products to {role}`},
		{class: "excess", spoil: `grant trigger on products to public`},
		{class: "policies", spoil: `do $$ begin execute (select format('drop policy %I on products', polname) from pg_policy where polrelid = 'products'::regclass and not polpermissive); end $$`},
		{class: "policies", spoil: `do $$ begin execute (select format('alter policy %I on products using (true)', polname) from pg_policy where polrelid = 'products'::regclass and not polpermissive); end $$`},
		{class: "policies", spoil: `do $$ begin execute (select format('alter policy %I on products with check (true)', polname) from pg_policy where polrelid = 'products'::regclass and not polpermissive); end $$`},
		{class: "tenant_role", spoil: mine + `alter role {schema} bypassrls`},
		{class: "tenant_member", spoil: mine + `grant pg_read_all_data to {schema}`},
		{class: "tenant_inherit", spoil: mine + `alter role {role} inherit`},
		{class: "tenant_owner", spoil: `grant {schema} to {role}; alter schema {schema} owner to {schema}`},
		{class: "tenant_schema", spoil: `grant usage on schema {schema} to {role}`},
		{class: "tenant_schema", spoil: `grant usage on schema {schema} to public`},
		{class: "tenant_schema", spoil: `grant {schema} to {role}; create schema extra; grant usage on schema extra to {schema}`},
		{class: "tenant_grant", spoil: `grant select on {schema}.bare to {role}`},
		{class: "not_enabled", spoil: `grant {schema} to {role}; alter table {schema}.bare disable row level security`},
		{class: "policies", spoil: `grant {schema} to {role}; do $$ begin execute (select format('drop policy %I on {schema}.bare', polname) from pg_policy where polrelid = '{schema}.bare'::regclass and not polpermissive); end $$`},
		{class: "no_policies", spoil: `create materialized view copies as select * from products; grant select on copies to {role}`},
		{class: "no_policies", before: `create view plain as select 1 as n; create materialized view copies as select * from plain; grant select on copies to {role}`,
			spoil: `create or replace view plain as select 1 as n from products`},
		{class: "partition", spoil: `create table events (tenant_id uuid) partition by list (tenant_id); create table events_1 partition of events default; grant select on events_1 to {role}`},
	} {
		t.Run(test.class, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			role := b.role(t, "")
			schema := ""
			if strings.Contains(test.spoil, "{schema}") {
				schema = tenancy.SchemaName(b.schema(t))
			}
			fill := strings.NewReplacer("{role}", role, "{database}", b.Name, "{schema}", schema).Replace
			if test.before != "" {
				b.superuser(t, fill(test.before))
			}
			passed := b.open(t, b.As(role), nil) // it is the spoiling that matters
			require.NoError(t, passed.CheckRoles(t.Context()))
			b.superuser(t, fill(test.spoil))
			require.ErrorIs(t, passed.CheckRoles(t.Context()), tenancy.ErrUnsafeRole, "what has passed is looked at again")
			_, err := tenancy.Open(t.Context(), b.As(role), nil)
			require.ErrorIs(t, err, tenancy.ErrUnsafeRole)
			report, auditErr := tenancy.Audit(t.Context(), b.Conn(t, "postgres"), &tenancy.AuditOptions{Roles: []string{role}})
			require.NoError(t, auditErr)
			require.NotEmpty(t, report.At(tenancy.SeverityError), "what Open refuses the audit finds")
			refusal, _ := errors.AsType[*tenancy.RoleError](err)
			require.Equal(t, role, refusal.Role)
			var classes []string
			for _, f := range refusal.Faults {
				classes = append(classes, f.Class)
				require.Contains(t, err.Error(), f.Mend)
			}
			require.Contains(t, classes, test.class)
			if test.unmendable {
				return
			}
			require.Equal(t, []string{test.class}, classes)
			for _, f := range refusal.Faults {
				b.superuser(t, f.Mend)
			}
			b.open(t, b.As(role), nil)
		})
	}
}

// A role that passed Open can be spoiled later.
func TestCheckRoles(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.NoError(t, b.db.CheckRoles(t.Context()))
	b.owner(t, `alter table products no force row level security`)
	require.ErrorIs(t, b.db.CheckRoles(t.Context()), tenancy.ErrUnsafeRole)
}

func TestOpenArguments(t *testing.T) {
	t.Parallel()
	empty := devtest.DB(t, devtest.Template{Name: "empty"})
	b := setup(t)
	separator := "?"
	if strings.Contains(b.As(tenancy.AppRole), "?") {
		separator = "&"
	}
	simple := b.As(tenancy.AppRole) + separator + "default_query_exec_mode=simple_protocol"
	for _, test := range []struct {
		name, url, want string
		opts            *tenancy.Options
	}{
		{"malformed", "postgres://secret@host:port/x", "malformed database URL", nil},
		{"unreachable", "postgres://secret@127.0.0.1:1/x", "unreachable", nil},
		{"simple protocol", simple, "simple_protocol", nil},
		{"not migrated", empty.As(tenancy.AppRole), "tenancy.Migrate", nil},
		{"negative", b.As(tenancy.AppRole), "MaxConns", &tenancy.Options{MaxConns: -1}},
		{"no such role", b.As("nobody_at_all"), "28000", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := tenancy.Open(t.Context(), test.url, test.opts)
			require.ErrorContains(t, err, test.want)
			for _, hidden := range []string{"secret", "127.0.0.1", "nobody_at_all", "host:port"} {
				require.NotContains(t, err.Error(), hidden)
			}
		})
	}
}

// The modes for poolers work the same way, without prepared statements of ours,
// in all tiers.
func TestExecModes(t *testing.T) {
	t.Parallel()
	b := newTiers(t)
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec"} {
		for tier, id := range b.one {
			t.Run(mode+" "+string(tier), func(t *testing.T) {
				testExecMode(t, b.dialBy(t, tier, withMode(b.appURL(tier), mode), nil), id)
			})
		}
	}
}
