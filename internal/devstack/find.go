package devstack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// oldestPostgres is the oldest major version that works.
const oldestPostgres = 14

// MissingError says that the programs of a service were not found.
type MissingError struct {
	// Service is "PostgreSQL" or "Redis".
	Service string
	// Reason says what was looked for, and where.
	Reason string
	// Install is the line to type on this operating system.
	Install string
}

// Error implements error.
func (e *MissingError) Error() string {
	return fmt.Sprintf("devstack: %s not found (%s). Type: %s", e.Service, e.Reason, e.Install)
}

// managers are the package managers by which people install servers, with the
// names of their packages.
var managers = []struct{ program, install, postgres, redis string }{
	{"apt-get", "apt-get install -y", "postgresql", "redis-server"},
	{"dnf", "dnf install -y", "postgresql-server", "redis"},
	{"apk", "apk add", "postgresql", "redis"},
	{"brew", "brew install", "postgresql@17", "redis"},
}

// installLine returns the line to type on this machine. Without a known
// package manager it is the line of another, which at least names the package.
func installLine(redis bool) string {
	m := managers[0]
	for _, candidate := range managers {
		if _, err := exec.LookPath(candidate.program); err == nil {
			m = candidate
			break
		}
	}
	line := m.install + " " + m.postgres
	if redis {
		line = m.install + " " + m.redis
	}
	if os.Geteuid() != 0 && m.program != "brew" {
		line = "sudo " + line
	}
	return line
}

// postgresPatterns are the directories where packages put server programs that
// they don't put on PATH.
var postgresPatterns = []string{
	"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
	"/usr/pgsql-*/bin",                                   // PGDG on Red Hat
	"/usr/libexec/postgresql*",                           // Alpine
	"/opt/homebrew/opt/postgresql@*/bin",                 // Homebrew on Apple silicon
	"/usr/local/opt/postgresql@*/bin",                    // Homebrew on Intel
	"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",    // Homebrew on Linux
	"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
	"/usr/local/pgsql/bin",                               // built from source
}

// postgresPrograms is an installation of PostgreSQL.
type postgresPrograms struct {
	dir   string
	major int
}

func (p postgresPrograms) path(program string) string { return filepath.Join(p.dir, program) }

// findPostgres returns the installation to use. A PG_BIN_DIR that doesn't work
// is an error of its own: whoever set it wants that version and no other.
func findPostgres(ctx context.Context) (postgresPrograms, error) {
	if dir := os.Getenv("PG_BIN_DIR"); dir != "" {
		p, err := probePostgres(ctx, dir)
		if err != nil {
			return p, fmt.Errorf("devstack: PG_BIN_DIR: %w", err)
		}
		return p, nil
	}
	var reasons []string
	if initdb, err := exec.LookPath("initdb"); err == nil {
		// Follow links: a link on PATH need not have postgres beside it.
		if real, err := filepath.EvalSymlinks(initdb); err == nil {
			initdb = real
		}
		p, err := probePostgres(ctx, filepath.Dir(initdb))
		if err == nil {
			return p, nil
		}
		reasons = append(reasons, err.Error())
	}
	var found []postgresPrograms
	for _, pattern := range postgresPatterns {
		dirs, _ := filepath.Glob(pattern) // fails on a malformed pattern only
		for _, dir := range dirs {
			p, err := probePostgres(ctx, dir)
			if err != nil {
				reasons = append(reasons, err.Error())
				continue
			}
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		reasons = append(reasons, fmt.Sprintf("no initdb of version %d or newer in PG_BIN_DIR, on PATH or where packages put it", oldestPostgres))
		return postgresPrograms{}, &MissingError{Service: "PostgreSQL", Reason: strings.Join(reasons, "; "), Install: installLine(false)}
	}
	return slices.MaxFunc(found, func(a, b postgresPrograms) int { return a.major - b.major }), nil
}

// probePostgres runs the programs in dir, so that a half-removed package or a
// foreign architecture isn't taken for an installation.
func probePostgres(ctx context.Context, dir string) (postgresPrograms, error) {
	p := postgresPrograms{dir: dir}
	if _, err := os.Stat(p.path("initdb")); err != nil {
		return p, fmt.Errorf("no initdb in %s", dir)
	}
	out, err := exec.CommandContext(ctx, p.path("postgres"), "--version").Output()
	if err != nil {
		return p, fmt.Errorf("%s: %w", p.path("postgres"), err)
	}
	p.major, err = majorVersion(string(out))
	if err != nil {
		return p, fmt.Errorf("%s: %w", p.path("postgres"), err)
	}
	if p.major < oldestPostgres {
		return p, fmt.Errorf("%s is version %d, want %d or newer", dir, p.major, oldestPostgres)
	}
	return p, nil
}

// majorVersion reads "postgres (PostgreSQL) 15.18 (Debian 15.18-0)" or
// "postgres (PostgreSQL) 18beta1".
func majorVersion(version string) (int, error) {
	_, rest, _ := strings.Cut(version, ") ")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	major, err := strconv.Atoi(rest[:end])
	if err != nil {
		return 0, fmt.Errorf("can't read the version %q", strings.TrimSpace(version))
	}
	return major, nil
}

// findRedis returns the path of redis-server or a fork of it.
func findRedis() (string, error) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", &MissingError{Service: "Redis", Reason: "neither redis-server nor valkey-server on PATH", Install: installLine(true)}
}
