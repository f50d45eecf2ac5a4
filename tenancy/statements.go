package tenancy

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// The statements that this package sends around the caller's own.
//
// Each sets the context by a name that is NULL unless all is as it must be, and
// set_config refuses NULL for a name with SQLSTATE 22004: the check costs no
// round trip, and what follows in the same batch doesn't run.
const (
	// enterSQL sets the context, and fails if the session has one already, or a
	// cursor that outlived its transaction: it holds the rows of who declared it.
	// The function costs a few microseconds less than its view, pg_cursors.
	enterSQL = `select set_config(case when ` + untouchedSQL + ` then '` + Setting + `' end, $1, true)`

	untouchedSQL = `coalesce(current_setting('` + Setting + `', true), '') = '' and ` + noCursorSQL
	noCursorSQL  = `not exists (select from pg_cursor() where is_holdable)`

	// enterLimitsSQL does the same and limits the transaction; NULL leaves a
	// limit as it is.
	enterLimitsSQL = `select set_config(case when ` + untouchedSQL + ` then '` + Setting + `' end, $1, true),
	set_config('statement_timeout', coalesce($2, current_setting('statement_timeout')), true),
	set_config('lock_timeout', coalesce($3, current_setting('lock_timeout')), true)`

	// leaveSQL precedes a commit. It fails if the context is no longer the
	// tenant's: then some statement ended the transaction and began another. It
	// also fails for a cursor that would outlive the transaction.
	leaveSQL = `select set_config(case when current_setting('` + Setting + `', true) = $1 and ` + noCursorSQL + ` then '` + Setting + `' end, $1, true)`

	stateNullName  = "22004" // null_value_not_allowed
	stateNoPrepare = "26000" // invalid_sql_statement_name
)

// own maps the names that the statements are prepared by on every connection
// to their text. By name, because the driver drops a statement that it
// prepared itself whenever another one of the same batch fails, and would
// spend a round trip on preparing it again.
var own = map[string]string{
	"mcpsaas_begin":        "begin",
	"mcpsaas_enter":        enterSQL,
	"mcpsaas_enter_limits": enterLimitsSQL,
	"mcpsaas_leave":        leaveSQL,
	"mcpsaas_commit":       "commit",
}

func prepareOwn(ctx context.Context, conn *pgx.Conn) error {
	for name, sql := range own {
		if _, err := conn.Prepare(ctx, name, sql); err != nil {
			return err
		}
	}
	return nil
}

// statement returns what to send for one of our own statements.
func (db *DB) statement(name string) string {
	if db.mode == pgx.QueryExecModeCacheStatement {
		return name
	}
	return own[name]
}
