package devstack_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
)

// TestMemoryNotOurs covers a /dev/shm that can be read and not written to, as
// in a bare chroot. /proc is such a place even for root.
func TestMemoryNotOurs(t *testing.T) {
	t.Setenv("TMPDIR", "")
	devstack.InMemory(t, "/proc")
	stack := start(t, devstack.Options{Redis: true, Fast: true})
	dir, _ := stack.Workspace()
	require.Equal(t, os.TempDir(), filepath.Dir(dir))
}
