package tenancy_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// childEnv has this test binary, started again, be one of children instead of
// running tests: a process that a test can kill.
const childEnv = "TENANCY_TEST_CHILD"

var children = map[string]func() error{
	"admin":   adminChild,
	"archive": archiveChild,
	"migrate": migrateChild,
	"move":    moveChild,
}

func TestMain(m *testing.M) {
	name := os.Getenv(childEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := children[name](); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child is a running process.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

// startChild starts the child, to be killed at the latest when the test ends.
func startChild(t *testing.T, name string, env ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(append(os.Environ(), childEnv+"="+name), env...)
	c.cmd.Stderr = t.Output()
	stdout, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	c.lines = bufio.NewScanner(stdout)
	require.NoError(t, c.cmd.Start())
	t.Cleanup(c.kill)
	return c
}

// until waits for a line that begins with prefix.
func (c *child) until(prefix string) {
	c.t.Helper()
	c.line(prefix)
}

// line waits for a line that begins with prefix and returns it.
func (c *child) line(prefix string) string {
	c.t.Helper()
	for c.lines.Scan() {
		if strings.HasPrefix(c.lines.Text(), prefix) {
			return c.lines.Text()
		}
	}
	c.t.Fatalf("the child has ended without a line %q", prefix)
	return ""
}

// kill ends the process as kill -9 does, and waits until it is gone.
func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	}
}
