package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mcpsaas/mcpsaas/internal/pgredact"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// serverDatabases finds databases on the server of a URL: same-server.
func serverDatabases(home string) tenancy.ResolverFunc {
	return func(_ context.Context, ref string) (string, error) {
		name, err := databaseName(home, ref)
		if err != nil {
			return "", &tenancy.ResolveError{Ref: ref, Reason: err.Error()}
		}
		return withDatabase(home, name), nil
	}
}

// databaseName is that of a tenant's own database: several products may share
// a server.
func databaseName(base, ref string) (string, error) {
	config, err := pgx.ParseConfig(base)
	if err != nil {
		return "", errors.New("malformed database URL")
	}
	name := config.Database + "_" + ref
	if len(name) > 63 { // PostgreSQL would cut it off
		return "", fmt.Errorf("the name of database %s is longer than 63 bytes", name)
	}
	return name, nil
}

// withDatabase replaces the database in a URL or in a list of settings.
func withDatabase(base, name string) string {
	u, err := url.Parse(base)
	if err != nil || !strings.HasPrefix(u.Scheme, "postgres") {
		return base + " dbname='" + name + "'" // of two the last one counts
	}
	u.Path, u.RawPath = "/"+name, ""
	q := u.Query()
	for _, key := range []string{"dbname", "database"} {
		q.Del(key)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// likeSQL describes the database, so that another one sorts and compares alike.
const likeSQL = `
select format('template template0 encoding %L lc_collate %L lc_ctype %L', pg_encoding_to_char(encoding), datcollate, datctype)
from pg_database where datname = current_database()`

const databaseStateSQL = `select count(*) > 0, coalesce(bool_and(datallowconn), false) from pg_database where datname = $1`

// prepare makes a tenant's place.
func (o *office) prepare(ctx context.Context, id tenant.ID) (marker string, err error) {
	at, err := o.placement(ctx, id)
	if err != nil {
		return "", err
	}
	if err := o.makeDatabase(ctx, at); err != nil {
		return "", err
	}
	return o.data.Prepare(ctx, id)
}

// erase empties a tenant's place, proves it, and drops the database that was
// made for it. One that an earlier run has dropped is made again: there the
// proof is found once more.
func (o *office) erase(ctx context.Context, id tenant.ID) (*tenancy.Receipt, error) {
	at, err := o.placement(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := o.makeDatabase(ctx, at); err != nil {
		return nil, err
	}
	receipt, err := o.data.Erase(ctx, id)
	if err != nil {
		return receipt, err
	}
	return receipt, o.dropErased(ctx, id)
}

// placement reads where a tenant is, or is to be, from the database.
func (o *office) placement(ctx context.Context, id tenant.ID) (tenancy.Placement, error) {
	var r tenancy.Record
	err := pgx.BeginFunc(ctx, o.control, func(tx pgx.Tx) (err error) {
		r, err = tenancy.LockTenant(ctx, tx, id)
		return err
	})
	return r.Placement, pgredact.Error(err)
}

// makeDatabase makes the tenant's own database, empty, if the server is who makes
// them and there is none.
func (o *office) makeDatabase(ctx context.Context, at tenancy.Placement) error {
	if o.databases.kind != sameServer || at.Tier != tenancy.TierDatabase {
		return nil
	}
	name, err := databaseName(o.ownerURL, at.Database)
	if err != nil {
		return err
	}
	return o.asOwner(ctx, func(conn *pgx.Conn) error {
		var exists, open bool
		if err := conn.QueryRow(ctx, databaseStateSQL, name).Scan(&exists, &open); err != nil {
			return err
		}
		if exists && !open { // what drop has left, when it was cut short
			_, err := conn.Exec(ctx, "alter database "+pgx.Identifier{name}.Sanitize()+" allow_connections true")
			return err
		}
		if exists {
			return nil
		}
		var like string
		if err := conn.QueryRow(ctx, likeSQL).Scan(&like); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize()+" "+like)
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
			switch pg.Code {
			case "42P04", "23505": // duplicate_database: another process was faster
				return nil
			case "42501":
				return fmt.Errorf("%w: a superuser mends it by: alter role %s createdb", err, pgx.Identifier{conn.Config().User}.Sanitize())
			}
		}
		return err
	})
}

const (
	othersSQL = `select exists (select from mcpsaas.tenants where database_ref = $1 and id <> $2 and status <> 'deleted')`
	unusedSQL = `select not exists (select from mcpsaas.tenants where id = $1 and database_ref = $2)
		and not exists (select from mcpsaas.moves where tenant_id = $1 and state not in ('purged', 'aborted'))`
	allUnusedSQL = `
select t.id from mcpsaas.tenants t
where exists (select from pg_database where datname = $1 || t.id)
	and placement <> 'database' and not exists (select from mcpsaas.moves m where m.tenant_id = t.id and state not in ('purged', 'aborted'))`
	hangUpSQL = `select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = $1 and usename = current_user`
)

// dropErased drops the database that was made for a tenant, which has been
// erased.
func (o *office) dropErased(ctx context.Context, id tenant.ID) error {
	return o.dropDatabase(ctx, id, func(pgx.Tx) (bool, error) { return true, nil })
}

// dropUnused drops it if the tenant has moved away and has no copy in it.
func (o *office) dropUnused(ctx context.Context, id tenant.ID) error {
	return o.dropDatabase(ctx, id, func(tx pgx.Tx) (unused bool, err error) {
		err = tx.QueryRow(ctx, unusedSQL, id, databaseRef(id)).Scan(&unused)
		return unused, err
	})
}

func (o *office) dropAllUnused(ctx context.Context) error {
	if o.databases.kind != sameServer {
		return nil
	}
	prefix, err := databaseName(o.ownerURL, databaseRef(tenant.ID{}))
	if err != nil {
		return err
	}
	prefix = strings.TrimSuffix(prefix, databaseRef(tenant.ID{}))
	rows, err := o.control.Query(ctx, allUnusedSQL, prefix)
	if err != nil {
		return pgredact.Error(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[tenant.ID])
	for _, id := range ids {
		err = errors.Join(err, o.dropUnused(ctx, id))
	}
	return err
}

// dropDatabase drops the database that makeDatabase has made for a tenant, if
// nobody else was put there and may says so. Meanwhile the tenant is held where it
// is.
func (o *office) dropDatabase(ctx context.Context, id tenant.ID, may func(pgx.Tx) (bool, error)) error {
	if o.databases.kind != sameServer {
		return nil
	}
	ref := databaseRef(id)
	name, err := databaseName(o.ownerURL, ref)
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, o.control, func(tx pgx.Tx) error {
		if _, err := tenancy.LockTenant(ctx, tx, id); err != nil {
			return err
		}
		var others bool
		if err := tx.QueryRow(ctx, othersSQL, ref, id).Scan(&others); err != nil || others {
			return err
		}
		if ok, err := may(tx); err != nil || !ok {
			return err
		}
		return o.asOwner(ctx, func(conn *pgx.Conn) error { return o.drop(ctx, conn, name) })
	})
	return pgredact.Error(err)
}

func (o *office) drop(ctx context.Context, conn *pgx.Conn, name string) error {
	var exists, open bool
	if err := conn.QueryRow(ctx, databaseStateSQL, name).Scan(&exists, &open); err != nil || !exists {
		return err
	}
	// Idle connections of the servers would be in the way. Only a role itself may
	// hang up for it, and only where it can still log in.
	if _, err := conn.Exec(ctx, "alter database "+pgx.Identifier{name}.Sanitize()+" allow_connections false"); err != nil {
		return err
	}
	if o.appURL != "" {
		app, err := pgx.Connect(ctx, o.appURL)
		if err != nil {
			return fmt.Errorf("APP_DATABASE_URL: %w", pgredact.Error(err))
		}
		_, err = app.Exec(ctx, hangUpSQL, name)
		if err := errors.Join(err, app.Close(context.WithoutCancel(ctx))); err != nil {
			return err
		}
	}
	_, err := conn.Exec(ctx, "drop database if exists "+pgx.Identifier{name}.Sanitize()+" with (force)")
	return err
}

// asOwner runs f on a connection of the owner's, outside of a transaction.
func (o *office) asOwner(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, o.ownerURL)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", pgredact.Error(err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return pgredact.Error(f(conn))
}
