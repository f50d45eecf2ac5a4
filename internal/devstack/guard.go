//go:build linux || darwin

package devstack

import (
	_ "embed"
	"io"
	"os"
	"os/exec"
	"syscall"
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
