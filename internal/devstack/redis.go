//go:build linux || darwin

package devstack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Redis is a Redis server of the caller's own, with the switches that an
// outage test needs. Its methods must not be called concurrently.
type Redis struct {
	w       *workspace
	program string
	dir     string
	durable bool
	args    []string // besides ours
	port    int
	p       *process
}

// StartRedis starts a real server in a directory of its own. With durable it
// hands every command to the operating system before it answers (appendonly),
// so that what it has confirmed survives [Redis.Stop] and [Redis.Kill], though
// not the last half minute before a power cut.
func StartRedis(ctx context.Context, durable bool) (*Redis, error) {
	w, err := openWorkspace(ctx, "", true)
	if err != nil {
		return nil, err
	}
	r, err := startRedis(ctx, w, durable)
	if err != nil {
		return nil, errors.Join(err, w.release())
	}
	return r, nil
}

// StartRedisProgram starts a server as [StartRedis] does, from the given
// program (a version or a fork of its own; empty means the usual one) and with
// further arguments.
func StartRedisProgram(ctx context.Context, program string, args ...string) (*Redis, error) {
	if program == "" {
		var err error
		if program, err = findRedis(); err != nil {
			return nil, err
		}
	}
	w, err := openWorkspace(ctx, "", true)
	if err != nil {
		return nil, err
	}
	r, err := startProgram(ctx, w, &Redis{w: w, program: program, args: args})
	if err != nil {
		return nil, errors.Join(err, w.release())
	}
	return r, nil
}

// startRedis starts a server in a workspace that the caller releases.
func startRedis(ctx context.Context, w *workspace, durable bool) (*Redis, error) {
	program, err := findRedis()
	if err != nil {
		return nil, err
	}
	return startProgram(ctx, w, &Redis{w: w, program: program, durable: durable})
}

func startProgram(ctx context.Context, w *workspace, r *Redis) (*Redis, error) {
	var err error
	if r.dir, err = w.serverDir("redis"); err != nil {
		return nil, fmt.Errorf("devstack: Redis: make directory: %w", err)
	}
	// A port that was free a moment ago may be taken when the server binds it.
	for range 5 {
		if r.port, err = freePort(); err != nil {
			return nil, fmt.Errorf("devstack: Redis: %w", err)
		}
		if err = r.Start(ctx); err == nil {
			return r, nil
		}
	}
	return nil, err
}

// Addr returns host and port; they stay the same over Stop and Start.
func (r *Redis) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) }

// URL returns the address as go-redis' ParseURL takes it.
func (r *Redis) URL() string { return r.DatabaseURL(0) }

// redisDatabases is how many numbered databases a server has.
const redisDatabases = 1024

// DatabaseURL returns the URL of database n, from 0 to 1023.
func (r *Redis) DatabaseURL(n int) string { return "redis://" + r.Addr() + "/" + strconv.Itoa(n) }

// Start starts the server again after [Redis.Stop] or [Redis.Kill], on the
// same port, and waits until it answers.
func (r *Redis) Start(ctx context.Context) error {
	args := []string{
		"--bind", "127.0.0.1", "--port", strconv.Itoa(r.port), "--dir", r.dir,
		"--save", "", "--daemonize", "no", "--databases", strconv.Itoa(redisDatabases),
	}
	if r.durable {
		// With everysec Redis puts off its writes, and not its answers, for as long
		// as an fsync is under way (flushAppendOnlyFile in its aof.c).
		args = append(args, "--appendonly", "yes", "--appendfsync", "no")
	}
	args = append(args, r.args...)
	log := filepath.Join(r.w.dir, "redis.log")
	var err error
	if r.p, err = r.w.startProcess(r.program, args, r.dir, log, syscall.SIGTERM); err != nil {
		return fmt.Errorf("devstack: start Redis: %w", err)
	}
	if err := r.w.writePID("redis", r.p, signalNames[syscall.SIGTERM]); err != nil {
		r.Stop()
		return fmt.Errorf("devstack: Redis: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	if err := poll(ctx, r.p, r.ping); err != nil {
		r.Kill()
		return fmt.Errorf("devstack: Redis does not answer: %w; its log ends:\n%s", err, logTail(log))
	}
	return nil
}

// ping asks for an answer that a server still loading its data refuses.
func (r *Redis) ping(ctx context.Context) error {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", r.Addr())
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(answer, "+PONG") {
		return fmt.Errorf("it answers %q", strings.TrimSpace(answer))
	}
	return nil
}

// Stop ends the server in an orderly way; connections to it are refused until
// [Redis.Start]. It does nothing if the server isn't running.
func (r *Redis) Stop() error { return r.end(syscall.SIGTERM, stopBound) }

// Kill ends the server at once, as a crash would.
func (r *Redis) Kill() error { return r.end(syscall.SIGKILL, stopBound) }

func (r *Redis) end(how syscall.Signal, bound time.Duration) error {
	if err := r.p.stop(how, bound); err != nil {
		return fmt.Errorf("devstack: stop Redis: %w", err)
	}
	r.w.removePID("redis")
	return nil
}

// Freeze stops the server from running, as an overloaded machine would:
// connections are accepted, and nothing answers until [Redis.Thaw].
func (r *Redis) Freeze() error { return r.p.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen server run on.
func (r *Redis) Thaw() error { return r.p.Signal(syscall.SIGCONT) }

// Close stops the server and removes its directory.
func (r *Redis) Close() error { return errors.Join(r.Stop(), r.w.release()) }
