package tenancy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// The statements that this package sends around the caller's own.
//
// enter, the function, sets the context or fails, and what follows in the same
// batch doesn't run then: the checks cost no round trip. What is counted here
// and not there costs a fraction: a cursor that outlived its transaction holds
// the rows of who declared it. pg_cursor costs a few microseconds less than its
// view, pg_cursors.
//
// The function's plans hold for the search_path that they were made with, so
// that the tenant's is set after it, by the same statement; so is the role, which
// isn't the function's to set.
const (
	enterSQL = `select mcpsaas_app.enter($1, $2, ` + noCursorSQL + `,
	pg_catalog.current_setting('transaction_isolation') in ('repeatable read', 'serializable'))`

	noCursorSQL = `not exists (select from pg_catalog.pg_cursor() where is_holdable)`

	// A limit that is NULL is left as it is.
	limitSQL   = `pg_catalog.set_config('%[1]s', coalesce($%[2]d, pg_catalog.current_setting('%[1]s')), true)`
	settingSQL = `pg_catalog.set_config('%[1]s', $%[2]d, true)`

	// leaveSQL precedes a commit. It fails if the context is no longer the
	// tenant's: then some statement ended the transaction and began another. It
	// also fails for a cursor that would outlive the transaction. set_config
	// refuses NULL for a name.
	leaveSQL = `select pg_catalog.set_config(case when pg_catalog.current_setting('` + Setting + `', true) = $1 and ` + noCursorSQL + ` then '` + Setting + `' end, $1, true)`

	// leaveRoleSQL does the same where the tenant has a role.
	leaveRoleSQL = `select pg_catalog.set_config(case when pg_catalog.current_setting('` + Setting + `', true) = $1 and ` + noCursorSQL + `
	and current_user = $2::pg_catalog.name then '` + Setting + `' end, $1, true)`
)

// The states that our own statements fail with.
const (
	stateElsewhere = "TN001" // of enter: the tenant's rows are not here
	stateTampered  = "TN002" // of enter: the session has a context, or a cursor
	stateNullName  = "22004" // null_value_not_allowed
	stateNoPrepare = "26000" // invalid_sql_statement_name
	stateSerialize = "40001" // serialization_failure
	stateDenied    = "42501" // insufficient_privilege
)

// setting is a set of what enter's statement sets besides the context.
type setting int

const (
	setLimits setting = 1 << iota
	setToken
	setPath
	setRole
	setReadOnly

	anySetting // more than all
)

// enterTexts are the statements that set the context and, by their index, what
// else.
var enterTexts = func() (texts [anySetting]string) {
	for what := range anySetting {
		parts, n := []string{enterSQL}, 2
		add := func(format, name string) {
			n++
			parts = append(parts, fmt.Sprintf(format, name, n))
		}
		if what&setLimits != 0 {
			add(limitSQL, "statement_timeout")
			add(limitSQL, "lock_timeout")
		}
		if what&setToken != 0 {
			add(settingSQL, tokenSetting)
		}
		if what&setPath != 0 {
			add(settingSQL, "search_path")
		}
		if what&setRole != 0 {
			add(settingSQL, "role")
		}
		if what&setReadOnly != 0 {
			parts = append(parts, `pg_catalog.set_config('transaction_read_only', 'on', true)`)
		}
		texts[what] = strings.Join(parts, ", ")
	}
	return texts
}()

// enter returns the statement that makes a transaction the tenant's.
func (s *session) enter(db *DB, r route) statement {
	var what setting
	values := append(make([][]byte, 0, 7), []byte(r.id), strconv.AppendInt(nil, r.epoch, 10))
	if r.limits.limited() {
		what |= setLimits
		values = append(values, milliseconds(r.limits.StatementTimeout), milliseconds(r.limits.LockTimeout))
	}
	if db.signer != nil {
		what |= setToken
		values = append(values, []byte(db.signer.token(r.tenant)))
	}
	if path := s.pathFor(db, r); path != "" {
		what |= setPath
		values = append(values, []byte(path))
	}
	if r.schema != "" {
		what |= setRole
		values = append(values, []byte(r.schema))
	}
	if r.readOnly {
		what |= setReadOnly
	}
	return s.own(enterTexts[what], values...)
}

// leave returns the statement that makes sure that a transaction still is the
// tenant's.
func (s *session) leave(r route) statement {
	if r.schema == "" {
		return s.own(leaveSQL, []byte(r.id))
	}
	st := s.own(leaveRoleSQL, []byte(r.id), []byte(r.schema))
	st.description, _ = s.kept.get(described{r.database, r.schema, leaveRoleSQL})
	return st
}

// keepLeave has the statement for a schema's transactions stay prepared where it
// is hot: what was parsed with one schema on the search_path is parsed anew with
// another.
func (db *DB) keepLeave(ctx context.Context, conn *pgx.Conn, s *session, r route) error {
	key := described{r.database, r.schema, leaveRoleSQL}
	if r.schema == "" || !s.named || !s.hot(key) {
		return nil
	}
	if _, ok := s.kept.get(key); ok {
		return nil
	}
	st := []statement{{sql: leaveRoleSQL, keep: true}}
	return db.describe(ctx, conn, s, r, false, st, []int{0})
}

// pathFor returns the search_path to set, empty for none: the tenant's own schema,
// or behind a pooler the connection's, which another client may have changed.
func (s *session) pathFor(db *DB, r route) string {
	if r.schema == "" {
		return s.path
	}
	return pgx.Identifier{r.schema}.Sanitize() + db.pathTail
}

// entering tells what an error of enter's statement means, and closes the
// connection if its state can't be trusted.
func (db *DB) entering(conn *pgx.Conn, s *session, r route, err error) error {
	switch sqlState(err) {
	case stateElsewhere, stateSerialize:
		err = errElsewhere
	case stateTampered:
		db.condemn(conn, s, "the context was set for the session, or a cursor was left open")
		err = ErrTampered
	case stateDenied:
		if r.schema == "" {
			db.condemn(conn, s, "the role was set for the session, or may not call mcpsaas_app.enter")
			err = ErrTampered
		}
	case stateNoPrepare:
		db.condemn(conn, s, "a prepared statement is gone")
		err = ErrTampered
	}
	return &notEntered{err}
}

// leaving tells what an error of leave's statement means.
func (db *DB) leaving(conn *pgx.Conn, s *session, err error) error {
	switch sqlState(err) {
	case stateNullName:
		db.condemn(conn, s, "the transaction was ended, or a cursor was left open")
		return ErrTampered
	case stateNoPrepare:
		db.condemn(conn, s, "a prepared statement is gone")
		return ErrTampered
	}
	return err
}

// condemn closes a connection that was tampered with.
func (db *DB) condemn(conn *pgx.Conn, s *session, why string) {
	// The call's own context may be done, and doesn't reach the end of its rows.
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	db.log.LogAttrs(ctx, slog.LevelError, "tenant connection closed", slog.String("err", why))
	s.heal(ctx, conn)
	conn.Close(ctx)
}

// unfit names what is missing if err says that a function of ours can't be
// called.
func unfit(err error) error {
	switch sqlState(err) {
	case "42883", "3F000": // undefined_function, invalid_schema_name
		return errors.New("tenancy: the database has no function mcpsaas_app.enter: run tenancy.Migrate on it first")
	case stateDenied:
		return errors.New("tenancy: the role may not call mcpsaas_app.enter: grant usage on schema mcpsaas_app, and execute on all functions in schema mcpsaas_app, to it")
	}
	return err
}
