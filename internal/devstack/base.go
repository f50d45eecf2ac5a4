//go:build linux || darwin

package devstack

import (
	"os"
	"path/filepath"
	"syscall"
)

// tempBase returns a directory for temporary workspaces: the system's, unless
// paths in it get too long for a socket or a server that runs as another user
// couldn't reach them.
func tempBase() string {
	base := os.TempDir()
	if len(base)+len("/"+dirPrefix+"1234567890/pg") > maxSocketDir || serverUser() != nil && !reachable(base) {
		return "/tmp"
	}
	return base
}

// reachable reports whether every user may pass through dir.
func reachable(dir string) bool {
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}

// memoryBase is a file system in memory that every Linux has. Copying a template
// database there takes 10 ms, on a disk up to 250 ms.
var memoryBase = "/dev/shm"

// memoryRoom is how many bytes must be free in memoryBase: enough for several
// test binaries at once. In a container it is often 64 MB in all.
var memoryRoom uint64 = 2 << 30

// roomInMemory reports whether memoryBase is there and has room.
// Whoever sets TMPDIR decides otherwise.
func roomInMemory() bool {
	var fs syscall.Statfs_t
	if os.Getenv("TMPDIR") != "" || !reachable(memoryBase) || syscall.Statfs(memoryBase, &fs) != nil {
		return false
	}
	return uint64(fs.Bavail)*uint64(fs.Bsize) >= memoryRoom
}
