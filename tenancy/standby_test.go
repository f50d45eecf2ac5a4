//go:build linux || darwin

package tenancy_test

import (
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
	"github.com/mcpsaas/mcpsaas/internal/devtest"
)

// standby is a streaming replica of a cluster of the test's own.
type standby struct {
	t       testing.TB
	program string
	args    []string
	user    *syscall.Credential
	cmd     *exec.Cmd
	primary *url.URL
	addr    string
}

// newReplicated returns tiers whose home database has a cluster to itself, and a
// standby of that.
func newReplicated(t *testing.T) (*tiers, *standby) {
	t.Helper()
	devtest.DB(t, devtest.Template{Name: "empty"}) // skips, or fails, without PostgreSQL
	stack, err := devstack.Start(t.Context(), devstack.Options{Postgres: true, Fast: true})
	require.NoError(t, err)
	t.Cleanup(func() { stack.Close(t.Context()) })
	home := &bundle{Database: &devtest.Database{URL: stack.DatabaseURL, Superuser: stack.SuperuserURL, Name: "mcpsaas"}}
	require.NoError(t, shop.Migrate(t.Context(), home.Conn(t, devstack.OwnerRole)))
	home.prepare(t)

	conn := home.Conn(t, "postgres")
	var bin, data string
	require.NoError(t, conn.QueryRow(t.Context(), `select setting, current_setting('data_directory') from pg_config where name = 'BINDIR'`).Scan(&bin, &data))
	s := &standby{t: t, program: filepath.Join(bin, "postgres")}
	s.primary, err = url.Parse(stack.SuperuserURL)
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "standby")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Geteuid() == 0 { // as whom the primary runs
		info, err := os.Stat(data)
		require.NoError(t, err)
		owner := info.Sys().(*syscall.Stat_t)
		s.user = &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}
		require.NoError(t, os.Chown(dir, int(owner.Uid), int(owner.Gid)))
	}
	copied := filepath.Join(dir, "data")
	backup := exec.Command(filepath.Join(bin, "pg_basebackup"), "-h", s.primary.Hostname(), "-p", s.primary.Port(), "-U", "postgres",
		"-D", copied, "-R", "-X", "stream", "-c", "fast", "--no-sync")
	backup.Dir, backup.SysProcAttr = dir, &syscall.SysProcAttr{Credential: s.user}
	out, err := backup.CombinedOutput()
	require.NoError(t, err, "%s", out)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.addr = listener.Addr().String()
	require.NoError(t, listener.Close())
	s.args = []string{"-D", copied, "-p", strconv.Itoa(listener.Addr().(*net.TCPAddr).Port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=300",
		"-c", "dynamic_shared_memory_type=mmap"}
	s.start()
	t.Cleanup(s.stop)
	return tiersIn(t, home), s
}

func (s *standby) start() {
	s.t.Helper()
	s.cmd = exec.Command(s.program, s.args...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user}
	s.cmd.Dir = filepath.Dir(s.args[1])
	require.NoError(s.t, s.cmd.Start())
	require.Eventually(s.t, func() bool {
		conn, err := pgx.Connect(s.t.Context(), s.url("postgres"))
		if err != nil {
			return false
		}
		conn.Close(s.t.Context())
		return true
	}, time.Minute, 10*time.Millisecond)
}

// stop ends the server at once, as a crash would.
func (s *standby) stop() {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Signal(syscall.SIGQUIT)
		s.cmd.Wait()
	}
}

// url logs in to the standby.
func (s *standby) url(role string) string {
	u := *s.primary
	u.User, u.Host = url.User(role), s.addr
	return u.String()
}

func (s *standby) exec(sql string) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.url("postgres"))
	require.NoError(s.t, err)
	defer conn.Close(s.t.Context())
	_, err = conn.Exec(s.t.Context(), sql)
	require.NoError(s.t, err)
}

// catchUp waits until the standby has what the primary has.
func (s *standby) catchUp(b *tiers) {
	s.t.Helper()
	var lsn string
	require.NoError(s.t, b.Conn(s.t, "postgres").QueryRow(s.t.Context(), `select pg_current_wal_insert_lsn()::text`).Scan(&lsn))
	conn, err := pgx.Connect(s.t.Context(), s.url("postgres"))
	require.NoError(s.t, err)
	defer conn.Close(s.t.Context())
	require.Eventually(s.t, func() bool {
		var there bool
		err := conn.QueryRow(s.t.Context(), `select pg_last_wal_replay_lsn() >= $1::text::pg_lsn`, lsn).Scan(&there)
		return err == nil && there
	}, time.Minute, 5*time.Millisecond)
}
