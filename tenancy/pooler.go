package tenancy

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// behindPooler reports whether somebody stands between: what a pooler tells its
// client to be the number of the server's process is one of its own making.
func behindPooler(ctx context.Context, conn *pgconn.PgConn) (bool, error) {
	pid, err := scalar(ctx, conn, `select pg_catalog.pg_backend_pid()`)
	if err != nil {
		return false, err
	}
	return pid != strconv.FormatUint(uint64(conn.PID()), 10), nil
}

// defaultPath returns the search_path that the role has in this database,
// whatever the session's may be at the moment.
func defaultPath(ctx context.Context, conn *pgconn.PgConn) (string, error) {
	return scalar(ctx, conn, `select reset_val from pg_catalog.pg_settings where name = 'search_path'`)
}

// scalar runs a statement of ours that needs no tenant and has one value.
func scalar(ctx context.Context, conn *pgconn.PgConn, sql string) (string, error) {
	result := conn.ExecParams(ctx, sql, nil, nil, nil, nil).Read()
	if result.Err != nil {
		return "", result.Err
	}
	if len(result.Rows) != 1 || len(result.Rows[0]) != 1 {
		return "", pgx.ErrNoRows
	}
	return string(result.Rows[0][0]), nil
}

// healSQL undoes what can be set for a session, in one string, so that no pooler
// hands the server's process on in between.
const healSQL = `close all; reset session authorization; reset all`

// heal is for a connection that is about to be closed. Behind a pooler that
// leaves the server's process as it is, for the next client to fail on. In a
// transaction it is still there; else it is the first that a pooler lends again, if
// nobody was waiting for one.
func (s *session) heal(ctx context.Context, conn *pgx.Conn) {
	if !s.pooler || conn.IsClosed() || conn.PgConn().IsBusy() {
		return
	}
	sql := healSQL
	if conn.PgConn().TxStatus() != 'I' {
		sql = "rollback; " + sql
	}
	conn.PgConn().Exec(ctx, sql).Close()
}

// noticePooler chooses how statements are run, unless the connection string does.
func (db *DB) noticePooler(ctx context.Context, url string, conn *pgconn.PgConn) error {
	pooler, err := behindPooler(ctx, conn)
	if err != nil || !pooler || db.mode != pgx.QueryExecModeCacheStatement {
		return err
	}
	if strings.Contains(url, "default_query_exec_mode") {
		return errors.New("default_query_exec_mode=cache_statement: there is a pooler, which need not keep a prepared statement: leave the setting out")
	}
	db.mode = pgx.QueryExecModeCacheDescribe
	db.log.LogAttrs(ctx, slog.LevelInfo, "database pooler noticed: no statement stays prepared")
	return nil
}

// unnamed is the mode in which the driver itself runs statements where nobody
// knows yet whether there is a pooler. Tenants' statements don't go by it.
func unnamed(mode pgx.QueryExecMode) pgx.QueryExecMode {
	if mode == pgx.QueryExecModeCacheStatement {
		return pgx.QueryExecModeCacheDescribe
	}
	return mode
}
