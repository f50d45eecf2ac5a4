package usage_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
)

// A journal's entries were once stored as usage, or usage deleted as a journal's
// entries, where both had one directory: whoever came first after a crash took over
// all that was left.
//
// Mutations seen here: without checkKind the other kind is opened; if it refuses its
// own kind too, or both name their sub-directories alike, the second process is
// refused.
func TestOneDirectoryOnePurpose(t *testing.T) {
	t.Parallel()
	type opener = func(string, *usage.SpoolOptions) (*usage.Spool, error)
	tests := map[string]struct {
		first, other opener
		want         string
	}{
		"usage first":   {usage.OpenSpool, usage.OpenJournal, " is for usage events, as spool-0000 in it shows: journal entries need a directory of their own"},
		"journal first": {usage.OpenJournal, usage.OpenSpool, " is for journal entries, as journal-0000 in it shows: usage events need a directory of their own"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			openAs := func(o opener, dir string) *usage.Spool {
				s, err := o(dir, nil)
				require.NoError(t, err)
				return s
			}
			refused := func() {
				t.Helper()
				_, err := test.other(dir, nil)
				require.ErrorContains(t, err, dir+test.want)
			}
			s := openAs(test.first, dir)
			refused()
			beside := openAs(test.first, dir) // of another process
			events := append(record(t, s, 3), record(t, beside, 3)...)
			require.NoError(t, s.Close())
			require.NoError(t, beside.Close())
			refused()
			require.Len(t, files(t, dir), 2)

			s, store := openAs(test.first, dir), &meteringtest.Store{}
			stop := run(t, s, store)
			flush(t, s)
			require.ElementsMatch(t, events, store.Events())
			stop()
			require.NoError(t, s.Close())
			refused() // the first will come again
		})
	}
}

// Where usage and a journal wait in two spools of one process, its log says which of
// them has trouble.
//
// Mutations seen here: without the directory both look alike; with a text of usage in
// the log of a journal, the wrong one is looked at.
func TestLogNamesTheSpool(t *testing.T) {
	t.Parallel()
	for holds, open := range map[string]func(string, *usage.SpoolOptions) (*usage.Spool, error){
		"usage events": usage.OpenSpool, "journal entries": usage.OpenJournal,
	} {
		t.Run(holds, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			dir := t.TempDir()
			s, err := open(dir, &usage.SpoolOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			require.NoError(t, err)
			record(t, s, 1)
			failed := false
			stop := run(t, s, usage.StoreFunc(func(_ context.Context, e []usage.Event) (int, error) {
				if !failed {
					failed = true
					return 0, errors.New("it is away")
				}
				return len(e), nil
			}))
			flush(t, s)
			stop()
			lines := strings.Split(strings.TrimSpace(log.String()), "\n")
			require.Len(t, lines, 2, log.String())
			require.Contains(t, lines[0], `msg="`+holds+` not stored, they wait in the spool"`)
			require.Contains(t, lines[1], `msg="`+holds+` are stored again"`)
			for _, line := range lines {
				require.Contains(t, line, "spool="+dir)
			}
			require.NoError(t, s.Close())
		})
	}
}
