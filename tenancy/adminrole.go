package tenancy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Whoever could act as the owner could take the record's triggers off.
const adminRoleSQL = `
select session_user::text, r.rolsuper, r.rolbypassrls, r.rolcreaterole,
	exists (select from pg_proc f join pg_namespace n on n.oid = f.pronamespace where n.nspname = 'mcpsaas' and f.proname = 'admin_begin'),
	pg_has_role(r.oid, 'mcpsaas_admin', 'usage'),
	pg_has_role(r.oid, 'app_user', 'member'),
	array(select distinct o.rolname::text from pg_roles o
		where (o.rolsuper or o.oid = d.datdba or exists (
			select from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relowner = o.oid and n.nspname = 'mcpsaas'))
		and pg_has_role(r.oid, o.oid, 'member'))
from pg_roles r, pg_database d where r.rolname = session_user and d.datname = current_database()`

// checkAdmin returns a [*RoleError] unless the login is fit for an [Admin].
func checkAdmin(ctx context.Context, conn *pgx.Conn) error {
	var role string
	var super, bypass, createRole, migrated bool
	var member, app *bool
	var mighty []string
	err := conn.QueryRow(ctx, adminRoleSQL).Scan(&role, &super, &bypass, &createRole, &migrated, &member, &app, &mighty)
	if sqlState(err) == "42704" { // undefined_object: a role
		err, migrated = nil, false
	}
	if err == nil && !migrated {
		err = errors.New("run tenancy.Migrate on the database first")
	}
	if err != nil {
		return fmt.Errorf("tenancy: check the admin's role: %w", redact(err))
	}
	var faults []Fault
	add := func(class, detail, mend string, args ...any) {
		faults = append(faults, Fault{Class: class, Detail: detail, Mend: fmt.Sprintf(mend, args...)})
	}
	name := pgx.Identifier{role}.Sanitize()
	if super {
		add("superuser", "a superuser can change the record", "alter role %s nosuperuser;", name)
		return &RoleError{Role: role, Faults: faults}
	}
	if createRole {
		add("createrole", "the role can make itself a member of others", "alter role %s nocreaterole;", name)
	}
	for _, m := range mighty {
		if m == role {
			add("owner", "the owner can change the record", "create role <another> login bypassrls;")
		} else {
			add("member", fmt.Sprintf("the role can act as %q, who can change the record", m), "revoke %s from %s;", pgx.Identifier{m}.Sanitize(), name)
		}
	}
	if app != nil && *app {
		add("app", "the role is, or can act as, the application's", "revoke %s from %s;", AppRole, name)
	}
	if !bypass {
		add("no_bypassrls", "the policies bind the role: it would see nothing", "alter role %s bypassrls;", name)
	}
	if member == nil || !*member {
		add("no_member", "the role may not put itself on record", "grant %s to %s;", AdminRole, name)
	}
	if len(faults) > 0 {
		return &RoleError{Role: role, Faults: faults}
	}
	return nil
}

// AdminRecord is an [Access] that was granted.
type AdminRecord struct {
	ID    int64
	Login string // the database's
	Access
	Began time.Time

	// Outcome is "committed", "rolled_back", "expired" or "failed", and Ended when
	// that was. Both are zero while the access goes on, and for ever if its process
	// was killed.
	Outcome string
	Ended   time.Time
}

const adminLogSQL = `
select id, login::text, actor, reason, write, extract(epoch from ttl)::float8, began_at, coalesce(outcome, ''), ended_at
from mcpsaas.admin_log where began_at >= $1 order by id desc limit $2`

// AdminLog returns the last accesses since then, the newest first and limit of
// them at most. The same is to be had by SQL from the view mcpsaas.admin_log.
func AdminLog(ctx context.Context, control *pgxpool.Pool, since time.Time, limit int) ([]AdminRecord, error) {
	rows, err := control.Query(ctx, adminLogSQL, since, limit)
	if err != nil {
		return nil, fmt.Errorf("tenancy: read the record of admin access: %w", redact(err))
	}
	records, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (AdminRecord, error) {
		var r AdminRecord
		var ttl float64
		var ended *time.Time
		err := row.Scan(&r.ID, &r.Login, &r.Actor, &r.Reason, &r.Write, &ttl, &r.Began, &r.Outcome, &ended)
		r.TTL, r.Began, r.Ended = time.Duration(ttl*float64(time.Second)).Round(time.Millisecond), r.Began.UTC(), utc(ended)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("tenancy: read the record of admin access: %w", redact(err))
	}
	return records, nil
}
