//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package usage

import (
	"errors"
	"os"
	"syscall"
)

// lockFile opens the file at path and locks it for this process alone, until
// it is closed or the process ends, however it ends. It returns errLocked if
// another process has it.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errLocked
	}
	return nil, &os.PathError{Op: "flock", Path: path, Err: err}
}
