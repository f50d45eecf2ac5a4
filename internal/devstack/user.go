//go:build linux || darwin

package devstack

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// nobody is the user of last resort; every Linux has it.
const nobody = 65534

// serverUser is the user as whom the servers run: nil means as we do.
// PostgreSQL refuses to run as root, and Redis as root would let every local
// user write files as root.
func serverUser() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "_postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	return &syscall.Credential{Uid: nobody, Gid: nobody}
}

// serverDir makes a directory in the workspace that belongs to the server's
// user alone.
func (w *workspace) serverDir(name string) (string, error) {
	dir := filepath.Join(w.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if u := serverUser(); u != nil {
		if err := os.Chown(dir, int(u.Uid), int(u.Gid)); err != nil {
			return "", err
		}
	}
	return dir, os.Chmod(dir, 0o700)
}
