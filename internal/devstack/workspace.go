//go:build linux || darwin

package devstack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// dirPrefix begins the name of every temporary directory, so that a later
// process finds what an earlier one left.
const dirPrefix = "mcpsaas-dev-"

// lockName is the file in a workspace that its owner keeps locked. The kernel
// gives the lock back when the owner dies, however it dies.
const lockName = "lock"

// maxSocketDir is the longest directory in which a socket named
// .s.PGSQL.12345 still fits into the 104 bytes that macOS allows a path
// (Linux: 108).
const maxSocketDir = 104 - len("/.s.PGSQL.12345") - 1

// workspace is a directory that this process owns, with the servers in it.
type workspace struct {
	dir   string
	keep  bool // the directory outlives its owner
	lock  *os.File
	guard *guard
}

// patience is how long a directory may stay in use by an owner that is ending.
const patience = 10 * time.Second

// openWorkspace takes dir, or a new temporary directory if dir is empty, after
// sweeping what dead owners left. A fast one is in memory if there is room.
func openWorkspace(ctx context.Context, dir string, fast bool) (*workspace, error) {
	w := &workspace{dir: dir, keep: dir != ""}
	if w.keep {
		if err := w.take(ctx); err != nil {
			return nil, fmt.Errorf("devstack: directory %s: %w", dir, err)
		}
	} else {
		sweep(tempBase())
		sweep(memoryBase)
		err := errors.ErrUnsupported
		if fast && roomInMemory() {
			err = w.takeTemp(memoryBase) // which may not be ours to write to
		}
		if err != nil {
			err = w.takeTemp(tempBase())
		}
		if err != nil {
			return nil, fmt.Errorf("devstack: temporary directory: %w", err)
		}
	}
	var err error
	if w.guard, err = startGuard(w); err != nil {
		w.release()
		return nil, fmt.Errorf("devstack: start guard: %w", err)
	}
	return w, nil
}

// take makes and locks a directory of the caller's, and stops the servers that
// a killed owner left running in it.
func (w *workspace) take(ctx context.Context) error {
	var err error
	if w.dir, err = filepath.Abs(w.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(w.dir, 0o711); err != nil {
		return err
	}
	if serverUser() != nil && !reachable(w.dir) {
		return errors.New("as root, servers run as an unprivileged user, who can't reach it")
	}
	if w.lock, err = lockFileWithin(ctx, filepath.Join(w.dir, lockName), patience); err != nil {
		return err
	}
	if err := stopLeftovers(w.dir); err != nil {
		w.lock.Close()
		return err
	}
	return nil
}

// takeTemp makes and locks a new directory. A sweeper may lock it first, in
// the moment between the creation of the lock file and its locking: then it is
// the sweeper's to remove, and we make another.
func (w *workspace) takeTemp(base string) error {
	for {
		dir, err := os.MkdirTemp(base, dirPrefix)
		if err != nil {
			return err
		}
		// A server that runs as another user must reach its own directory.
		if err := os.Chmod(dir, 0o711); err != nil {
			return err
		}
		w.lock, err = lockFile(filepath.Join(dir, lockName), true)
		if errors.Is(err, errInUse) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		w.dir = dir
		return err
	}
}

// release gives the directory back, and removes it if it was temporary. The
// servers in it must have been stopped.
func (w *workspace) release() error {
	var err error
	if !w.keep {
		err = os.RemoveAll(w.dir)
	}
	if w.guard != nil {
		w.guard.dismiss()
	}
	w.lock.Close()
	return err
}

// sweep stops the servers and removes the directories of dead owners. What it
// can't sweep, such as another user's, it leaves: that is no reason not to start.
func sweep(base string) {
	dirs, _ := filepath.Glob(filepath.Join(base, dirPrefix+"*")) // fails on a malformed pattern only
	for _, dir := range dirs {
		name := filepath.Join(dir, lockName)
		lock, err := lockFile(name, false)
		if errors.Is(err, fs.ErrNotExist) && olderThan(dir, time.Hour) {
			// Its maker died before it locked it: there can be nothing in it.
			os.Remove(dir)
		}
		if err != nil {
			continue
		}
		if stopLeftovers(dir) == nil {
			os.RemoveAll(dir)
		}
		lock.Close()
	}
}

func olderThan(path string, age time.Duration) bool {
	info, err := os.Stat(path)
	return err == nil && time.Since(info.ModTime()) > age
}

// pidSuffix ends the name of the file that tells of a running server:
// its process id, the signal that stops it, and its start time.
const pidSuffix = ".pid"

// writePID records a running server for the guard and for later sweepers.
func (w *workspace) writePID(name string, p *process, stop string) error {
	text := fmt.Sprintf("%d %s %s\n", p.Pid, stop, startTime(p.Pid))
	return os.WriteFile(filepath.Join(w.dir, name+pidSuffix), []byte(text), 0o644)
}

// removePID forgets a server that has ended.
func (w *workspace) removePID(name string) {
	os.Remove(filepath.Join(w.dir, name+pidSuffix))
}

// stopLeftovers ends the servers whose owner died, if they are still the
// processes that it started and not others that got their numbers.
func stopLeftovers(dir string) error {
	files, _ := filepath.Glob(filepath.Join(dir, "*"+pidSuffix)) // fails on a malformed pattern only
	var errs []error
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var pid int
		var stop, started string
		if _, err := fmt.Sscanf(strings.TrimSpace(string(text)), "%d %s %s", &pid, &stop, &started); err == nil && pid > 1 {
			if err := stopStranger(pid, stop, started); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		os.Remove(name)
	}
	return errors.Join(errs...)
}
