//go:build linux || darwin

package devstack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// errInUse says that another process owns the directory.
var errInUse = errors.New("another process is using it")

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
func lockFileWithin(ctx context.Context, name string, bound time.Duration) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := lockFile(name, true)
		if err == nil {
			return f, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}
