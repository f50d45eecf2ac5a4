package devtest

import (
	"errors"
	"log/slog"
	"os"
	"testing"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
)

// unavailable ends a test whose service can't be had: skipped where the
// program isn't installed on a developer's machine, failed in CI and on any
// other trouble.
func unavailable(t testing.TB, err error) {
	t.Helper()
	var missing *devstack.MissingError
	if errors.As(err, &missing) && os.Getenv("CI") == "" {
		t.Skipf("skipped, and it would fail if CI were set: %v", err)
	}
	t.Fatal(err)
}

// Logger returns a logger whose output is shown with the test's, if it fails.
func Logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Soak reports whether tests shall run their long form, as "make soak" does.
func Soak() bool { return os.Getenv("SOAK") != "" }
