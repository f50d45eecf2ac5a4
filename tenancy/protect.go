package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	ids := make([]pgx.Identifier, len(tables))
	for i, table := range tables {
		var err error
		if ids[i], err = parseTable(table); err != nil {
			return err
		}
	}
	return protect(ctx, conn, ids)
}

// protectLock keeps two processes from creating the same policy at once. The
// number has no meaning.
const protectLock = 0x70726f74656374

// pinSQL has expressions printed, and names bound, by PostgreSQL's own.
const pinSQL = `set local search_path = pg_catalog, pg_temp`

// lockProtect begins a transaction that makes policies.
func lockProtect(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, pinSQL); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(protectLock))
	return err
}

func protect(ctx context.Context, conn *pgx.Conn, tables []pgx.Identifier) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := lockProtect(ctx, tx); err != nil {
			return fmt.Errorf("tenancy: protect: %w", err)
		}
		signed, err := readSigned(ctx, tx)
		if err != nil {
			return fmt.Errorf("tenancy: protect: %w", err)
		}
		for _, table := range tables {
			p := tenantTable(table, signed)
			if table[0] == "public" {
				p = p.ours(table[1])
			}
			states, err := readStates(ctx, tx, table[0], &table[1])
			if err == nil && len(states) == 0 {
				err = errors.New("no such table")
			}
			if err == nil {
				err = p.apply(ctx, tx, states[0])
			}
			if err != nil {
				return fmt.Errorf("tenancy: protect table %s: %w", strings.Join(table, "."), err)
			}
		}
		return nil
	})
}

// tableState is how a relation stands that is to be protected.
type tableState struct {
	OID       uint32
	Name      string
	Kind      string // pg_class.relkind
	Partition bool
	Column    bool // it has a tenant_id of type uuid
	NotNull   bool
	Preset    string
	Enabled   bool // row level security is enabled and forced
	Indexed   bool // an index begins with tenant_id

	Grantees   []string // by whom and
	Privileges []string // what, in step; public is the empty string

	PolicyNames      []string
	PolicyPermissive []bool
	PolicyWhole      []bool
	PolicyUsing      []string
	PolicyCheck      []string
}

// statesSQL finds a table by its parts and not by to_regclass, which would
// fold and parse the name again.
const statesSQL = `
select c.oid, c.relname::text, c.relkind::text, c.relispartition, a.attnum is not null, coalesce(a.attnotnull, false),
	coalesce(pg_get_expr(d.adbin, d.adrelid), ''),
	c.relrowsecurity and c.relforcerowsecurity,
	exists (select from pg_index i where i.indrelid = c.oid and i.indisvalid and i.indpred is null and i.indkey[0] = a.attnum),
	acl.grantees, acl.privileges,
	pol.names, pol.permissive, pol.whole, pol.using, pol.check
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
left join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and a.atttypid = 'uuid'::regtype and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
cross join lateral (
	select coalesce(array_agg(coalesce(r.rolname, '')::text), '{}') as grantees, coalesce(array_agg(lower(x.privilege_type)), '{}') as privileges
	from aclexplode(c.relacl) x left join pg_roles r on r.oid = x.grantee
) acl
cross join lateral (
	select coalesce(array_agg(p.polname::text order by p.polname), '{}') as names,
		coalesce(array_agg(p.polpermissive order by p.polname), '{}') as permissive,
		coalesce(array_agg(p.polcmd = '*' and p.polroles = '{0}' order by p.polname), '{}') as whole,
		coalesce(array_agg(coalesce(pg_get_expr(p.polqual, p.polrelid), '') order by p.polname), '{}') as using,
		coalesce(array_agg(coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '') order by p.polname), '{}') as check
	from pg_policy p where p.polrelid = c.oid
) pol
where n.nspname = $1 and (c.relname = $2 or $2 is null) and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
order by c.relname`

// readStates reads one relation of a schema or, with nil, all.
func readStates(ctx context.Context, tx pgx.Tx, schema string, name *string) ([]tableState, error) {
	rows, err := tx.Query(ctx, statesSQL, schema, name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[tableState])
}

func (s *tableState) policies() []policy {
	all := make([]policy, len(s.PolicyNames))
	for i, name := range s.PolicyNames {
		all[i] = policy{name, s.PolicyPermissive[i], s.PolicyWhole[i], s.PolicyUsing[i], s.PolicyCheck[i]}
	}
	return all
}

// isTable reports whether row level security can hold for it.
func (s *tableState) isTable() bool { return s.Kind == "r" || s.Kind == "p" }

// apply protects a table, unless it is protected already: an unneeded alter
// table waits for, and blocks, every query.
func (p protection) apply(ctx context.Context, tx pgx.Tx, s tableState) error {
	switch {
	case !s.isTable():
		return errors.New("not a table: row level security can't hold for it")
	case s.Partition:
		return errors.New("a partition: protect the partitioned table itself")
	case p.column && !s.Column:
		return errors.New("no column tenant_id of type uuid")
	}
	if !p.done(&s) {
		if _, err := tx.Exec(ctx, p.sql()); err != nil {
			return err
		}
	}
	if s.Kind == "p" {
		return p.closePartitions(ctx, tx, s.OID)
	}
	return nil
}

// done reports whether running the statements would change nothing.
func (p protection) done(s *tableState) bool {
	if !s.Enabled || !p.intact(s.policies()) {
		return false
	}
	if p.column && (!s.NotNull || normal(s.Preset) != normal(defaultExpr) || p.owner.IsZero() && !s.Indexed) {
		return false
	}
	var want, have []string
	for privilege := range strings.SplitSeq(p.app, ", ") {
		want = append(want, p.role+" "+privilege)
	}
	for privilege := range strings.SplitSeq(p.control, ", ") {
		want = append(want, ControlRole+" "+privilege)
	}
	for i, grantee := range s.Grantees {
		if grantee == "" || slices.Contains(p.everyone(), grantee) {
			have = append(have, grantee+" "+s.Privileges[i])
		}
	}
	slices.Sort(want)
	slices.Sort(have)
	return slices.Equal(want, have)
}

const partitionsSQL = `
select n.nspname, c.relname
from pg_partition_tree($1) t
join pg_class c on c.oid = t.relid
join pg_namespace n on n.oid = c.relnamespace
where t.level > 0 and exists (
	select from aclexplode(c.relacl) x left join pg_roles r on r.oid = x.grantee where x.grantee = 0 or r.rolname = any ($2)
	union all
	select from pg_attribute a, aclexplode(a.attacl) x left join pg_roles r on r.oid = x.grantee
	where a.attrelid = c.oid and a.attacl is not null and (x.grantee = 0 or r.rolname = any ($2)))`

func (p protection) closePartitions(ctx context.Context, tx pgx.Tx, oid uint32) error {
	rows, err := tx.Query(ctx, partitionsSQL, oid, p.everyone())
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
		if _, err := tx.Exec(ctx, "revoke all on "+id.Sanitize()+" from "+grantees(p.everyone()...)); err != nil {
			return err
		}
	}
	return nil
}
