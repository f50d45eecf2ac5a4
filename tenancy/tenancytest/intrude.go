package tenancytest

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy"
)

// intrude goes for the other tenant's own tables by their name: as the tenant's role,
// as the one that logs in, and as the other tenant's, which injected SQL can take
// and against which the policies alone are left.
func (r *run) intrude(ctx context.Context, t *table, _ int64) {
	there := false
	err := r.attempt(ctx, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, `select exists (select from pg_namespace where nspname = $1)`, r.anna.home).Scan(&there)
	})
	if err != nil {
		r.find("unproved", t.name, "look for another tenant's schema: %v", err)
	}
	if !there || r.anna.home == r.bert.home {
		return // it is in another database
	}
	own := r.anna.home == tenancy.SchemaName(r.anna.id)
	roles := []string{"", "none"}
	if own {
		roles = append(roles, r.anna.home)
	}
	insert, args, err := t.insertSQL(r.fresh(t, r.anna), r.anna)
	if err != nil {
		r.find("unproved", t.name, "a row of another tenant's: %v", err)
		return
	}
	statements := t.writes(r.anna)
	statements["insert"], statements["truncate"] = insert, `truncate `+t.of(r.anna)
	statements["read"] = `select from ` + t.of(r.anna)
	for _, role := range roles {
		for class, sql := range statements {
			var n int64
			err := r.attempt(ctx, func(ctx context.Context, tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `select set_config('lock_timeout', '2s', true), set_config('role', coalesce(nullif($1, ''), current_user), true)`, role); err != nil {
					return err
				}
				args := args
				if class != "insert" {
					args = nil
				}
				tag, err := tx.Exec(ctx, sql, args...)
				n = tag.RowsAffected()
				return err
			})
			who := "the tenant's role"
			if role != "" {
				who = "role " + role
			}
			switch {
			case code(err) == insufficientPrivilege:
			case err != nil || n > 0 || class == "truncate":
				r.find(class, t.name, "as %s the other tenant's rows were reached: %d (%v)", who, n, err)
			case class == "read" && own && role != r.anna.home:
				r.find("schema", t.name, "as %s the other tenant's tables can be named", who)
			}
		}
	}
}
