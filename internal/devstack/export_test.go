//go:build linux || darwin

package devstack

import "testing"

// StartTime is startTime: empty means that there is no such process.
func StartTime(pid int) string { return startTime(pid) }

// MajorVersion is majorVersion.
func MajorVersion(version string) (int, error) { return majorVersion(version) }

// Workspace returns the directory of the stack and the process id of its guard.
func (s *Stack) Workspace() (dir string, guard int) { return s.w.dir, s.w.guard.cmd.Process.Pid }

// FreezeRedis hangs the stack's Redis.
func (s *Stack) FreezeRedis() error { return s.redis.Freeze() }

// InMemory makes dir the place of temporary directories in memory, however
// little room it has.
func InMemory(t *testing.T, dir string) {
	base, room := memoryBase, memoryRoom
	t.Cleanup(func() { memoryBase, memoryRoom = base, room })
	memoryBase, memoryRoom = dir, 0
}

// LookIn makes patterns the places where packages put PostgreSQL.
func LookIn(t *testing.T, patterns ...string) {
	before := postgresPatterns
	t.Cleanup(func() { postgresPatterns = before })
	postgresPatterns = patterns
}
