package devstack

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// childAttr makes a child that a Ctrl-C in our terminal doesn't reach (we stop
// it ourselves, after what uses it), and that runs as an unprivileged user if
// we are root. Without a death signal in the kernel, the guard alone stops it
// when we are killed.
func childAttr(syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: serverUser()}
}

// startTime tells a process from a later one with the same number. It is empty
// when there is no such process, or only its corpse.
func startTime(pid int) string {
	out, err := exec.Command("ps", "-o", "stat=,lstart=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return ""
	}
	state, started, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if strings.HasPrefix(state, "Z") {
		return ""
	}
	return strings.Join(strings.Fields(started), "-")
}
