package devstack

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// childAttr makes a child that gets the signal death when we die, that a
// Ctrl-C in our terminal doesn't reach (we stop it ourselves, after what uses
// it), and that runs as an unprivileged user if we are root.
func childAttr(death syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: death, Credential: serverUser()}
}

// startTime tells a process from a later one with the same number. It is empty
// when there is no such process, or only its corpse.
func startTime(pid int) string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The second field is the name in parentheses, which may itself contain
	// anything. The state follows it; the start time is field 22 (proc(5)).
	_, rest, ok := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return strings.TrimSpace(string(boot)) + "/" + fields[19]
}
