package devtest_test

import (
	"fmt"
	"runtime"
	"testing"
)

// recorder stands in for the *testing.T of a test that is expected to fail or
// to be skipped.
type recorder struct {
	testing.TB
	failed, skipped bool
	said            string
	cleanups        []func()
}

// run calls f as a test: what ends a test ends f, and cleanups follow.
func (r *recorder) run(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
	for len(r.cleanups) > 0 {
		last := r.cleanups[len(r.cleanups)-1]
		r.cleanups = r.cleanups[:len(r.cleanups)-1]
		last()
	}
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

func (r *recorder) Errorf(format string, args ...any) {
	r.failed = true
	r.said += fmt.Sprintf(format, args...)
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) { r.Fatalf("%s", fmt.Sprint(args...)) }

func (r *recorder) Skipf(format string, args ...any) {
	r.skipped = true
	r.said += fmt.Sprintf(format, args...)
	runtime.Goexit()
}
