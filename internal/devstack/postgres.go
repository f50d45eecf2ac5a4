//go:build linux || darwin

package devstack

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// stopBound is how long a server may take to stop before it is killed.
const stopBound = 5 * time.Second

// startBound is how long a server may take to answer: long enough for crash
// recovery on a busy machine.
const startBound = 60 * time.Second

// postgres is a running cluster.
type postgres struct {
	w    *workspace
	p    *process
	port int
	stop syscall.Signal
}

// startPostgres makes the cluster in the workspace if there is none, and
// starts it.
func startPostgres(ctx context.Context, w *workspace, fast bool) (*postgres, error) {
	programs, err := findPostgres(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := w.serverDir("pg")
	if err != nil {
		return nil, fmt.Errorf("devstack: PostgreSQL: make directory: %w", err)
	}
	data := filepath.Join(dir, "data")
	if err := initCluster(ctx, programs, data); err != nil {
		return nil, err
	}
	pg := &postgres{w: w, stop: syscall.SIGINT} // fast shutdown: a clean one without waiting for clients
	args := []string{
		"-D", data, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=" + socketDir(dir),
		"-c", "max_connections=300", "-c", "password_encryption=scram-sha-256",
	}
	if fast {
		pg.stop = syscall.SIGQUIT // immediate: nobody will read this data again
		args = append(args,
			"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "autovacuum=off", "-c", "max_wal_size=256MB",
			"-c", "dynamic_shared_memory_type=mmap") // which is removed with the directory
	}
	log := filepath.Join(w.dir, "postgres.log")
	// A port that was free a moment ago may be taken when the server binds it.
	for range 5 {
		if pg.port, err = freePort(); err != nil {
			return nil, fmt.Errorf("devstack: PostgreSQL: %w", err)
		}
		if pg.p, err = w.startProcess(programs.path("postgres"), append(args, "-p", strconv.Itoa(pg.port)), dir, log, pg.stop); err != nil {
			return nil, fmt.Errorf("devstack: start PostgreSQL: %w", err)
		}
		if err = w.writePID("postgres", pg.p, signalNames[pg.stop]); err != nil {
			pg.close(stopBound)
			return nil, fmt.Errorf("devstack: PostgreSQL: %w", err)
		}
		if err = pg.ready(ctx); err == nil {
			return pg, nil
		}
		ended := pg.p.ended()
		pg.close(stopBound)
		if !ended {
			break
		}
	}
	return nil, fmt.Errorf("devstack: PostgreSQL does not answer: %w; its log ends:\n%s", err, logTail(log))
}

// socketDir returns where the socket goes: beside the data, unless the path
// would be too long for one; then there is none, and TCP is left.
func socketDir(dir string) string {
	if len(dir) > maxSocketDir {
		return ""
	}
	return dir
}

// initCluster runs initdb beside the final directory and moves the result, so
// that a start that is killed leaves no half-made cluster behind.
func initCluster(ctx context.Context, programs postgresPrograms, data string) error {
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err == nil {
		return nil
	}
	half := data + ".new"
	if err := os.RemoveAll(half); err != nil {
		return fmt.Errorf("devstack: remove half-made cluster: %w", err)
	}
	cmd := exec.CommandContext(ctx, programs.path("initdb"), "-D", half, "-U", superuser,
		"-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions")
	cmd.Dir = filepath.Dir(data)
	cmd.Env = serverEnv()
	cmd.SysProcAttr = childAttr(syscall.SIGKILL)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("devstack: initdb: %w\n%s", err, out)
	}
	if err := os.Rename(half, data); err != nil {
		return fmt.Errorf("devstack: initdb: %w", err)
	}
	return nil
}

// superuser is the first role of a cluster.
const superuser = "postgres"

// url returns the URL by which role connects to database.
func (pg *postgres) url(role, database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User(role),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(pg.port)), Path: "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// ready waits until the server accepts a connection, or has ended.
func (pg *postgres) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	return poll(ctx, pg.p, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, pg.url(superuser, "postgres"))
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

// poll calls try until it succeeds, the context ends or the process does.
func poll(ctx context.Context, p *process, try func(context.Context) error) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended: %v", p.err)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// close stops the server, and kills it if that takes longer than bound.
func (pg *postgres) close(bound time.Duration) error {
	if err := pg.p.stop(pg.stop, bound); err != nil {
		return fmt.Errorf("devstack: stop PostgreSQL: %w", err)
	}
	pg.w.removePID("postgres")
	return nil
}

// ensureDatabase makes the owner role and its database if they are missing.
func (pg *postgres) ensureDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, pg.url(superuser, "postgres"))
	if err != nil {
		return fmt.Errorf("devstack: connect to PostgreSQL: %w", err)
	}
	defer conn.Close(ctx)
	for _, make := range []struct{ sql, exists string }{
		{`create role ` + OwnerRole + ` login nosuperuser createrole createdb`, "42710"},
		{`create database ` + databaseName + ` owner ` + OwnerRole, "42P04"},
	} {
		var pgErr *pgconn.PgError
		if _, err := conn.Exec(ctx, make.sql); err != nil && !(errors.As(err, &pgErr) && pgErr.Code == make.exists) {
			return fmt.Errorf("devstack: %s: %w", make.sql, err)
		}
	}
	return nil
}

// freePort returns a port that is free at the moment. It stays below the range
// from which systems give ports to outgoing connections (Linux: 32768), so that
// a server which is stopped and started again finds its port free.
func freePort() (int, error) {
	var err error
	for range 100 {
		port := 15000 + rand.IntN(17000)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}
