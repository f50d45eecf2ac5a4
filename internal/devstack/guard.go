//go:build linux || darwin

package devstack

import (
	_ "embed"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"
)

//go:embed guard.sh
var guardScript string

// guard is a shell that waits for our end, whatever its cause, by reading from
// a pipe that nobody else holds. Then it stops the servers and removes the
// temporary directory. It shares our lock on the workspace, so that the next
// owner waits until it is through.
type guard struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

func startGuard(w *workspace) (*guard, error) {
	remove := "remove"
	if w.keep {
		remove = "keep"
	}
	cmd := exec.Command("/bin/sh", "-c", guardScript, "guard", w.dir, remove)
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{w.lock}
	// A session of its own: no signal to our process group reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &guard{cmd: cmd, pipe: pipe}, nil
}

// dismiss lets the guard go. By then there is nothing left for it to do.
func (g *guard) dismiss() {
	g.pipe.Close()
	g.cmd.Wait()
}

// lockFile opens and locks a file, and makes it if create is set. It doesn't
// wait.
func lockFile(name string, create bool) (*os.File, error) {
	flags := os.O_RDWR | syscall.O_NOFOLLOW
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, errInUse
	}
	// Whoever held the lock may have removed the file meanwhile.
	held, err1 := f.Stat()
	named, err2 := os.Stat(name)
	if err1 != nil || err2 != nil || !os.SameFile(held, named) {
		f.Close()
		return nil, fmt.Errorf("lock: %w", fs.ErrNotExist)
	}
	return f, nil
}

// lockFileWithin is lockFile for a file that a dying owner or its guard may
// still hold for a moment.
func lockFileWithin(name string, bound time.Duration) (*os.File, error) {
	deadline := time.Now().Add(bound)
	for {
		f, err := lockFile(name, true)
		if err == nil || time.Now().After(deadline) {
			return f, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
