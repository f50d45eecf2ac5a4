package usage_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mcpsaas/mcpsaas/internal/devtest"
	"github.com/mcpsaas/mcpsaas/metering/meteringtest"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const childDir = "SPOOL_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	os.Exit(m.Run())
}

// child records events and prints the id of each that is acknowledged, until
// it is killed.
func child(dir string) {
	s, err := usage.OpenSpool(dir, &usage.SpoolOptions{MaxBytes: 64 << 20})
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	out := bufio.NewWriterSize(os.Stdout, 1) // nothing is held back
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			id := tenant.NewID()
			for {
				e := meteringtest.NewEvent(id)
				if err := s.Record(context.Background(), e); err != nil {
					return
				}
				mu.Lock()
				fmt.Fprintln(out, e.ID)
				mu.Unlock()
			}
		})
	}
	all.Wait()
}

// startChild returns a running child and the ids that it has acknowledged, once
// there are at least n of them and it has been killed.
func startChild(t *testing.T, dir string, n int) (kill func() []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	var acknowledged []string
	for len(acknowledged) < n && lines.Scan() {
		acknowledged = append(acknowledged, lines.Text())
	}
	return func() []string {
		require.NoError(t, cmd.Process.Kill()) // SIGKILL
		for lines.Scan() {
			if id := lines.Text(); len(id) == 36 {
				acknowledged = append(acknowledged, id)
			}
		}
		cmd.Wait()
		require.GreaterOrEqual(t, len(acknowledged), n)
		return acknowledged
	}
}

func open(t testing.TB, dir string, opts *usage.SpoolOptions) *usage.Spool {
	t.Helper()
	s, err := usage.OpenSpool(dir, opts)
	require.NoError(t, err)
	return s
}

// run runs the spool until the test ends, or until stop is called.
func run(t testing.TB, s *usage.Spool, store usage.Store) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, store) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(t, <-done)
		})
	}
	t.Cleanup(stop)
	return stop
}

// flush waits for Run to have begun, and for it to have stored everything.
func flush(t testing.TB, s *usage.Spool) {
	t.Helper()
	require.Eventually(t, func() bool { return s.Flush(t.Context()) == nil }, time.Minute, time.Millisecond)
}

func record(t testing.TB, s *usage.Spool, n int) []usage.Event {
	t.Helper()
	id := tenant.NewID()
	events := make([]usage.Event, n)
	for i := range events {
		events[i] = meteringtest.NewEvent(id)
		require.NoError(t, s.Record(t.Context(), events[i]))
	}
	return events
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*", "*.events"))
	require.NoError(t, err)
	return found
}

func TestSpoolIsASink(t *testing.T) {
	t.Parallel()
	meteringtest.TestSink(t, func(t *testing.T) meteringtest.SinkFixture {
		s, store := open(t, t.TempDir(), nil), &meteringtest.Store{}
		run(t, s, store)
		return meteringtest.SinkFixture{Sink: s, Events: func() []usage.Event {
			flush(t, s)
			return store.Events()
		}}
	})
}

// Mutations seen here: a spool that buffers its writes loses events; one that
// does not take over the directories of dead processes loses those of the
// second child.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var acknowledged []string
	for range 3 { // two at once, and the next two take over what they leave
		first, second := startChild(t, dir, 2_000), startChild(t, dir, 2_000)
		acknowledged = append(append(acknowledged, first()...), second()...)
	}
	require.GreaterOrEqual(t, len(acknowledged), 10_000)

	s, store := open(t, dir, &usage.SpoolOptions{MaxBytes: 64 << 20}), &meteringtest.Store{}
	stop := run(t, s, store)
	flush(t, s)
	stored := make(map[string]bool)
	for _, e := range store.Events() {
		stored[e.ID] = true
	}
	for _, id := range acknowledged {
		require.True(t, stored[id], "event %s was acknowledged and is lost", id)
	}
	require.Zero(t, store.Repeated())
	// Each writer of a child may have been killed between the write and the line.
	require.LessOrEqual(t, store.Len(), len(acknowledged)+3*8)
	require.NoError(t, s.Check(t.Context()))
	stop()
	require.NoError(t, s.Close())
	require.Empty(t, files(t, dir))
}

// The store gets again what had been stored, but whose file was not deleted
// yet, and keeps it once.
func TestKilledWhileDraining(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, store := open(t, dir, nil), &meteringtest.Store{}
	events := record(t, s, 100)
	// What a process that is killed after the store has them leaves is the file
	// as it is now. Later it may be another one.
	left := files(t, dir)
	require.Len(t, left, 1)
	content, err := os.ReadFile(left[0])
	require.NoError(t, err)
	stop := run(t, s, store)
	flush(t, s)
	stop()
	require.NoError(t, s.Close())
	require.Empty(t, files(t, dir))
	require.NoError(t, os.WriteFile(left[0], content, 0o600))

	s = open(t, dir, nil)
	require.EqualValues(t, 100, s.Stats().Events)
	run(t, s, store)
	flush(t, s)
	require.Equal(t, events, store.Events())
	require.Equal(t, 100, store.Repeated())
}

func TestSpoolSurvivesClose(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, nil)
	events := record(t, s, 10)
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Record(t.Context(), events[0]), usage.ErrSpoolClosed)
	require.ErrorIs(t, s.Close(), usage.ErrSpoolClosed)

	s, store := open(t, dir, nil), &meteringtest.Store{}
	events = append(events, record(t, s, 10)...)
	run(t, s, store)
	flush(t, s)
	require.Equal(t, events, store.Events())
	require.Zero(t, s.Stats().Events)
}

// damage changes the one file of a closed spool in dir that holds events.
func damage(t *testing.T, dir string, change func([]byte) []byte) {
	t.Helper()
	found := files(t, dir)
	require.Len(t, found, 1)
	content, err := os.ReadFile(found[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(found[0], change(content), 0o600))
}

// Mutations seen here: without the comparison of the checksum, a flipped byte is
// stored; without the cut after the last whole record, all behind it waits for
// ever.
func TestBrokenFiles(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change  func([]byte) []byte
		left    int // events that can still be read, of 5
		damaged bool
	}{
		"cut in a record":        {func(b []byte) []byte { return b[:len(b)-20] }, 4, false},
		"cut in a header":        {func(b []byte) []byte { return append(b, 0, 0, 1) }, 5, false},
		"never filled":           {func(b []byte) []byte { return append(b, make([]byte, 4096)...) }, 5, false},
		"cut in the magic":       {func(b []byte) []byte { return b[:3] }, 0, false},
		"empty":                  {func(b []byte) []byte { return nil }, 0, false},
		"a byte of the first":    {func(b []byte) []byte { b[40] ^= 1; return b }, 0, true},
		"a byte of the last":     {func(b []byte) []byte { b[len(b)-40] ^= 1; return b }, 4, true},
		"length of the first":    {func(b []byte) []byte { b[9] ^= 4; return b }, 0, true},
		"length beyond all size": {func(b []byte) []byte { b[8] ^= 128; return b }, 0, true},
		"magic":                  {func(b []byte) []byte { b[0] ^= 1; return b }, 0, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := open(t, dir, nil)
			events := record(t, s, 5)
			require.NoError(t, s.Close())
			damage(t, dir, test.change)

			s, store := open(t, dir, nil), &meteringtest.Store{}
			more := record(t, s, 2)
			run(t, s, store)
			flush(t, s)
			require.Equal(t, append(events[:test.left:test.left], more...), store.Events())
			bad, err := filepath.Glob(filepath.Join(dir, "*", "*.bad"))
			require.NoError(t, err)
			if !test.damaged {
				require.Empty(t, bad)
				require.NoError(t, s.Check(t.Context()))
				return
			}
			require.Len(t, bad, 1)
			require.ErrorContains(t, s.Check(t.Context()), "damaged")
			require.NoError(t, os.Remove(bad[0]))
			require.NoError(t, s.Check(t.Context()))
		})
	}
}

// Check says what a Meter finds out: while Ready lets calls run, a spool that fills is
// degraded; from then on it is not ok.
//
// Mutation seen here: a Check that goes by the last Record calls the last 4 KiB
// degraded, in which no call is served any more.
func TestSpoolFull(t *testing.T) {
	t.Parallel()
	s, store := open(t, t.TempDir(), &usage.SpoolOptions{MaxBytes: 64 << 10}), &meteringtest.Store{}
	id := tenant.NewID()
	taken := 0
	var err error
	var degraded interface{ HealthDegraded() bool }
	alarms := 0
	for ; err == nil; taken++ {
		err = s.Record(t.Context(), meteringtest.NewEvent(id))
		check := s.Check(t.Context())
		if s.Ready(t.Context()) != nil {
			require.ErrorContains(t, check, "events are refused")
			require.False(t, errors.As(check, &degraded))
		} else if check != nil {
			require.True(t, errors.As(check, &degraded))
			alarms++
		}
	}
	require.InDelta(t, 0.2-1./16, float64(alarms)/float64(taken), 0.03, "80 % is degraded, the last 4 KiB are full")
	taken--
	require.ErrorIs(t, err, usage.ErrSpoolFull)
	require.Greater(t, taken, 400)
	stats := s.Stats()
	require.EqualValues(t, 1, stats.Refused)
	require.EqualValues(t, taken, stats.Events)
	require.LessOrEqual(t, stats.Bytes, int64(64<<10))
	require.ErrorContains(t, s.Check(t.Context()), "bytes are used")
	require.ErrorIs(t, s.Ready(t.Context()), usage.ErrSpoolFull)

	run(t, s, store)
	flush(t, s)
	require.Equal(t, taken, store.Len())
	require.NoError(t, s.Check(t.Context()))
	require.NoError(t, s.Ready(t.Context()))
	record(t, s, 1)
	flush(t, s)
	require.Equal(t, taken+1, store.Len())
}

func TestStoreFails(t *testing.T) {
	t.Parallel()
	clock := meteringtest.NewClock()
	s, store := open(t, t.TempDir(), &usage.SpoolOptions{Now: clock.Now}), &meteringtest.Store{}
	run(t, s, store)
	flush(t, s) // Run has begun
	store.Fail(errors.New("database is away"))
	events := record(t, s, 50)
	require.NoError(t, s.Check(t.Context()))

	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	require.ErrorContains(t, s.Flush(short), "database is away")
	clock.Advance(3 * time.Minute)
	require.ErrorContains(t, s.Check(t.Context()), "50 events wait, the oldest for 3m0s")
	require.ErrorContains(t, s.Check(t.Context()), "database is away")

	store.Fail(nil)
	flush(t, s)
	require.Equal(t, events, store.Events())
	require.NoError(t, s.Check(t.Context()))
	require.Zero(t, s.Stats().OldestAge)
}

func TestRunDrainsAtTheEnd(t *testing.T) {
	t.Parallel()
	s, store := open(t, t.TempDir(), &usage.SpoolOptions{FlushInterval: time.Hour}), &meteringtest.Store{}
	stop := run(t, s, store)
	flush(t, s) // Run has begun
	record(t, s, 20)
	stop()
	require.Equal(t, 20, store.Len())
	require.Error(t, s.Flush(t.Context()))
	record(t, s, 1) // still taken, for the next start
	require.NoError(t, s.Close())
}

func TestManyProcesses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, second := open(t, dir, nil), open(t, dir, nil)
	record(t, first, 3)
	record(t, second, 3)
	store := &meteringtest.Store{}
	run(t, second, store)
	flush(t, second)
	require.Equal(t, 3, store.Len(), "the events of a living process were taken")

	require.NoError(t, first.Close())
	third := open(t, dir, nil) // takes the place of the first, and what it left
	require.EqualValues(t, 3, third.Stats().Events)
	run(t, third, store)
	flush(t, third)
	require.Equal(t, 6, store.Len())
}

func TestRecordWhileDraining(t *testing.T) {
	t.Parallel()
	s, store := open(t, t.TempDir(), &usage.SpoolOptions{MaxBytes: 1 << 20, FlushInterval: time.Millisecond, SyncInterval: time.Millisecond, BatchEvents: 7}), &meteringtest.Store{}
	var calls atomic.Int64
	run(t, s, usage.StoreFunc(func(ctx context.Context, events []usage.Event) (int, error) {
		if calls.Add(1)%40 == 0 {
			store.Append(ctx, events)
			return 0, errors.New("connection lost after commit")
		}
		return store.Append(ctx, events)
	}))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { record(t, s, 400) })
	}
	all.Wait()
	flush(t, s)
	require.Equal(t, 1600, store.Len())
	require.NotZero(t, store.Repeated())
	require.EqualValues(t, 1600, s.Stats().Recorded)
}

func TestSpoolOptions(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		dir  string
		opts usage.SpoolOptions
		want string
	}{
		"no dir":   {"", usage.SpoolOptions{}, "dir is empty"},
		"small":    {"x", usage.SpoolOptions{MaxBytes: 5}, "MaxBytes"},
		"batch":    {"x", usage.SpoolOptions{BatchEvents: -1}, "BatchEvents"},
		"interval": {"x", usage.SpoolOptions{SyncInterval: -1}, "SyncInterval"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := usage.OpenSpool(test.dir, &test.opts)
			require.ErrorContains(t, err, test.want)
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := usage.OpenSpool(file, nil)
	require.Error(t, err)
}

func TestRecordRefusesHugeEvents(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), nil)
	e := meteringtest.NewEvent(tenant.NewID())
	e.RequestID = strings.Repeat("x", 2<<20)
	require.Error(t, s.Record(t.Context(), e))
	require.Zero(t, s.Stats().Events)
}

// A directory may be named as a pattern is written.
func TestNameThatIsAPattern(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "shop[1]*?")
	for i := range 3 { // each takes over what is left
		s := open(t, dir, nil)
		require.EqualValues(t, i, s.Stats().Events)
		record(t, s, 1)
		require.NoError(t, s.Close())
	}
}

func TestNoLeaks(t *testing.T) {
	devtest.NoLeaks(t)
	s := open(t, t.TempDir(), nil)
	stop := run(t, s, &meteringtest.Store{})
	record(t, s, 5)
	flush(t, s)
	require.Error(t, s.Close(), "Run has not returned")
	require.Error(t, s.Run(t.Context(), &meteringtest.Store{}), "it runs already")
	stop()
	require.NoError(t, s.Close())
}

func BenchmarkDrain(b *testing.B) {
	s := open(b, b.TempDir(), &usage.SpoolOptions{MaxBytes: 8 << 30})
	record(b, s, b.N)
	b.ResetTimer()
	run(b, s, usage.StoreFunc(func(_ context.Context, e []usage.Event) (int, error) { return len(e), nil }))
	flush(b, s)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
