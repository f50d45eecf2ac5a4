//go:build linux || darwin

package devstack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// process is a server that this process started.
type process struct {
	*os.Process
	done chan struct{} // closed when it has ended
	err  error         // why it ended; read after done
}

// startProcess starts a server that dies with this process. Its output goes to
// logFile. While it runs, the workspace is not garbage: its finalizers would
// close the lock and the guard's pipe, and so end a server whose starter didn't
// keep the handle.
//
// On Linux the kernel sends the death signal when the thread that started the
// child ends, not when the process does. So a goroutine that owns its thread
// starts the child, and stays until the child has ended.
func (w *workspace) startProcess(program string, args []string, dir, logFile string, death syscall.Signal) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	cmd.Env = serverEnv()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttr(death)

	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.Process = cmd.Process
		}
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		runtime.KeepAlive(w)
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// stop asks the process to end, and kills it if it hasn't after the bound.
func (p *process) stop(ask syscall.Signal, bound time.Duration) error {
	if p.ended() {
		return nil
	}
	p.Signal(ask)
	p.Signal(syscall.SIGCONT) // a frozen process would not hear
	select {
	case <-p.done:
		return nil
	case <-time.After(bound):
	}
	p.Kill()
	select {
	case <-p.done:
		return nil
	case <-time.After(stopBound):
		return fmt.Errorf("process %d does not end", p.Pid)
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stopStranger ends a process that a dead owner started. It is not our child,
// so that its end has to be polled for.
func stopStranger(pid int, stop, started string) error {
	alive := func() bool { return started != "" && startTime(pid) == started }
	ask := syscall.SIGTERM
	for s, name := range signalNames {
		if name == stop {
			ask = s
		}
	}
	for _, s := range []syscall.Signal{ask, syscall.SIGKILL} {
		if !alive() {
			return nil
		}
		if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
		syscall.Kill(pid, syscall.SIGCONT)
		for range 500 {
			if !alive() {
				return nil
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}

// signalNames are the names by which pid files and the guard's shell know the
// signals.
var signalNames = map[syscall.Signal]string{syscall.SIGTERM: "TERM", syscall.SIGINT: "INT", syscall.SIGQUIT: "QUIT"}

// serverEnv is the environment of the servers and of initdb: nothing of ours
// that would change what they do.
func serverEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "LC_") && name != "LANG" && name != "LANGUAGE" {
			env = append(env, kv)
		}
	}
	return append(env, "LC_ALL=C")
}

// logTail returns the end of a server's log, for an error message.
func logTail(logFile string) string {
	const most = 1000
	text, err := os.ReadFile(logFile)
	if err != nil {
		return err.Error()
	}
	if len(text) > most {
		text = text[len(text)-most:]
	}
	return strings.TrimSpace(string(text))
}
