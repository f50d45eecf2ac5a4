//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package usage

import (
	"errors"
	"os"
)

// lockFile fails: without a lock that ends with the process, two processes
// could write one spool.
func lockFile(path string) (*os.File, error) {
	return nil, &os.PathError{Op: "lock", Path: path, Err: errors.ErrUnsupported}
}
