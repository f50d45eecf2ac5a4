package tenancy

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// AddSigningKey makes the database accept contexts that are signed with the key.
// It accepts several keys at once, so that one can take the other's place without
// a pause: add the new one to every database, have every server [Signer.Use] it,
// and [RetireSigningKey] the old one after the signer's life has passed. db reaches
// the database as its owner.
func AddSigningKey(ctx context.Context, db AuditConn, key SigningKey) error {
	if key.id == "" {
		return errors.New("tenancy: add signing key: the key is empty")
	}
	inner, outer := key.pads()
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `insert into mcpsaas.signing_keys (id, inner_pad, outer_pad) values ($1, $2, $3)
on conflict (id) do update set id = excluded.id where signing_keys.inner_pad = excluded.inner_pad`, key.id, inner, outer)
		if err == nil && tag.RowsAffected() == 0 {
			return fmt.Errorf("there is another key %q", key.id)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("tenancy: add signing key: %w", redact(err))
	}
	return nil
}

// RetireSigningKey makes the database refuse whatever the key has signed, at
// once and also in transactions that are running. It refuses to take the last key
// from a database whose policies want a signature, unless there is none of the
// id, which is no error. db reaches the database as its owner.
func RetireSigningKey(ctx context.Context, db AuditConn, id string) error {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		signed, err := readSigned(ctx, tx)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `delete from mcpsaas.signing_keys where id = $1`, id)
		if err != nil || tag.RowsAffected() == 0 || !signed {
			return err
		}
		return wantKey(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("tenancy: retire signing key: %w", redact(err))
	}
	return nil
}

func wantKey(ctx context.Context, tx pgx.Tx) error {
	var some bool
	err := tx.QueryRow(ctx, `select exists (select from mcpsaas.signing_keys)`).Scan(&some)
	if err == nil && !some {
		return errors.New("the policies want a signed context, and there would be no key: add one first")
	}
	return err
}

// actSQL sets the context for those who may act for any tenant: the owner and
// the control role.
const actSQL = `select set_config('` + Setting + `', $1, true), set_config('` + tokenSetting + `', mcpsaas.token($1), true)`

// signedSQL reports whether the database's policies want a signed context: the
// marker's say so for all. Everybody can see it, and it changes with them.
var signedSQL = `select exists (
	select from pg_catalog.pg_policy p join pg_catalog.pg_class c on c.oid = p.polrelid
	where c.relnamespace = 'public'::regnamespace and c.relname = 'tenant_marker' and p.polname = '` + shapeOf(tenant.ID{}, true, true).guardName() + `')`

func readSigned(ctx context.Context, q querier) (signed bool, err error) {
	err = q.QueryRow(ctx, signedSQL).Scan(&signed)
	return signed, err
}

// SignContext makes the policies of a database want the tenant's context signed,
// or, with false, no longer. Then a statement that takes another tenant's id, which
// is all that the unsigned context consists of, sees nothing and writes nothing:
// injected SQL is held as well, whatever it can run.
//
// To sign costs no round trip and, in each statement, a verification per table.
// Tables that are protected later, by [Protect], [PolicySQL] or [Migrate], follow
// the database.
//
// It works while servers run, each table in a transaction of its own, and can be
// run again when it was interrupted. Beforehand the database must know the key by
// [AddSigningKey] and every server must have its [Signer]: unsigned policies take
// no notice of a signature, so that the way back is to run this with false before
// the servers lose theirs. conn must own the tables and be outside of a
// transaction.
func SignContext(ctx context.Context, conn *pgx.Conn, signed bool) error {
	err := signContext(ctx, conn, signed)
	if err != nil {
		return fmt.Errorf("tenancy: sign context: %w", redact(err))
	}
	return nil
}

// protectedSQL finds the tables with generated policies, and the tenants' own
// schemas.
const protectedSQL = `
select n.nspname::text, c.relname::text
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname !~ '^t_[0-9a-f]{32}$' and n.nspname <> 'mcpsaas'
	and exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid and p.polname ~ '^tenant_guard_[0-9a-f]{8}$' and not p.polpermissive)
union all
select n.nspname::text, '' from pg_catalog.pg_namespace n where n.nspname ~ '^t_[0-9a-f]{32}$'
order by 1, 2`

func signContext(ctx context.Context, conn *pgx.Conn, signed bool) error {
	// The marker first: what is protected from now on follows it.
	marker := pgx.Identifier{"public", "tenant_marker"}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if signed {
			if err := wantKey(ctx, tx); err != nil {
				return err
			}
		}
		if err := lockProtect(ctx, tx); err != nil {
			return err
		}
		now, err := readSigned(ctx, tx)
		if err != nil || now == signed {
			return err
		}
		return resign(ctx, tx, marker, signed)
	})
	if err != nil {
		return err
	}
	rows, err := conn.Query(ctx, protectedSQL)
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (pgx.Identifier, error) {
		id := make(pgx.Identifier, 2)
		return id, row.Scan(&id[0], &id[1])
	})
	if err != nil {
		return err
	}
	for _, id := range tables {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if owner := schemaOwner(id[0]); !owner.IsZero() {
				return protectSchema(ctx, tx, owner)
			}
			if err := lockProtect(ctx, tx); err != nil {
				return err
			}
			return resign(ctx, tx, id, signed)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// resign makes the guard of a table in a shared schema say the other thing, and
// leaves all else to [Protect].
func resign(ctx context.Context, tx pgx.Tx, table pgx.Identifier, signed bool) error {
	states, err := readStates(ctx, tx, table[0], &table[1])
	if err != nil || len(states) == 0 {
		return err
	}
	p := tenantTable(table, signed)
	if p.intact(states[0].policies()) {
		return nil
	}
	if _, err := tx.Exec(ctx, p.mend()); err != nil {
		return fmt.Errorf("table %s.%s: %w", table[0], table[1], err)
	}
	return nil
}
