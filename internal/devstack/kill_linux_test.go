package devstack_test

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestKilledOwnerAndGuard shows what is left to the kernel and to the next
// start when the guard is killed first. Caught: no Pdeathsig, a child started
// by a thread that ends, no sweep.
func TestKilledOwnerAndGuard(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	temp := shortDir(t)
	o, _ := startOwner(t, temp, "")
	servers := pids(t, o.Dir)
	require.NoError(t, syscall.Kill(o.Guard, syscall.SIGKILL))

	o.kill(t)
	gone(t, servers...)
	require.DirExists(t, o.Dir)

	next, say := startOwner(t, temp, "")
	require.NoDirExists(t, o.Dir, "swept")
	say("close")
	require.NoDirExists(t, next.Dir)
}
