package tenancy

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// keptStatements is how many of the callers' statements stay prepared on a
// connection, as many as the driver itself would keep.
const keptStatements = 512

// statements are the callers' statements that are prepared on one connection.
type statements struct {
	known map[string]*pgconn.StatementDescription // by text
	order []string                                // the oldest first
	stale []string                                // to be dropped
}

// statementsKey is where a connection keeps its statements.
const statementsKey = "mcpsaas.statements"

func statementsOf(conn *pgx.Conn) *statements {
	custom := conn.PgConn().CustomData()
	s, ok := custom[statementsKey].(*statements)
	if !ok {
		s = &statements{known: make(map[string]*pgconn.StatementDescription)}
		custom[statementsKey] = s
	}
	return s
}

// prepare makes sql and its arguments fit to travel in one batch behind
// statements of our own. The first use of a text on a connection takes a round
// trip, as it does with the driver.
//
// The driver could prepare and encode as it sends the batch. But then an
// argument that can't be encoded, such as a number too large for its column,
// costs the connection, because part of the batch is on its way already; and
// an error of the server costs the statement, and a round trip to drop it.
func (db *DB) prepare(ctx context.Context, conn *pgx.Conn, sql string, args []any) (string, []any, error) {
	if len(args) > 0 {
		if rewriter, ok := args[0].(pgx.QueryRewriter); ok {
			var err error
			if sql, args, err = rewriter.RewriteQuery(ctx, conn, sql, args[1:]); err != nil {
				return "", nil, err
			}
		}
	}
	var description *pgconn.StatementDescription
	switch db.mode {
	case pgx.QueryExecModeCacheStatement:
		var err error
		if description, err = statementsOf(conn).prepare(ctx, conn, sql); err != nil {
			return "", nil, err
		}
	case pgx.QueryExecModeExec: // encodes without a description
	default:
		return sql, args, nil
	}
	var builder pgx.ExtendedQueryBuilder
	if err := builder.Build(conn.TypeMap(), description, args); err != nil {
		return "", nil, err
	}
	return sql, args, nil
}

func (s *statements) prepare(ctx context.Context, conn *pgx.Conn, sql string) (*pgconn.StatementDescription, error) {
	for len(s.stale) > 0 {
		if err := conn.Deallocate(ctx, s.stale[0]); err != nil {
			return nil, err
		}
		s.stale = s.stale[1:]
	}
	if description, ok := s.known[sql]; ok {
		return description, nil
	}
	// A name that is the text makes the driver find the statement by its text.
	description, err := conn.Prepare(ctx, sql, sql)
	if err != nil {
		return nil, err
	}
	s.known[sql] = description
	s.order = append(s.order, sql)
	if len(s.order) > keptStatements {
		s.forget(s.order[0])
	}
	return description, nil
}

// forget has sql prepared anew when it is used again.
func (s *statements) forget(sql string) {
	if _, ok := s.known[sql]; !ok {
		return
	}
	delete(s.known, sql)
	s.stale = append(s.stale, sql)
	for i, other := range s.order {
		if other == sql {
			s.order = append(s.order[:i], s.order[i+1:]...)
			break
		}
	}
}

// failed looks at an error of sql, and forgets the statement if the cause may
// be that a table has changed since it was prepared. What a tenant can bring
// about at will, such as a violated constraint or policy, is not among them.
func (s *statements) failed(sql string, err error) {
	code := sqlState(err)
	if code == "0A000" || strings.HasPrefix(code, "42") && code != "42501" {
		s.forget(sql)
	}
}
