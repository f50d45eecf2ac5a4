package tenancy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Protect makes the tables tenants' tables: it runs [PolicySQL] for each that
// isn't protected yet, in one transaction, and leaves the others alone, so
// that it may run at every start. Each needs a column tenant_id of type uuid,
// and conn must own them and be outside of a transaction.
//
// A partitioned table is protected as a whole: its partitions are taken from
// the application's role, since a policy of the parent doesn't hold for who
// names a partition directly.
func Protect(ctx context.Context, conn *pgx.Conn, tables ...string) error {
	protections := make([]protection, 0, len(tables))
	for _, table := range tables {
		id, err := parseTable(table)
		if err != nil {
			return err
		}
		protections = append(protections, tenantTable(id))
	}
	return protect(ctx, conn, protections)
}

// protectLock keeps two processes from creating the same policy at once. The
// number has no meaning.
const protectLock = 0x70726f74656374

func protect(ctx context.Context, conn *pgx.Conn, protections []protection) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// What the policies call is bound when they are made: a function named
		// current_setting in a schema that stands before pg_catalog must not be it.
		if _, err := tx.Exec(ctx, `set local search_path = pg_catalog, pg_temp`); err != nil {
			return fmt.Errorf("tenancy: protect: %w", err)
		}
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(protectLock)); err != nil {
			return fmt.Errorf("tenancy: protect: %w", err)
		}
		for _, p := range protections {
			if err := p.apply(ctx, tx); err != nil {
				return fmt.Errorf("tenancy: protect table %s: %w", strings.Join(p.table, "."), err)
			}
		}
		return nil
	})
}

// describeSQL finds the table by its parts and not by to_regclass, which
// would fold and parse the name again.
const describeSQL = `
select c.oid, c.relkind in ('r', 'p'), c.relispartition,
	exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id'
		and a.atttypid = 'uuid'::regtype and not a.attisdropped)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = $2`

// protectedSQL reports whether running the statements again would change
// nothing: an unneeded alter table waits for, and blocks, every query.
const protectedSQL = `
select c.relrowsecurity and c.relforcerowsecurity
	and exists (select from pg_attribute a join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
		where a.attrelid = c.oid and a.attname = 'tenant_id' and a.attnotnull
		and pg_get_expr(d.adbin, d.adrelid) like '%' || $2 || '%')
	and exists (select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
		where i.indrelid = c.oid and i.indisvalid and i.indpred is null and a.attname = 'tenant_id')
	and (select coalesce(array_agg(a.grantee::regrole::text || ' ' || lower(a.privilege_type) order by 1), '{}')
		from aclexplode(c.relacl) a
		where a.grantee in ('app_user'::regrole, 'mcpsaas_control'::regrole)) @> $3
	and not exists (select from aclexplode(c.relacl) a
		where a.grantee = 0 or (a.grantee in ('app_user'::regrole, 'mcpsaas_control'::regrole)
		and a.grantee::regrole::text || ' ' || lower(a.privilege_type) <> all ($3)))
from pg_class c where c.oid = $1`

const readPoliciesSQL = `
select p.polname, p.polpermissive, p.polcmd = '*' and p.polroles = '{0}',
	coalesce(pg_get_expr(p.polqual, p.polrelid), ''), coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '')
from pg_policy p where p.polrelid = $1`

const partitionsSQL = `
select n.nspname, c.relname
from pg_partition_tree($1) t
join pg_class c on c.oid = t.relid
join pg_namespace n on n.oid = c.relnamespace
where t.level > 0`

func (p protection) apply(ctx context.Context, tx pgx.Tx) error {
	var oid uint32
	var isTable, isPartition, hasID bool
	err := tx.QueryRow(ctx, describeSQL, p.table[0], p.table[1]).Scan(&oid, &isTable, &isPartition, &hasID)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errors.New("no such table")
	case err != nil:
		return err
	case !isTable:
		return errors.New("not a table: row level security can't hold for it")
	case isPartition:
		return errors.New("a partition: protect the partitioned table itself")
	case !hasID:
		return errors.New("no column tenant_id of type uuid")
	}
	var done bool
	if err := tx.QueryRow(ctx, protectedSQL, oid, Setting, p.acl()).Scan(&done); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, readPoliciesSQL, oid)
	if err != nil {
		return err
	}
	policies, err := pgx.CollectRows(rows, pgx.RowToStructByPos[policy])
	if err != nil {
		return err
	}
	if !done || !intact(policies) {
		// Several statements at once, which only the simple protocol takes.
		if _, err := tx.Conn().PgConn().Exec(ctx, p.sql()).ReadAll(); err != nil {
			return err
		}
	}
	return p.closePartitions(ctx, tx, oid)
}

func (p protection) closePartitions(ctx context.Context, tx pgx.Tx, oid uint32) error {
	rows, err := tx.Query(ctx, partitionsSQL, oid)
	if err != nil {
		return err
	}
	partitions, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (pgx.Identifier, error) {
		id := make(pgx.Identifier, 2)
		return id, row.Scan(&id[0], &id[1])
	})
	if err != nil {
		return err
	}
	for _, id := range partitions {
		if _, err := tx.Exec(ctx, "revoke all on "+id.Sanitize()+" from public, app_user, mcpsaas_control"); err != nil {
			return err
		}
	}
	return nil
}

// acl lists the privileges as aclexplode spells them.
func (p protection) acl() []string {
	var all []string
	for role, privileges := range map[string]string{AppRole: p.app, ControlRole: p.control} {
		for privilege := range strings.SplitSeq(privileges, ", ") {
			all = append(all, role+" "+privilege)
		}
	}
	return all
}

// policy is one row of pg_policy.
type policy struct {
	Name       string
	Permissive bool
	Whole      bool // for every command and role
	Using      string
	Check      string
}

// intact reports whether the generated policies are there and say what their
// names say they do. Further policies don't matter: the restrictive one binds
// them all.
func intact(policies []policy) bool {
	var guard, access bool
	for _, p := range policies {
		if !p.Whole || normal(p.Using) != normal(policyExpr) || normal(p.Check) != normal(policyExpr) {
			continue
		}
		guard = guard || p.Name == guardPolicy && !p.Permissive
		access = access || p.Name == accessPolicy && p.Permissive
	}
	return guard && access
}

// normal strips what pg_get_expr adds to an expression and what differs in it
// between versions of PostgreSQL.
func normal(expr string) string {
	expr = strings.NewReplacer(" ", "", "\n", "", "\t", "", "(", "", ")", "").Replace(strings.ToLower(expr))
	return strings.NewReplacer("::text", "", `as"nullif"`, "").Replace(expr)
}
