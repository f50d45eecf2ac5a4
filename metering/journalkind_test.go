package metering_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/usage"
)

// One spool as sink and as journal took all usage events for entries that can't be
// read, and deleted them; none reached the store.
//
// Mutations seen here: without either refusal, what stands in the wrong place is taken.
func TestSinkAndJournalAreApart(t *testing.T) {
	t.Parallel()
	_, g := throughGate(t, metering.Options{})
	sink, err := usage.OpenSpool(t.TempDir(), nil)
	require.NoError(t, err)
	journal, err := usage.OpenJournal(t.TempDir(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, errors.Join(sink.Close(), journal.Close())) })
	const noSink = "sink: is a journal, which is for Options.Journal: usage.OpenSpool"
	const noJournal = "Journal: is a spool of usage events, which is for the sink: usage.OpenJournal"
	for name, test := range map[string]struct {
		sink, journal *usage.Spool
		want          []string
	}{
		"right":         {sink, journal, nil},
		"one sink":      {sink, sink, []string{noJournal}},
		"one journal":   {journal, journal, []string{noSink}},
		"the wrong way": {journal, sink, []string{noSink, noJournal}},
	} {
		t.Run(name, func(t *testing.T) {
			type wrapper struct{ *usage.Spool } // for metrics, say
			_, err := metering.New(g, wrapper{test.sink}, &metering.Options{Journal: wrapper{test.journal}})
			_, bare := metering.New(g, test.sink, &metering.Options{Journal: test.journal})
			if test.want == nil {
				require.NoError(t, err)
				require.NoError(t, bare)
			}
			for _, want := range test.want {
				require.ErrorContains(t, err, want)
				require.ErrorContains(t, bare, want)
			}
		})
	}
}
