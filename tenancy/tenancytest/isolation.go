package tenancytest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// T is what [Isolation] needs of a *testing.T.
type T interface {
	// Helper is [testing.T.Helper].
	Helper()
	// Context is [testing.T.Context].
	Context() context.Context
	// Errorf is [testing.T.Errorf], called once for each finding.
	Errorf(format string, args ...any)
}

// Table is a table to test.
type Table struct {
	// Name is the table's, or the schema's and the table's with a dot between.
	// The schema defaults to the tenant's own or, if it has none, public.
	Name string

	// Row has values for columns that a generated one doesn't fit, such as one
	// with a check. The rest is generated, and what refers to another of the
	// tables refers to the same tenant's row there.
	Row map[string]any
}

// Isolation proves that no tenant reaches another's rows in the tables that all
// share, through db and the role that it runs as. It makes up two tenants: db must
// have no directory, which wouldn't know them. A table that others refer to must be
// given before them. Each leak fails the test with a line that begins with its
// class:
//
//	read, update, delete, insert, move, upsert, copy, truncate, no_context:
//	  a statement of one tenant reached the other's row, or one without a tenant any
//	reference: a row can refer to another tenant's
//	oracle: a unique constraint without tenant_id tells of another tenant's row
//	schema: a tenant's own schema is open to another
//	role: the role or a table is such that row level security doesn't hold
//	unproved: the table could not be tested
func Isolation(t T, db *tenancy.DB, tables ...Table) {
	t.Helper()
	prove(t, db, tenant.NewID(), tenant.NewID(), tables)
}

// IsolationBetween is [Isolation] for two tenants that there are, wherever their
// rows live: in the shared tables, in schemas of their own, whose walls it then tries
// too, or in databases. Have your onboarding make them, or [tenancy.PutTenant] and
// [tenancy.Data.Prepare], and db know them by its directory. Two of one kind prove
// something of that kind only, so call it for each that you use.
func IsolationBetween(t T, db *tenancy.DB, one, other tenant.ID, tables ...Table) {
	t.Helper()
	if one == other {
		t.Errorf("unproved: the two tenants are one")
		return
	}
	prove(t, db, one, other, tables)
}

func prove(t T, db *tenancy.DB, anna, bert tenant.ID, tables []Table) {
	t.Helper()
	if len(tables) == 0 {
		t.Errorf("unproved: no tables given")
		return
	}
	r := &run{db: db, anna: side{id: anna}, bert: side{id: bert}, rows: make(map[string]pair)}
	r.test(t.Context(), tables)
	for _, f := range r.findings {
		t.Errorf("%s", f)
	}
}

// run is one proof: bert attacks anna.
type run struct {
	db         *tenancy.DB
	anna, bert side
	rows       map[string]pair // the rows made so far, by table
	findings   []string
}

// side is one of the two tenants.
type side struct {
	id   tenant.ID
	home string // the schema of its tables
}

// pair is the row of each tenant in a table, as JSON objects.
type pair struct{ anna, bert map[string]any }

func (r *run) find(class, table, format string, args ...any) {
	r.findings = append(r.findings, fmt.Sprintf("%s: %s: %s", class, table, fmt.Sprintf(format, args...)))
}

// errUndo ends a transaction whose work is not to stay.
var errUndo = errors.New("undo")

// as runs fn as the tenant and undoes what it did, unless it returns nil.
func (r *run) as(ctx context.Context, s side, fn func(ctx context.Context, tx pgx.Tx) error) error {
	ctx = tenant.NewContext(ctx, tenant.Tenant{ID: s.id, Status: tenant.Active})
	return tenancy.TenantTx(ctx, r.db, fn)
}

// settle finds out where the tenant's tables are.
func (r *run) settle(ctx context.Context, s *side) error {
	return r.as(ctx, *s, func(ctx context.Context, tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `select coalesce(current_schema(), '')`).Scan(&s.home); err != nil {
			return err
		}
		if s.home != tenancy.SchemaName(s.id) {
			s.home = "public"
		}
		return nil
	})
}

func (r *run) test(ctx context.Context, tables []Table) {
	if err := r.db.CheckRoles(ctx); err != nil {
		r.find("role", "all", "%v", err)
	}
	if _, err := r.db.Exec(ctx, `select 1`); !errors.Is(err, tenant.ErrNone) {
		r.find("no_context", "all", "a statement without a tenant ran: %v", err)
	}
	for _, s := range []*side{&r.anna, &r.bert} {
		if err := r.settle(ctx, s); err != nil {
			class := "unproved"
			if errors.Is(err, tenancy.ErrUnsafeRole) { // in a database of its own
				class = "role"
			}
			r.find(class, "all", "no transaction of tenant %s: %v", s.id, err)
			return
		}
	}
	var made []*table
	for _, spec := range tables {
		tb, err := r.make(ctx, spec)
		if tb != nil {
			made = append(made, tb)
		}
		if err != nil {
			r.find("unproved", spec.Name, "%v", err)
		}
	}
	for _, tb := range made {
		if tb.whole {
			r.attack(ctx, tb)
		}
	}
	for _, tb := range slices.Backward(made) {
		if err := r.takeAway(ctx, tb); err != nil && code(err) != insufficientPrivilege {
			r.find("unproved", tb.name, "clean up: %v", err)
		}
	}
}

const (
	insufficientPrivilege = "42501" // row level security, or a missing grant
	uniqueViolation       = "23505"
)

func code(err error) string {
	failure, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return ""
	}
	return failure.Code
}
