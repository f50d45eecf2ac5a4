package tenancytest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy"
)

// attack tries every way from bert to anna's row. Each way is undone.
func (r *run) attack(ctx context.Context, t *table) {
	mine := r.count(ctx, t)
	if mine < 0 {
		return
	}
	before := r.snapshot(ctx, t)
	ways := []func(context.Context, *table, int64){r.read, r.withoutContext, r.write, r.forge, r.copyOut, r.truncate}
	if t.apart {
		ways = append(ways, r.intrude)
	} else {
		ways = append(ways, r.upsert, r.refer, r.oracles) // what only tables have that are shared
	}
	for _, way := range ways {
		way(ctx, t, mine)
	}
	if after := r.snapshot(ctx, t); after != before {
		r.find("update", t.name, "another tenant's row is no longer what it was")
	}
}

// attempt runs one way as bert, and undoes it.
func (r *run) attempt(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) error) error {
	err := r.as(ctx, r.bert, func(ctx context.Context, tx pgx.Tx) error {
		if err := fn(ctx, tx); err != nil {
			return err
		}
		return errUndo
	})
	if err == errUndo {
		return nil
	}
	return err
}

// count returns how many rows bert has, which must be seen for anything to be
// proved, and that all it sees are its own.
func (r *run) count(ctx context.Context, t *table) int64 {
	own := int64(-1)
	err := r.attempt(ctx, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, `select count(*) from `+t.of(r.bert)+` where `+t.mine(r.bert)).Scan(&own)
	})
	if err != nil || own < 1 {
		r.find("unproved", t.name, "a tenant doesn't see its own row (%d rows, %v)", own, err)
		return -1
	}
	return own
}

// snapshot returns anna's rows as anna sees them.
func (r *run) snapshot(ctx context.Context, t *table) (rows string) {
	err := r.as(ctx, r.anna, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, `select coalesce(string_agg(to_jsonb(t)::text, ',' order by to_jsonb(t)::text), '') from `+
			t.of(r.anna)+` t where `+t.mine(r.anna)).Scan(&rows)
	})
	if err != nil || rows == "" {
		r.find("unproved", t.name, "a tenant doesn't see its own row (%v)", err)
	}
	return rows
}

func (r *run) read(ctx context.Context, t *table, mine int64) {
	var all, foreign int64
	err := r.attempt(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `select count(*) from `+t.of(r.bert)).Scan(&all); err != nil {
			return err
		}
		if !t.scoped {
			return nil
		}
		return tx.QueryRow(ctx, `select count(*) from `+t.of(r.bert)+` where `+t.mine(r.anna)).Scan(&foreign)
	})
	if err != nil {
		r.find("unproved", t.name, "read: %v", err)
	}
	if all != mine || foreign != 0 {
		r.find("read", t.name, "a tenant with %d rows sees %d, and %d of the other tenant's", mine, all, foreign)
	}
}

// tokenSetting is what a signed context has besides.
const tokenSetting = `app.current_tenant_token`

// withoutContext empties the context in mid-transaction, which is how a
// connection looks that nobody set one on.
func (r *run) withoutContext(ctx context.Context, t *table, _ int64) {
	n := int64(-1)
	err := r.attempt(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select set_config($1, '', true), set_config($2, '', true)`, tenancy.Setting, tokenSetting); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `select count(*) from `+t.of(r.bert)).Scan(&n)
	})
	if err != nil || n != 0 {
		r.find("no_context", t.name, "without a tenant %d rows are seen (%v), and it should be none without an error", n, err)
	}
}

// write changes and deletes, with a filter on the other tenant and with none.
// A table that the role may not write at all is as good.
func (r *run) write(ctx context.Context, t *table, mine int64) {
	filters := []string{``}
	if t.scoped {
		filters = append(filters, ` where `+t.mine(r.anna))
	}
	for class, command := range t.writes(r.bert) {
		for _, filter := range filters {
			var n int64
			err := r.attempt(ctx, func(ctx context.Context, tx pgx.Tx) error {
				tag, err := tx.Exec(ctx, command+filter)
				n = tag.RowsAffected()
				return err
			})
			limit := mine
			if filter != "" {
				limit = 0
			}
			if err == nil && n > limit {
				r.find(class, t.name, "%d rows were hit by a tenant that has %d (%s)", n, mine, strings.TrimSpace(command+filter))
			}
			if filter != "" && err != nil && code(err) != insufficientPrivilege {
				// A statement that hits no row has nothing to fail at.
				r.find(class, t.name, "the other tenant's row was reached: %v", err)
			}
		}
	}
}

// try writes a row of bert's.
func (r *run) try(ctx context.Context, tx pgx.Tx, t *table, values map[string]any) error {
	var row map[string]any
	var at placed
	return t.insert(ctx, tx, values, r.bert, &row, &at)
}

// writes are statements that hit all rows they can, by class.
func (t *table) writes(s side) map[string]string {
	writes := map[string]string{"delete": `delete from ` + t.of(s)}
	if i := slices.IndexFunc(t.columns, func(c column) bool { return !c.Identity && (!t.scoped || c.Name == "tenant_id") }); i >= 0 {
		name := pgx.Identifier{t.columns[i].Name}.Sanitize()
		writes["update"] = `update ` + t.of(s) + ` set ` + name + ` = ` + name
	}
	return writes
}

// forge writes rows in the other tenant's name: a new one, and its own given
// away.
func (r *run) forge(ctx context.Context, t *table, _ int64) {
	values := r.fresh(t, r.bert)
	// The row itself must be one that the table takes.
	err := r.attempt(ctx, func(ctx context.Context, tx pgx.Tx) error { return r.try(ctx, tx, t, values) })
	if err != nil {
		r.find("unproved", t.name, "a second row of its own: %v", err)
		return
	}
	if !t.scoped {
		return // there is no other name
	}
	values["tenant_id"] = r.anna.id.String()
	for _, k := range t.keys { // so that no foreign key is in the way
		for i, name := range k.Columns {
			if v, ok := r.rows[k.Target].anna[k.Targets[i]]; ok {
				values[name] = v
			}
		}
	}
	// Without "returning", which would need the row to be visible as well.
	err = r.attempt(ctx, func(ctx context.Context, tx pgx.Tx) error {
		sql, args, err := t.insertSQL(values, r.bert)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, sql, args...)
		return err
	})
	if code(err) != insufficientPrivilege {
		r.find("insert", t.name, "a row in another tenant's name was not refused by a policy (%v)", err)
	}
	err = r.attempt(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `update `+t.of(r.bert)+` set tenant_id = $1`, r.anna.id)
		return err
	})
	if code(err) != insufficientPrivilege {
		r.find("move", t.name, "giving a row to another tenant was not refused by a policy (%v)", err)
	}
}

// upsert collides with the other tenant's row on each unique constraint.
func (r *run) upsert(ctx context.Context, t *table, _ int64) {
	for _, u := range t.uniques {
		if len(u.Columns) == 0 || slices.Contains(u.Columns, "tenant_id") {
			continue // it can't collide
		}
		err := r.attempt(ctx, func(ctx context.Context, tx pgx.Tx) error {
			sql, args, err := t.insertSQL(r.colliding(t, u), r.bert)
			if err != nil {
				return err
			}
			var names []string
			for _, c := range u.Columns {
				names = append(names, pgx.Identifier{c}.Sanitize())
			}
			_, err = tx.Exec(ctx, fmt.Sprintf(`%s on conflict (%s) do update set tenant_id = excluded.tenant_id`, sql, strings.Join(names, ", ")), args...)
			return err
		})
		// A policy refuses it; anything else that fails does so after the row
		// was reached, such as a foreign key that points at it.
		if c := code(err); c != insufficientPrivilege && c != uniqueViolation {
			r.find("upsert", t.name, "another tenant's row was reached through %s (%v)", u.Name, err)
		}
	}
}

// colliding returns a new row of bert's that has anna's values in a unique
// constraint.
func (r *run) colliding(t *table, u unique) map[string]any {
	values := r.fresh(t, r.bert)
	theirs := r.rows[t.key()].anna
	for _, name := range u.Columns {
		values[name] = theirs[name]
	}
	return values
}

func (r *run) copyOut(ctx context.Context, t *table, mine int64) {
	var out bytes.Buffer
	err := r.attempt(ctx, func(ctx context.Context, tx pgx.Tx) error {
		conn := tx.Conn()
		if conn == nil {
			return fmt.Errorf("the transaction can't begin")
		}
		_, err := conn.PgConn().CopyTo(ctx, &out, `copy (select to_jsonb(t) from `+t.of(r.bert)+` t) to stdout with (format csv, quote e'\x01', delimiter e'\x02')`)
		return err
	})
	if err != nil {
		r.find("unproved", t.name, "copy: %v", err)
	}
	if n := int64(bytes.Count(out.Bytes(), []byte("\n"))); n > mine || bytes.Contains(out.Bytes(), []byte(r.anna.id.String())) {
		r.find("copy", t.name, "a tenant with %d rows copied %d", mine, n)
	}
}

func (r *run) truncate(ctx context.Context, t *table, _ int64) {
	err := r.attempt(ctx, func(ctx context.Context, tx pgx.Tx) error {
		// Whoever holds the table would keep the test waiting, to no purpose.
		if _, err := tx.Exec(ctx, `set local lock_timeout = '2s'`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `truncate `+t.of(r.bert)+` cascade`)
		return err
	})
	if code(err) != insufficientPrivilege {
		r.find("truncate", t.name, "truncate was not refused (%v)", err)
	}
}

// refer points a row of bert's at anna's row in another table.
func (r *run) refer(ctx context.Context, t *table, _ int64) {
	for _, k := range t.keys {
		theirs, ok := r.rows[k.Target]
		if !ok {
			if !slices.Contains(k.Columns, "tenant_id") {
				r.find("unproved", t.name, "it refers by (%s) to a table that was not given", strings.Join(k.Columns, ", "))
			}
			continue
		}
		values := r.fresh(t, r.bert)
		for i, name := range k.Columns {
			if name != "tenant_id" {
				values[name] = theirs.anna[k.Targets[i]]
			}
		}
		err := r.attempt(ctx, func(ctx context.Context, tx pgx.Tx) error {
			if err := r.try(ctx, tx, t, values); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `set constraints all immediate`)
			return err
		})
		if err == nil {
			r.find("reference", t.name, "a row can refer to another tenant's by (%s): let the foreign key begin with tenant_id", strings.Join(k.Columns, ", "))
		}
	}
}

// oracles inserts the other tenant's unique values: being refused tells that
// they exist. A random uuid for a primary key can't be guessed, and is let pass.
func (r *run) oracles(ctx context.Context, t *table, _ int64) {
	for _, u := range t.uniques {
		if slices.Contains(u.Columns, "tenant_id") || u.Primary && u.UUID || len(u.Columns) == 0 {
			continue
		}
		err := r.attempt(ctx, func(ctx context.Context, tx pgx.Tx) error {
			sql, args, err := t.insertSQL(r.colliding(t, u), r.bert)
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, sql, args...)
			return err
		})
		if code(err) == uniqueViolation {
			values, _ := json.Marshal(u.Columns)
			r.find("oracle", t.name, "%s tells one tenant what another has in %s: let it begin with tenant_id", u.Name, values)
		}
	}
}
