package onboarding_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// tables are an Exporter of what is in them: lines by name.
type tables map[string][]string

func (t tables) Export(_ context.Context, _ tenant.ID, put func(string, func(io.Writer) (int64, error)) error) error {
	for name, lines := range t {
		err := put(name, func(w io.Writer) (int64, error) {
			for _, l := range lines {
				if _, err := fmt.Fprintln(w, l); err != nil {
					return 0, err
				}
			}
			return int64(len(lines)), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func TestArchiveIsReadBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, id := onboarding.Dir(dir), tenant.NewID()
	now := time.Now()
	digest, err := onboarding.WriteArchive(t.Context(), a, "x/1", id, now,
		tables{"products.jsonl": {`{"a":1}`, `{"a":2}`}, "empty.jsonl": nil}, tables{"usage.jsonl": {"u"}})
	require.NoError(t, err)
	require.Len(t, digest, 64)
	m, err := onboarding.VerifyArchive(t.Context(), a, "x/1", digest)
	require.NoError(t, err)
	require.Equal(t, id, m.Tenant)
	require.Len(t, m.Files, 3)
	rows := map[string]int64{}
	for _, f := range m.Files {
		rows[f.Name] = f.Rows
	}
	require.Equal(t, map[string]int64{"products.jsonl": 2, "empty.jsonl": 0, "usage.jsonl": 1}, rows)
	left, err := filepath.Glob(filepath.Join(dir, "x/1/*.partial"))
	require.NoError(t, err)
	require.Empty(t, left)
	info, err := os.Stat(filepath.Join(dir, "x/1/products.jsonl"))
	require.NoError(t, err)
	require.Zero(t, info.Mode().Perm()&0o077, "an archive is its owner's alone")
}

// TestCorruptArchive breaks an archive in each way and wants it seen.
//
// Mutations seen: the comparison of the manifest's digest removed, that of the
// file's digest removed.
func TestCorruptArchive(t *testing.T) {
	t.Parallel()
	const file, manifest = "x/1/products.jsonl", "x/1/manifest.json"
	edit := func(name string, change func([]byte) []byte) func(string) error {
		return func(dir string) error {
			raw, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, name), change(raw), 0o600)
		}
	}
	for name, harm := range map[string]func(dir string) error{
		"a bit":            edit(file, func(b []byte) []byte { b[3] ^= 1; return b }),
		"cut short":        edit(file, func(b []byte) []byte { return b[:len(b)-1] }),
		"longer":           edit(file, func(b []byte) []byte { return append(b, '\n') }),
		"empty":            edit(file, func([]byte) []byte { return nil }),
		"gone":             func(dir string) error { return os.Remove(filepath.Join(dir, file)) },
		"manifest":         edit(manifest, func(b []byte) []byte { return []byte(strings.Replace(string(b), `"rows": 2`, `"rows": 1`, 1)) }),
		"manifest gone":    func(dir string) error { return os.Remove(filepath.Join(dir, manifest)) },
		"manifest forgets": edit(manifest, func([]byte) []byte { return []byte(`{"files":[]}`) }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			a := onboarding.Dir(dir)
			digest, err := onboarding.WriteArchive(t.Context(), a, "x/1", tenant.NewID(), time.Now(),
				tables{"products.jsonl": {`{"a":1}`, `{"a":2}`}})
			require.NoError(t, err)
			_, err = onboarding.VerifyArchive(t.Context(), a, "x/1", digest)
			require.NoError(t, err)
			require.NoError(t, harm(dir))
			_, err = onboarding.VerifyArchive(t.Context(), a, "x/1", digest)
			require.Error(t, err)
			if !errors.Is(err, os.ErrNotExist) {
				require.ErrorIs(t, err, onboarding.ErrCorrupt)
			}
		})
	}
}

func TestArchiveRefuses(t *testing.T) {
	t.Parallel()
	a := onboarding.Dir(t.TempDir())
	for _, name := range []string{"", "..", "a/b", ".hidden", "manifest.json", "tab\tle", strings.Repeat("x", 201)} {
		_, err := onboarding.WriteArchive(t.Context(), a, "x/1", tenant.NewID(), time.Now(), tables{name: {"r"}})
		require.ErrorContains(t, err, "not plain", "%q", name)
	}
	for _, name := range []string{"", "/etc/passwd", "../x", "a/../../x", "a//b"} {
		require.Error(t, a.Put(t.Context(), name, func(io.Writer) error { return nil }), "%q", name)
		_, err := a.Open(t.Context(), name)
		require.Error(t, err, "%q", name)
	}
	// An exporter that miscounts, and two that use the same name.
	_, err := onboarding.WriteArchive(t.Context(), a, "x/1", tenant.NewID(), time.Now(), tables{"t": {"one\ntwo"}})
	require.ErrorContains(t, err, "1 rows in 2 lines")
	_, err = onboarding.WriteArchive(t.Context(), a, "x/1", tenant.NewID(), time.Now(), tables{"t": nil}, tables{"t": nil})
	require.ErrorContains(t, err, "taken")
}

// TestDirKeepsTheOldOnFailure: what can't be written whole isn't seen at all.
func TestDirKeepsTheOldOnFailure(t *testing.T) {
	t.Parallel()
	a := onboarding.Dir(t.TempDir())
	write := func(s string, err error) error {
		return a.Put(t.Context(), "d/f", func(w io.Writer) error {
			io.WriteString(w, s)
			return err
		})
	}
	require.NoError(t, write("old", nil))
	require.ErrorIs(t, write("new", errAway), errAway)
	r, err := a.Open(t.Context(), "d/f")
	require.NoError(t, err)
	defer r.Close()
	raw, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "old", string(raw))
	require.Error(t, onboarding.Dir("").Put(t.Context(), "f", func(io.Writer) error { return nil }))
}
