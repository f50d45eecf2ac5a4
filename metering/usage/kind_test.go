package usage_test

import (
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
