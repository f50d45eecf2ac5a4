package usage_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
)

// disk is told of every fsync and fails the one of the path that it is given: once,
// as Linux does, which takes what it could not write for written.
type disk struct {
	mu     sync.Mutex
	synced []string
	broken string // path, "" for none
}

var errDisk = errors.New("input/output error")

func (d *disk) fsync(f *os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.synced = append(d.synced, f.Name())
	if f.Name() == d.broken {
		d.broken = ""
		return &os.PathError{Op: "sync", Path: f.Name(), Err: errDisk}
	}
	return f.Sync()
}

// since returns what has been synced since it was asked last.
func (d *disk) since() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	synced := d.synced
	d.synced = nil
	return synced
}

func (d *disk) breaks(path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = path
}

func openOn(t *testing.T, d *disk, opts usage.SpoolOptions) (_ *usage.Spool, dir string) {
	t.Helper()
	dir = t.TempDir()
	s := open(t, dir, &opts)
	s.SetFsync(d.fsync)
	return s, dir
}

// Everything that was written since the last sync is forced to the disk, and nothing
// else: each file, those that have been ended meanwhile too, and where one was made,
// the directory.
//
// Mutations seen here: without the ended files, without the active one, without the
// directory; and all of them each time.
func TestSyncForcesWhatWasWritten(t *testing.T) {
	t.Parallel()
	d := &disk{}
	s, dir := openOn(t, d, usage.SpoolOptions{MaxBytes: 64 << 10})
	names := filepath.Join(dir, "spool-0000")
	require.NoError(t, s.Sync())
	require.Empty(t, d.since(), "nothing has been written")

	record(t, s, 1)
	require.NoError(t, s.Sync())
	first := files(t, dir)
	require.Len(t, first, 1)
	require.Equal(t, append([]string{names}, first...), d.since())
	require.NoError(t, s.Sync())
	require.Empty(t, d.since(), "it has been synced")
	record(t, s, 1)
	require.NoError(t, s.Sync())
	require.Equal(t, first, d.since())

	record(t, s, 300)
	all := files(t, dir)
	require.Greater(t, len(all), 2)
	require.NoError(t, s.Sync())
	require.Equal(t, append([]string{names}, all...), d.since())
	require.NoError(t, s.Sync())
	require.Empty(t, d.since())
	record(t, s, 1)
	require.NoError(t, s.Close())
	require.Equal(t, all[len(all)-1:], d.since(), "the last of it")
}

// What a process wrote that has died is forced to the disk by the one that takes it
// over, and in doubt if that fails. Mutations seen here: without either.
func TestTakeOverForces(t *testing.T) {
	t.Parallel()
	d := &disk{}
	s, dir := openOn(t, d, usage.SpoolOptions{})
	died := open(t, dir, nil)
	record(t, died, 1)
	left := files(t, dir)
	require.Len(t, left, 1)
	require.NoError(t, died.Close())
	d.breaks(left[0])
	require.NoError(t, s.Adopt())
	require.Equal(t, left, d.since())
	require.ErrorContains(t, s.Check(t.Context()), "not synced")
	run(t, s, &meteringtest.Store{})
	flush(t, s)
	require.Eventually(t, func() bool { return s.Check(t.Context()) == nil }, time.Minute, time.Millisecond)
}

// Mutation seen here: without the goroutine nothing is synced.
func TestRunSyncs(t *testing.T) {
	t.Parallel()
	d := &disk{}
	s, dir := openOn(t, d, usage.SpoolOptions{SyncInterval: time.Millisecond})
	store := &meteringtest.Store{}
	store.Fail(errors.New("database is away"))
	run(t, s, store)
	record(t, s, 1)
	path := files(t, dir)[0]
	require.Eventually(t, func() bool {
		return slices.Contains(d.since(), path)
	}, time.Minute, time.Millisecond)

	d.breaks(path)
	record(t, s, 1)
	require.Eventually(t, func() bool { return errors.Is(s.Check(t.Context()), errDisk) }, time.Minute, time.Millisecond)
	store.Fail(nil)
	flush(t, s)
	require.Eventually(t, func() bool { return s.Check(t.Context()) == nil }, time.Minute, time.Millisecond)
}

// What could not be forced to the disk is reported until the store has it, though
// every later sync succeeds, that of the same file too: it proves nothing of what the
// kernel has dropped.
//
// Mutations seen here: forgotten at the next sync, or once the file has been synced
// after all; the file written on, so that it is in doubt for ever; errors of
// ended files, of the active one, or of the directory not heard.
func TestFailedSyncIsReportedUntilStored(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		before int // events recorded before the sync that fails
		broken func(dir string, files []string) string
	}{
		"active file":  {1, func(_ string, files []string) string { return files[0] }},
		"ended file":   {300, func(_ string, files []string) string { return files[0] }},
		"last of many": {300, func(_ string, files []string) string { return files[len(files)-1] }},
		"directory":    {1, func(dir string, _ []string) string { return filepath.Join(dir, "spool-0000") }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, store := &disk{}, &meteringtest.Store{}
			s, dir := openOn(t, d, usage.SpoolOptions{MaxBytes: 64 << 10, SyncInterval: time.Hour})
			events := record(t, s, test.before)
			doubtful := files(t, dir)
			d.breaks(test.broken(dir, doubtful))
			require.ErrorIs(t, s.Sync(), errDisk)
			require.ErrorIs(t, s.Check(t.Context()), errDisk)

			require.NoError(t, s.Sync(), "nothing new")
			require.ErrorIs(t, s.Check(t.Context()), errDisk, "forgotten")
			d.since()
			events = append(events, record(t, s, 1)...)
			require.NoError(t, s.Sync())
			if test.before == 1 {
				require.NotContains(t, d.since(), doubtful[0], "an event was added to what is in doubt")
			}
			require.NoError(t, s.Sync())
			require.ErrorIs(t, s.Check(t.Context()), errDisk, "forgotten")

			run(t, s, store)
			flush(t, s)
			require.Equal(t, events, store.Events())
			require.NoError(t, s.Sync())
			require.NoError(t, s.Check(t.Context()), "the store has all of it")
			require.Empty(t, store.Repeated())
		})
	}
}

// The disk goes on failing: events come into the store, and no file is left behind.
//
// Mutation seen here: a file in doubt that is not ended stays.
func TestEverySyncFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, store := open(t, dir, &usage.SpoolOptions{SyncInterval: time.Hour}), &meteringtest.Store{}
	s.SetFsync(func(*os.File) error { return errDisk })
	run(t, s, store)
	for n := range 3 {
		record(t, s, 1)
		require.ErrorIs(t, s.Sync(), errDisk)
		require.ErrorIs(t, s.Check(t.Context()), errDisk)
		flush(t, s)
		require.Equal(t, n+1, store.Len())
		require.Empty(t, files(t, dir))
	}
}
