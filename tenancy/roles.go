package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// RoleError says why row level security would not bind a role, or not hold
// for a table that the role can reach. It matches [ErrUnsafeRole].
type RoleError struct {
	Role   string
	Faults []Fault
}

// Fault is one reason, and the statement that mends it, to be run by the
// owner or a superuser.
type Fault struct {
	Class  string // such as "superuser", "owner", "not_forced": for metrics and tests
	Detail string
	Mend   string
}

// Error lists every fault with the statement that mends it.
func (e *RoleError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %q", ErrUnsafeRole, e.Role)
	for _, f := range e.Faults {
		fmt.Fprintf(&b, "\n  %s: %s\n    mend: %s", f.Class, f.Detail, f.Mend)
	}
	return b.String()
}

// Is reports whether target is [ErrUnsafeRole].
func (e *RoleError) Is(target error) bool { return target == ErrUnsafeRole }

// querier is what the catalog is read through.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// checkRole returns a [*RoleError] unless row level security binds the role that
// db logs in as, on every tenants' table that it can reach: what the audit's rules
// with a class find that are errors.
//
// The role is judged by session_user: whatever the connection has set its role
// to, a statement can reset it to that. A statement can also set it to any role that
// this one is a member of, whether it inherits from it or not, so that theirs are
// its privileges too.
func checkRole(ctx context.Context, db AuditConn) error {
	c, err := readCatalog(ctx, db, nil)
	if err != nil {
		return fmt.Errorf("tenancy: check the role: %w", redact(err))
	}
	if !slices.ContainsFunc(c.Relations, func(r *relation) bool { return r.is("tenant_marker") }) {
		return errors.New("tenancy: the database has no table tenant_marker: run tenancy.Migrate on it first")
	}
	refusal := &RoleError{Role: c.Roles[0].Name}
	a := &audit{catalog: c}
	for _, r := range rules() {
		if r.class == "" {
			continue
		}
		a.rule, a.findings = r.AuditRule, nil
		r.check(a)
		for _, f := range a.findings {
			if f.Severity == SeverityError {
				refusal.Faults = append(refusal.Faults, Fault{r.class, f.Object + ": " + f.Message, f.Mend})
			}
		}
	}
	if len(refusal.Faults) > 0 {
		return refusal
	}
	return nil
}

// digestSQL changes with everything that checkRole looks at: a row of the catalog
// that is written anew is another transaction's.
const digestSQL = `
select md5(concat_ws(' ', session_user, current_database(),
	(select sum(hashtextextended(concat(oid, ' ', xmin), 0)) from pg_catalog.pg_policy),
	(select sum(hashtextextended(concat(oid, ' ', xmin), 0)) from pg_catalog.pg_class),
	(select sum(hashtextextended(concat(attrelid, ' ', attnum, ' ', xmin), 0)) from pg_catalog.pg_attribute where attname = 'tenant_id' or attacl is not null),
	(select sum(hashtextextended(concat(oid, ' ', xmin), 0)) from pg_catalog.pg_namespace),
	(select sum(hashtextextended(concat(oid, ' ', xmin), 0)) from pg_catalog.pg_proc),
	(select sum(hashtextextended(concat(oid, ' ', xmin), 0)) from pg_catalog.pg_database),
	(select sum(hashtextextended(concat(roleid, ' ', member, ' ', xmin), 0)) from pg_catalog.pg_auth_members),
	(select sum(hashtextextended(r::text, 0)) from pg_catalog.pg_roles r)))`

// roleCheck remembers what the catalog looked like when it was last found to be
// right: to judge thousands of schemas takes a while, and they hardly ever change.
type roleCheck struct{ digest atomic.Pointer[string] }

func (k *roleCheck) run(ctx context.Context, db interface {
	querier
	AuditConn
}) error {
	var digest string
	if err := db.QueryRow(ctx, digestSQL).Scan(&digest); err != nil {
		return fmt.Errorf("tenancy: check the role: %w", redact(err))
	}
	if last := k.digest.Load(); last != nil && *last == digest {
		return nil
	}
	if err := checkRole(ctx, db); err != nil {
		return err
	}
	k.digest.Store(&digest)
	return nil
}

// grantees lists everybody and the roles as a revoke does.
func grantees(roles ...string) string {
	list := []string{"public"}
	for _, role := range roles {
		list = append(list, pgx.Identifier{role}.Sanitize())
	}
	return strings.Join(list, ", ")
}
