package tenancytest

import (
	"context"
	"errors"
	"fmt"

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
	// The schema defaults to public.
	Name string

	// Row has values for columns that a generated one doesn't fit, such as one
	// with a check. The rest is generated, and what refers to another of the
	// tables refers to the same tenant's row there.
	Row map[string]any
}

// Isolation proves that no tenant reaches another's rows in the tables, through
// db and the role that it runs as. A table that others refer to must be given
// before them. Each leak fails the test with a line that begins with its class:
//
//	read, update, delete, insert, move, upsert, copy, truncate, no_context:
//	  a statement of one tenant reached the other's row, or one without a tenant any
//	reference: a row can refer to another tenant's
//	oracle: a unique constraint without tenant_id tells of another tenant's row
//	role: the role or a table is such that row level security doesn't hold
//	unproved: the table could not be tested
func Isolation(t T, db *tenancy.DB, tables ...Table) {
	t.Helper()
	if len(tables) == 0 {
		t.Errorf("unproved: no tables given")
		return
	}
	r := &run{db: db, rows: make(map[uint32]pair)}
	r.anna, r.bert = tenant.NewID(), tenant.NewID()
	r.test(t.Context(), tables)
	for _, f := range r.findings {
		t.Errorf("%s", f)
	}
}

// run is one proof: bert attacks anna.
type run struct {
	db         *tenancy.DB
	anna, bert tenant.ID
	rows       map[uint32]pair // the rows made so far, by table
	findings   []string
}

// pair is the row of each tenant in a table, as JSON objects.
type pair struct{ anna, bert map[string]any }

func (r *run) find(class, table, format string, args ...any) {
	r.findings = append(r.findings, fmt.Sprintf("%s: %s: %s", class, table, fmt.Sprintf(format, args...)))
}

// errUndo ends a transaction whose work is not to stay.
var errUndo = errors.New("undo")

// as runs fn as the tenant and undoes what it did, unless it returns nil.
func (r *run) as(ctx context.Context, id tenant.ID, fn func(ctx context.Context, tx pgx.Tx) error) error {
	ctx = tenant.NewContext(ctx, tenant.Tenant{ID: id, Status: tenant.Active})
	return tenancy.TenantTx(ctx, r.db, fn)
}

func (r *run) test(ctx context.Context, tables []Table) {
	if err := r.db.CheckRoles(ctx); err != nil {
		r.find("role", "all", "%v", err)
	}
	if _, err := r.db.Exec(ctx, `select 1`); !errors.Is(err, tenant.ErrNone) {
		r.find("no_context", "all", "a statement without a tenant ran: %v", err)
	}
	var made []*table
	for _, spec := range tables {
		tb, err := r.make(ctx, spec)
		if err != nil {
			r.find("unproved", spec.Name, "%v", err)
			continue
		}
		made = append(made, tb)
	}
	for _, tb := range made {
		r.attack(ctx, tb)
	}
	for i := len(made) - 1; i >= 0; i-- {
		for _, id := range []tenant.ID{r.anna, r.bert} {
			err := r.as(ctx, id, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `delete from `+made[i].sql()+` where tenant_id = $1`, id)
				return err
			})
			if err != nil && code(err) != insufficientPrivilege {
				r.find("unproved", made[i].name, "clean up: %v", err)
			}
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
