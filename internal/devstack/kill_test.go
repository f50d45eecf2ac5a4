//go:build linux || darwin

package devstack_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
)

// owner is a process of its own that has started a stack: this test binary
// again, in TestMain.
type owner struct {
	cmd      *exec.Cmd
	Dir      string
	Guard    int
	Database string
	Redis    string
}

func TestMain(m *testing.M) {
	if os.Getenv("DEVSTACK_OWNER") == "" {
		os.Exit(m.Run())
	}
	stack, err := devstack.Start(context.Background(), devstack.Options{
		Dir: os.Getenv("DEVSTACK_DIR"), Postgres: true, Redis: true, Fast: os.Getenv("DEVSTACK_DIR") == "",
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	dir, guard := stack.Workspace()
	json.NewEncoder(os.Stdout).Encode(owner{Dir: dir, Guard: guard, Database: stack.DatabaseURL, Redis: stack.RedisURL})
	// Until the test says how to go on: "freeze", "close", or nothing more.
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch lines.Text() {
		case "freeze":
			fmt.Println(stack.FreezeRedis())
		case "close":
			fmt.Println(stack.Close(context.Background()))
			os.Exit(0)
		}
	}
	select {}
}

// startOwner starts a process that owns a stack, in dir if there is one.
func startOwner(t *testing.T, temp, dir string) (o *owner, say func(string)) {
	t.Helper()
	o = &owner{cmd: exec.Command(os.Args[0])}
	o.cmd.Env = append(os.Environ(), "DEVSTACK_OWNER=1", "DEVSTACK_DIR="+dir, "TMPDIR="+temp)
	o.cmd.Stderr = os.Stderr
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := o.cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := o.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, o.cmd.Start())
	t.Cleanup(func() { o.cmd.Process.Kill(); o.cmd.Wait() })
	answers := bufio.NewScanner(stdout)
	require.True(t, answers.Scan(), "the owner failed")
	require.NoError(t, json.Unmarshal(answers.Bytes(), o))
	return o, func(line string) {
		_, err := fmt.Fprintln(stdin, line)
		require.NoError(t, err)
		require.True(t, answers.Scan())
		require.Equal(t, "<nil>", answers.Text())
	}
}

// kill ends the owner and everything in its process group, as a supervisor
// does that takes no chances.
func (o *owner) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, syscall.Kill(-o.cmd.Process.Pid, syscall.SIGKILL))
	o.cmd.Wait()
}

// needPrograms skips a test whose owner would find nothing to start.
func needPrograms(t *testing.T) {
	t.Helper()
	r, err := devstack.StartRedis(t.Context(), false)
	skipMissing(t, err)
	require.NoError(t, err)
	require.NoError(t, r.Close())
}

// pids returns the servers of a workspace.
func pids(t *testing.T, dir string) []int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.pid"))
	require.NoError(t, err)
	var all []int
	for _, name := range files {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		first, _, _ := strings.Cut(string(text), " ")
		pid, err := strconv.Atoi(first)
		require.NoError(t, err)
		require.NotEmpty(t, devstack.StartTime(pid), "%s does not run", name)
		all = append(all, pid)
	}
	return all
}

// gone waits until none of the processes is there.
func gone(t *testing.T, pids ...int) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, pid := range pids {
			if devstack.StartTime(pid) != "" {
				return false
			}
		}
		return true
	}, 20*time.Second, 10*time.Millisecond, "processes %v", pids)
}

// shortDir returns a directory that other users can reach and whose path is
// short enough for a socket, which t.TempDir is not.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "devstack")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// TestKilledOwner shows that a kill -9 of the owner leaves neither a process
// nor a directory, even if a server is frozen. Caught: a guard that doesn't
// remove, a guard in the owner's process group.
func TestKilledOwner(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	o, say := startOwner(t, shortDir(t), "")
	servers := pids(t, o.Dir)
	require.Len(t, servers, 2)
	say("freeze")

	o.kill(t)
	gone(t, append(servers, o.Guard)...)
	require.NoDirExists(t, o.Dir)
}

// TestKilledOwnerKeepsDir shows that what the servers confirmed before a
// kill -9 of their owner is there for the next owner of the directory, who has
// to wait for the guard. Caught: Redis without appendonly, a guard that doesn't
// share the lock and would clear away what the next owner has begun.
func TestKilledOwnerKeepsDir(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	dir := filepath.Join(shortDir(t), "stack")
	o, _ := startOwner(t, shortDir(t), dir)
	conn := connect(t, o.Database)
	_, err := conn.Exec(t.Context(), `create table kept as select 7 as n`)
	require.NoError(t, err)
	client := redisClient(t, o.Redis)
	require.NoError(t, client.IncrBy(t.Context(), "kept", 7).Err())

	require.NoError(t, syscall.Kill(o.Guard, syscall.SIGSTOP))
	t.Cleanup(func() { syscall.Kill(o.Guard, syscall.SIGCONT) }) // however this ends
	o.kill(t)
	hurried, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = devstack.Start(hurried, devstack.Options{Dir: dir, Redis: true})
	require.ErrorContains(t, err, "another process is using it")
	require.NoError(t, syscall.Kill(o.Guard, syscall.SIGCONT))
	stack := start(t, devstack.Options{Dir: dir, Postgres: true, Redis: true})
	var n int
	require.NoError(t, connect(t, stack.DatabaseURL).QueryRow(t.Context(), `select n from kept`).Scan(&n))
	require.Equal(t, 7, n)
	n, err = redisClient(t, stack.RedisURL).Get(t.Context(), "kept").Int()
	require.NoError(t, err)
	require.Equal(t, 7, n)
}

// TestSweepOrphans shows that a leftover process is ended if and only if it is
// the one that the dead owner started. Caught: a sweep that doesn't compare
// the start time.
func TestSweepOrphans(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	temp := shortDir(t)
	stale := filepath.Join(temp, "mcpsaas-dev-1")
	require.NoError(t, os.Mkdir(stale, 0o711))
	require.NoError(t, os.WriteFile(filepath.Join(stale, "lock"), nil, 0o600))
	orphan := func(name, started string) (pid int) {
		cmd := exec.Command("sleep", "600")
		require.NoError(t, cmd.Start())
		// Its end is ours to collect, or it stays as a corpse.
		done := make(chan struct{})
		go func() { cmd.Wait(); close(done) }()
		t.Cleanup(func() { cmd.Process.Kill(); <-done })
		if started == "" {
			started = devstack.StartTime(cmd.Process.Pid)
		}
		line := fmt.Sprintf("%d TERM %s\n", cmd.Process.Pid, started)
		require.NoError(t, os.WriteFile(filepath.Join(stale, name+".pid"), []byte(line), 0o644))
		return cmd.Process.Pid
	}
	ours := orphan("redis", "")
	reused := orphan("postgres", "earlier")

	_, say := startOwner(t, temp, "")
	gone(t, ours)
	require.NotEmpty(t, devstack.StartTime(reused))
	require.NoDirExists(t, stale)
	say("close")
}
