//go:build linux || darwin

package devstack_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devstack"
)

// fakePostgres makes a directory with programs that only tell a version.
func fakePostgres(t *testing.T, dir, version string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	script := "#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\nexit 3\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "initdb"), []byte(script), 0o755))
	script = "#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "postgres"), []byte(script), 0o755))
	return dir
}

// startFails returns why PostgreSQL can't be started. The fakes' initdb fails
// and says its version, which tells who was chosen.
func startFails(t *testing.T) error {
	t.Helper()
	_, err := devstack.Start(t.Context(), devstack.Options{Postgres: true, Fast: true})
	require.Error(t, err)
	return err
}

func TestPostgresMissing(t *testing.T) {
	t.Setenv("PG_BIN_DIR", "")
	t.Setenv("PATH", "/bin-that-is-not-there")
	devstack.LookIn(t, filepath.Join(t.TempDir(), "*"))
	err := startFails(t)
	missing, ok := errors.AsType[*devstack.MissingError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, "PostgreSQL", missing.Service)
	require.Contains(t, err.Error(), missing.Install)
	require.NotContains(t, err.Error(), "\n", "one line")
}

func TestPostgresChoice(t *testing.T) {
	// As root the fakes run as another user, who must reach them.
	base := shortDir(t)
	old := fakePostgres(t, filepath.Join(base, "old"), "13.9")
	onPath := fakePostgres(t, filepath.Join(base, "path"), "14.2")
	fakePostgres(t, filepath.Join(base, "known", "9"), "15.1")
	fakePostgres(t, filepath.Join(base, "known", "10"), "18beta1 (Debian)")
	fakePostgres(t, filepath.Join(base, "known", "11"), "16.0")
	known := filepath.Join(base, "known", "*")
	system := os.Getenv("PATH")

	t.Run("PG_BIN_DIR first", func(t *testing.T) {
		t.Setenv("PG_BIN_DIR", filepath.Join(base, "known", "11"))
		t.Setenv("PATH", onPath+":"+system)
		require.ErrorContains(t, startFails(t), "16.0")
	})
	t.Run("PG_BIN_DIR wrong", func(t *testing.T) {
		t.Setenv("PG_BIN_DIR", filepath.Join(base, "nowhere"))
		require.ErrorContains(t, startFails(t), "PG_BIN_DIR: no initdb in")
	})
	t.Run("PG_BIN_DIR too old", func(t *testing.T) {
		t.Setenv("PG_BIN_DIR", old)
		require.ErrorContains(t, startFails(t), "version 13, want 14 or newer")
	})
	t.Run("PATH before known", func(t *testing.T) {
		t.Setenv("PG_BIN_DIR", "")
		t.Setenv("PATH", onPath+":"+system)
		devstack.LookIn(t, known)
		require.ErrorContains(t, startFails(t), "14.2")
	})
	t.Run("newest known, by number", func(t *testing.T) {
		t.Setenv("PG_BIN_DIR", "")
		t.Setenv("PATH", old+":/bin:/usr/bin")
		devstack.LookIn(t, known)
		require.ErrorContains(t, startFails(t), "18beta1")
	})
}

func TestMajorVersion(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]int{
		"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n": 15,
		"postgres (PostgreSQL) 18beta1\n":                        18,
		"postgres (PostgreSQL) 17":                               17,
		"postgres (PostgreSQL)":                                  0,
		"":                                                       0,
	} {
		got, err := devstack.MajorVersion(version)
		require.Equal(t, want, got, version)
		require.Equal(t, want == 0, err != nil, version)
	}
}
