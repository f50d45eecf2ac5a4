package pgmove

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const defaultLockTimeout = 100 * time.Millisecond

// captureSQL logs a row's key, as it was and as it is. Everything is named in
// full: the function runs with the search_path of whoever writes. It is the
// owner's, because nobody else may write the log.
const captureSQL = `
create or replace function {function}() returns trigger language plpgsql security definer as $capture$
declare
	old_key pg_catalog.jsonb;
	new_key pg_catalog.jsonb;
begin
	if tg_op operator(pg_catalog.<>) 'INSERT' then
		old_key := pg_catalog.jsonb_build_array({old});
	end if;
	if tg_op operator(pg_catalog.<>) 'DELETE' then
		new_key := pg_catalog.jsonb_build_array({new});
	end if;
	if old_key is not null and (new_key is null or old_key operator(pg_catalog.<>) new_key) then
		insert into mcpsaas.move_log (tenant_id, table_name, key) values ({tenant}, {table}, old_key);
	end if;
	if new_key is not null then
		insert into mcpsaas.move_log (tenant_id, table_name, key) values ({tenant}, {table}, new_key);
	end if;
	return null;
end $capture$;
revoke all on function {function} from public;
create trigger {trigger_i} after insert on {relation} for each row {when_new} execute function {function}();
create trigger {trigger_u} after update on {relation} for each row {when_either} execute function {function}();
create trigger {trigger_d} after delete on {relation} for each row {when_old} execute function {function}();`

const releaseSQL = `
drop trigger if exists {trigger_i} on {relation};
drop trigger if exists {trigger_u} on {relation};
drop trigger if exists {trigger_d} on {relation};
drop function if exists {function}();`

// tracesSQL finds what a capture has made, whatever became of the tables since.
const tracesSQL = `
select array(
	select distinct format('drop trigger if exists %I on %s', g.tgname, g.tgrelid::regclass) from pg_trigger g
	join pg_class c on c.oid = g.tgrelid
	where g.tgname ~ ('^mcpsaas_move_' || $1 || '_[iud]$') and not g.tgisinternal and not c.relispartition order by 1
) || array(
	select format('drop function if exists %s', p.oid::regprocedure) from pg_proc p
	where p.pronamespace = 'mcpsaas'::regnamespace and p.proname ~ ('^move_' || $1 || '_[0-9]+$') order by 1
)`

const capturedSQL = `select count(*) = 3 from pg_trigger where tgrelid = $1 and tgname = any ($2)`

func (m *Move) fillCapture(text string, t *table) string {
	hex := strings.ReplaceAll(m.Tenant, "-", "")
	trigger := func(kind string) string { return "mcpsaas_move_" + hex + "_" + kind }
	columns := func(row string) string {
		return list(t.key, func(name string) string { return row + "." + quote(name) })
	}
	// The tenant's own rows alone: what others write costs one comparison.
	when := func(row string) string { return row + ".tenant_id = " + literal(m.Tenant) }
	whenOld, whenNew, either := "", "", ""
	if t.source.scoped() && !m.From.Own {
		whenOld, whenNew = "when ("+when("old")+")", "when ("+when("new")+")"
		either = "when (" + when("old") + " or " + when("new") + ")"
	}
	return strings.NewReplacer(
		"{function}", pgx.Identifier{"mcpsaas", fmt.Sprintf("move_%s_%d", hex, t.source.OID)}.Sanitize(),
		"{relation}", m.From.table(t.name),
		"{tenant}", literal(m.Tenant),
		"{table}", literal(t.name),
		"{old}", columns("old"), "{new}", columns("new"),
		"{trigger_i}", quote(trigger("i")), "{trigger_u}", quote(trigger("u")), "{trigger_d}", quote(trigger("d")),
		"{when_old}", whenOld, "{when_new}", whenNew, "{when_either}", either,
	).Replace(text)
}

// Capture has the source log what the tenant writes from now on, table by
// table: everybody who writes to a table waits for its turn.
func (m *Move) Capture(ctx context.Context) error {
	hex := strings.ReplaceAll(m.Tenant, "-", "")
	names := []string{"mcpsaas_move_" + hex + "_i", "mcpsaas_move_" + hex + "_u", "mcpsaas_move_" + hex + "_d"}
	for _, t := range m.tables {
		err := m.locking(ctx, m.From, func(tx *tx) error {
			var done bool
			if err := tx.QueryRow(ctx, capturedSQL, t.source.OID, names).Scan(&done); err != nil || done {
				return err
			}
			return tx.script(ctx, m.fillCapture(releaseSQL+captureSQL, t))
		})
		if err != nil {
			return fmt.Errorf("table %s: capture: %w", t.name, err)
		}
		m.step("captured " + t.name)
	}
	return nil
}

// Release ends Capture, and forgets what was logged.
func (m *Move) Release(ctx context.Context) error {
	var statements []string
	err := m.within(ctx, m.From, pgx.ReadCommitted, func(tx *tx) error {
		if _, err := tx.Exec(ctx, `select set_config('search_path', 'pg_catalog, pg_temp', true)`); err != nil {
			return err
		}
		return tx.QueryRow(ctx, tracesSQL, strings.ReplaceAll(m.Tenant, "-", "")).Scan(&statements)
	})
	if err != nil {
		return err
	}
	for _, sql := range statements {
		err := m.locking(ctx, m.From, func(tx *tx) error {
			_, err := tx.Exec(ctx, sql)
			return err
		})
		if err != nil {
			return fmt.Errorf("end the capture: %w", err)
		}
		m.step("released")
	}
	return m.within(ctx, m.From, pgx.ReadCommitted, func(tx *tx) error {
		_, err := tx.Exec(ctx, `delete from mcpsaas.move_log where tenant_id = $1`, m.Tenant)
		return err
	})
}

// script runs several statements, which only the simple protocol takes.
func (t *tx) script(ctx context.Context, sql string) error {
	_, err := t.Conn().PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// locking runs fn in a transaction that gives up a lock it can't have soon, and
// tries again, until ctx is done.
func (m *Move) locking(ctx context.Context, p *Place, fn func(tx *tx) error) error {
	for attempt := 0; ; attempt++ {
		err := m.within(ctx, p, pgx.ReadCommitted, func(tx *tx) error {
			if _, err := tx.Exec(ctx, lockTimeout(m.lockTimeout())); err != nil {
				return err
			}
			return fn(tx)
		})
		if !busy(err) {
			return err
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

func (m *Move) lockTimeout() time.Duration {
	if m.LockTimeout > 0 {
		return m.LockTimeout
	}
	return defaultLockTimeout
}

// busy reports whether a lock could not be had, or a deadlock was broken up.
func busy(err error) bool {
	state := sqlState(err)
	return state == "55P03" || state == "40P01"
}

func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// pause waits longer with each attempt, and not exactly as long as others do:
// those who were kept waiting must get their turn.
func pause(ctx context.Context, attempt int) error {
	d := min(20*time.Millisecond<<min(attempt, 6), time.Second)
	rest(ctx, d/2+rand.N(d))
	return context.Cause(ctx)
}

func (m *Move) step(name string) {
	if m.Step != nil {
		m.Step(name)
	}
}
