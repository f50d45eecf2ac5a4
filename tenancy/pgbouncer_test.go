package tenancy_test

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/tenancy"
)

// startBouncer starts PgBouncer in transaction mode before a database, with so
// many connections to it, and returns the URL that leads through it.
func startBouncer(t testing.TB, db *devtest.Database, conns int) string {
	t.Helper()
	return startBouncerAs(t, db.URL, conns)
}

// startBouncerAs is startBouncer for the role that the URL names.
func startBouncerAs(t testing.TB, target string, conns int) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if os.Getenv("CI") == "" {
			t.Skip("skipped, and it would fail if CI were set: pgbouncer is not installed")
		}
		t.Fatal(err)
	}
	u, err := url.Parse(target)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	require.NoError(t, listener.Close())
	config := filepath.Join(t.TempDir(), "pgbouncer.ini")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `[databases]
%s = host=%s port=%s user=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = %d
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
`, strings.TrimPrefix(u.Path, "/"), u.Hostname(), u.Port(), u.User.Username(), port, conns), 0o644))
	args := []string{config}
	if os.Geteuid() == 0 { // it refuses to run as root
		_, err := user.Lookup("nobody")
		require.NoError(t, err)
		args = []string{"-u", "nobody", config}
	}
	cmd := exec.Command(program, args...)
	cmd.Stderr = t.Output()
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	through := *u
	through.Host = fmt.Sprintf("127.0.0.1:%d", port)
	through.RawQuery = "sslmode=disable"
	require.Eventually(t, func() bool {
		conn, err := pgx.Connect(t.Context(), through.String())
		if err != nil {
			return false
		}
		conn.Close(t.Context())
		return true
	}, 30*time.Second, 10*time.Millisecond)
	return through.String()
}

// TestMigratorThroughPgBouncer has 8 workers share 3 connections in transaction
// mode, with the driver's default mode, and another client that sets its own
// search_path for the session, which a pooler hands to the next one.
func TestMigratorThroughPgBouncer(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 60)
	pool, err := pgxpool.New(t.Context(), startBouncer(t, f.Database, 3))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	for i := range f.targets {
		f.targets[i].DB = pool
	}
	files := append(append([]string{}, marks...), "0004_build.sql", "-- no-transaction\n"+
		`create index concurrently if not exists marks_extra on :"schema".marks (extra);`,
		"0005_pollute.sql", "set search_path = t_1; insert into t_1.marks select 9 where false;")
	polluter, err := pgxpool.New(t.Context(), pool.Config().ConnString())
	require.NoError(t, err)
	t.Cleanup(polluter.Close)
	opts := &tenancy.MigratorOptions{Workers: 8, LockAttempts: 1000, Progress: func(tenancy.MigrationProgress) {
		conn, err := polluter.Acquire(t.Context())
		if err == nil {
			_, err = conn.Conn().PgConn().Exec(t.Context(), "set search_path = t_1, public").ReadAll()
			conn.Release()
		}
		if err != nil {
			t.Error(err)
		}
	}}
	result, err := f.migrator(t, opts, files...).Migrate(t.Context())
	require.NoError(t, err)
	require.Equal(t, stateCounts{tenancy.MigrationApplied: 60}, states(result))
	for _, target := range f.targets {
		require.Equal(t, []int{1, 2, 3}, f.marks(t, target.Schema), target.Schema)
	}
	var indexes int
	require.NoError(t, f.pool.QueryRow(t.Context(), `
		select count(distinct n.nspname) from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
		where c.relname = 'marks_extra' and i.indisvalid`).Scan(&indexes))
	require.Equal(t, 60, indexes)
	result, err = f.migrator(t, opts, files...).Migrate(t.Context())
	require.NoError(t, err)
	require.Equal(t, stateCounts{tenancy.MigrationCurrent: 60}, states(result))
}
