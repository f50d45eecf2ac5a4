package pgmove

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// script is several statements that travel together: the tenant waits for some
// of them, and a busy machine takes longer over a journey than over a statement.
type script struct {
	statements []statement
}

type statement struct {
	table string // that it is about, for an error
	sql   string
	then  func(r *pgconn.Result) error
}

func (s *script) add(table, format string, args ...any) {
	s.statements = append(s.statements, statement{table: table, sql: fmt.Sprintf(format, args...)})
}

// then has f look at the result of the statement that was added last.
func (s *script) then(f func(r *pgconn.Result) error) { s.statements[len(s.statements)-1].then = f }

// affected has the number of rows of the last statement added to n.
func (s *script) affected(n *int64) {
	s.then(func(r *pgconn.Result) error {
		*n += r.CommandTag.RowsAffected()
		return nil
	})
}

// run runs the script in a transaction. Only the simple protocol takes several
// statements at once.
func (s *script) run(ctx context.Context, t *tx) error {
	if len(s.statements) == 0 {
		return nil
	}
	var text strings.Builder
	for _, statement := range s.statements {
		text.WriteString(statement.sql)
		text.WriteString(";\n")
	}
	results, err := t.Conn().PgConn().Exec(ctx, text.String()).ReadAll()
	done := 0
	for i, r := range results {
		if r.Err != nil || i >= len(s.statements) {
			break
		}
		done++
		if then := s.statements[i].then; err == nil && then != nil {
			if err := then(r); err != nil {
				return about(s.statements[i].table, err)
			}
		}
	}
	if err != nil && done < len(s.statements) {
		return about(s.statements[done].table, err)
	}
	return err
}

func about(table string, err error) error {
	if table == "" {
		return err
	}
	return fmt.Errorf("table %s: %w", table, err)
}

// number reads the first column of the first row; no row and null are zero.
func number(r *pgconn.Result, column int) (int64, error) {
	if len(r.Rows) == 0 || r.Rows[0][column] == nil {
		return 0, nil
	}
	return strconv.ParseInt(string(r.Rows[0][column]), 10, 64)
}

// savepoint runs the script so that it can fail without ending the transaction.
func (s *script) savepoint(ctx context.Context, t *tx) error {
	return pgx.BeginFunc(ctx, t.Tx, func(pgx.Tx) error { return s.run(ctx, t) })
}
