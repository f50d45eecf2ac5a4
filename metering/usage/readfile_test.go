package usage_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

func readAll(path string) (events []usage.Event, err error) {
	for e, err := range usage.ReadFile(path) {
		if err != nil {
			return events, err
		}
		events = append(events, e)
	}
	return events, nil
}

// TestReadFile reads what a spool has written, while it writes, after a kill in
// the middle of a record, and up to where it is damaged.
//
// Seen failing without isTorn (a torn file was an error), and with damage taken for
// the end.
func TestReadFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := usage.OpenSpool(dir, nil)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	var want []usage.Event
	for i := range 3 {
		e := usage.Event{ID: tenant.NewID().String(), Tenant: tenant.NewID(), Plan: tenant.Pro, Tool: "search", Units: int64(i), Outcome: usage.OK, Time: time.Unix(1770000000, 0).UTC()}
		require.NoError(t, s.Record(t.Context(), e))
		want = append(want, e)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.events"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	got, err := readAll(files[0])
	require.NoError(t, err)
	require.Equal(t, want, got)

	content, err := os.ReadFile(files[0])
	require.NoError(t, err)
	write := func(name string, content []byte) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	torn, err := readAll(write("torn.events", content[:len(content)-10]))
	require.NoError(t, err)
	require.Equal(t, want[:2], torn)
	content[len(content)/2] ^= 1 // of the second
	damaged, err := readAll(write("x.events.bad", content))
	require.ErrorContains(t, err, "record at byte")
	require.Equal(t, want[:1], damaged)

	var lines []byte
	for _, e := range want {
		line, err := json.Marshal(e)
		require.NoError(t, err)
		lines = append(append(lines, line...), "\n\n"...)
	}
	got, err = readAll(write("usage_events.jsonl", lines[:len(lines)-2]))
	require.NoError(t, err)
	require.Equal(t, want, got)
	got, err = readAll(write("bad.jsonl", append(lines, "{\"id\":"...)))
	require.ErrorContains(t, err, "line 7")
	require.Equal(t, want, got)
	got, err = readAll(write("empty", nil))
	require.NoError(t, err)
	require.Empty(t, got)
	_, err = readAll(filepath.Join(dir, "nothing"))
	require.ErrorIs(t, err, os.ErrNotExist)
	for range usage.ReadFile(files[0]) {
		break // the reader may stop early
	}
}
