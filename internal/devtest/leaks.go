package devtest

import (
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// settle is how long goroutines that are ending may take.
const settle = 5 * time.Second

// NoLeaks fails the test if goroutines that it started are still there when it
// and the cleanups registered after this call are through: call it first. It
// can't tell the goroutines of parallel tests apart, so that a test which
// calls it must not be parallel.
func NoLeaks(t testing.TB) {
	t.Helper()
	before := goroutines()
	t.Cleanup(func() {
		deadline := time.Now().Add(settle)
		for {
			left := newSince(before)
			if len(left) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("devtest: %d goroutines left:\n\n%s", len(left), strings.Join(left, "\n\n"))
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}

var goroutineID = regexp.MustCompile(`^goroutine (\d+) `)

// goroutines returns the stacks of all goroutines by their number, which is
// never used again.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := make(map[string]string)
	for _, stack := range strings.Split(string(buf), "\n\n") {
		if match := goroutineID.FindStringSubmatch(stack); match != nil {
			stacks[match[1]] = stack
		}
	}
	return stacks
}

// ours are goroutines that outlive a test by design: they belong to the
// services that the process shares, to the testing package or to the runtime.
var ours = []string{
	"/internal/devstack.",
	"/internal/devtest.",
	"created by testing.",
	"created by os/signal.",
	"testing.(*T).Run(",
	"runtime.ensureSigM",
}

func newSince(before map[string]string) []string {
	var left []string
next:
	for id, stack := range goroutines() {
		if _, ok := before[id]; ok {
			continue
		}
		for _, mark := range ours {
			if strings.Contains(stack, mark) {
				continue next
			}
		}
		left = append(left, stack)
	}
	return left
}
