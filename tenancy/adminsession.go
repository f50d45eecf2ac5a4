package tenancy

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// adminSession is one access.
type adminSession struct {
	admin  *Admin
	access Access
	conn   *pgx.Conn

	id      int64
	pid     int32
	started time.Time // of the server's process: its number may be another's by and by
}

const (
	adminBeginSQL = `
select mcpsaas.admin_begin($1, $2, $3, $4), pg_backend_pid(), a.backend_start
from pg_stat_get_activity(pg_backend_pid()) a`

	adminEndSQL = `select mcpsaas.admin_end($1, $2)`

	// There is no limit of a transaction before PostgreSQL 17.
	adminLimitsSQL = `
select set_config('statement_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $1, true),
	case when current_setting('server_version_num')::int >= 170000 then set_config('transaction_timeout', $1, true) end`

	adminKillSQL = `select pg_terminate_backend(pid) from pg_stat_activity where pid = $1 and backend_start = $2`
)

// begin puts the access on record, in a transaction of its own.
func (s *adminSession) begin(ctx context.Context) error {
	err := s.conn.QueryRow(ctx, adminBeginSQL, s.access.Actor, s.access.Reason, s.access.Write, s.access.milliseconds()).
		Scan(&s.id, &s.pid, &s.started)
	if err != nil {
		return fmt.Errorf("put the access on record: %w", err)
	}
	return nil
}

// run calls fn and says how that ended.
func (s *adminSession) run(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) error) (outcome string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.access.TTL, ErrAccessExpired)
	defer cancel()
	// fn may have other contexts than the one it is given, and may have lifted the
	// limits: what ends the access then is that its session does.
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		s.kill(ctx)
	})
	defer func() {
		if !stop() {
			<-killed
		}
	}()
	opts := pgx.TxOptions{AccessMode: pgx.ReadOnly}
	if s.access.Write {
		opts.AccessMode = pgx.ReadWrite
	}
	tx, err := s.conn.BeginTx(ctx, opts)
	if err == nil {
		defer func() {
			if r := recover(); r != nil {
				s.lost(ctx, "failed")
				panic(r)
			}
		}()
		if _, err = tx.Exec(ctx, adminLimitsSQL, strconv.FormatInt(s.access.milliseconds(), 10)); err == nil {
			err = fn(ctx, tx)
		}
	}
	if deadline, _ := ctx.Deadline(); !time.Now().Before(deadline) {
		<-ctx.Done() // the database's clock may have been the faster one
	}
	if err == nil && ctx.Err() == nil && s.conn.PgConn().TxStatus() == 'I' {
		err = ErrTampered // a statement ended the transaction, and what ran after it knew no limits
	}
	if err == nil && ctx.Err() == nil {
		if err = tx.Commit(ctx); err == nil {
			return "committed", nil
		}
	}
	switch {
	case errors.Is(context.Cause(ctx), ErrAccessExpired):
		return "expired", errors.Join(ErrAccessExpired, err)
	case ctx.Err() != nil:
		return "failed", errors.Join(context.Cause(ctx), err)
	case s.conn.IsClosed() || errors.Is(err, ErrTampered):
		return "failed", err
	}
	return "rolled_back", err // by closing the connection
}

// lost writes the end of an access of which nobody returns to do it.
func (s *adminSession) lost(ctx context.Context, outcome string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminBound)
	defer cancel()
	s.end(ctx, outcome)
}

// end puts the outcome on record. The session's own connection may be in a
// transaction still, or broken.
func (s *adminSession) end(ctx context.Context, outcome string) error {
	hangUp(s.conn)
	conn, err := pgx.ConnectConfig(ctx, s.admin.config)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	_, err = conn.Exec(ctx, adminEndSQL, s.id, outcome)
	return err
}

// kill ends the session in the server.
func (s *adminSession) kill(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminBound)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, s.admin.config)
	if err != nil {
		return // the limits of the transaction are all there is
	}
	defer hangUp(conn)
	_, _ = conn.Exec(ctx, adminKillSQL, s.pid, s.started)
}
