package usage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Errors of a [Spool].
var (
	// ErrSpoolFull is returned by Record when the spool has reached its size:
	// the event has not been taken.
	ErrSpoolFull = errors.New("usage: spool is full")

	// ErrSpoolClosed is returned by the methods of a closed spool.
	ErrSpoolClosed = errors.New("usage: spool is closed")

	errLocked = errors.New("locked by another process")
)

// maxBuffer is the largest record whose memory is kept for the next one.
const maxBuffer = 4 << 10

// SpoolOptions are the settings of a [Spool]. The zero value works.
type SpoolOptions struct {
	// MaxBytes is how much the events that wait on the disk may take, at least
	// 64 KiB. An event takes about 110 bytes: an hour of 1,000 calls a second,
	// 400 MB. A journal's entry takes about 800, with an idempotency key 1,000: as
	// many calls let through, 3 GB. Defaults to 1 GiB.
	MaxBytes int64

	// SyncInterval is how often the files are forced to the disk. A crash of
	// the machine may lose this much, and what the disk did not take, until Check
	// no longer reports that; a crash of the process loses nothing.
	// Defaults to 1 second.
	SyncInterval time.Duration

	// FlushInterval is how long events may wait to be stored together.
	// Defaults to 100 ms.
	FlushInterval time.Duration

	// BatchEvents is how many events are stored together at most.
	// Defaults to 5,000.
	BatchEvents int

	// AlarmAge is how old an event may get before it is stored, until Check
	// reports it. Defaults to 2 minutes.
	AlarmAge time.Duration

	// DrainTimeout is how long Run goes on storing after its context has
	// ended; what is left then stays on the disk for the next start.
	// Defaults to 5 seconds.
	DrainTimeout time.Duration

	// Logger takes what the operator should know, with the directory as the
	// attribute spool. Nil discards it.
	Logger *slog.Logger

	// Now is the local clock. Defaults to time.Now.
	Now func() time.Time
}

// Spool is the [Sink] on a local disk. Record returns when the event has been
// written to a file: it survives a kill -9 of the process from then on, and a
// crash of the machine after the next sync. [Spool.Run] carries the events into
// a [Store], in batches, and deletes a file once the store has all of it.
//
// Several processes may use the same directory: each has a sub-directory of its
// own, locked for as long as it lives. The events that a dead process left are
// taken over by the next that starts, or by one that runs. But a directory is
// either for usage events or for a journal.
//
// A spool is safe for concurrent use.
type Spool struct {
	dir     string
	kind    kind
	o       SpoolOptions
	segment int64 // size at which a file is ended
	fsync   func(*os.File) error

	mu       sync.Mutex
	own      *slot
	next     uint64 // number of the next file
	active   *segment
	queue    []*segment // what waits, in order; active is the last
	ended    []*segment // written to the end, neither synced nor closed yet
	dirty    bool       // active has been written since the last sync
	created  bool       // a file has been made since the last sync
	closed   bool
	running  bool
	asked    uint64        // flushes asked for
	done     uint64        // flushes that are done
	advanced chan struct{} // closed when done or running changes
	buffer   []byte        // of Record: its memory is used again
	oldest   time.Time     // of the oldest event that waits; zero if none does
	full     bool          // the last Record was refused for want of room
	writeErr error         // of the last Record
	storeErr error         // of the last Append
	syncErr  error         // of the last sync, or of one whose events are still in doubt
	stats    SpoolStats

	wake  chan struct{} // an event has come
	flush chan struct{} // a flush has been asked for
}

var _ Sink = (*Spool)(nil)

// OpenSpool opens or makes the spool in dir, takes over what dead processes
// left there, and repairs what a crash left half written. Nil opts mean the
// defaults. Close it in the end.
func OpenSpool(dir string, opts *SpoolOptions) (*Spool, error) {
	return openSpool(dir, usageEvents, opts)
}

// OpenJournal is OpenSpool for the journal of a metering.Meter, whose entries are
// no usage. It refuses a directory of usage events, as OpenSpool does one of
// journals.
func OpenJournal(dir string, opts *SpoolOptions) (*Spool, error) {
	return openSpool(dir, journalEntries, opts)
}

// IsJournal reports whether OpenJournal has opened s.
func (s *Spool) IsJournal() bool { return s != nil && s.kind == journalEntries }

func openSpool(dir string, k kind, opts *SpoolOptions) (*Spool, error) {
	if opts == nil {
		opts = &SpoolOptions{}
	}
	o := *opts
	o.setDefaults()
	if err := o.validate(dir); err != nil {
		return nil, fmt.Errorf("usage: configure spool: %w", err)
	}
	o.Logger = o.Logger.With(slog.String("spool", dir))
	s := &Spool{
		dir: dir, o: o, segment: min(4<<20, o.MaxBytes/8), fsync: (*os.File).Sync, next: 1,
		advanced: make(chan struct{}), wake: make(chan struct{}, 1), flush: make(chan struct{}, 1),
		kind: k,
	}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("usage: open spool of %s: %w", k.holds, err)
	}
	return s, nil
}

func (o *SpoolOptions) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.SyncInterval, time.Second)
	def(&o.FlushInterval, 100*time.Millisecond)
	def(&o.AlarmAge, 2*time.Minute)
	def(&o.DrainTimeout, 5*time.Second)
	if o.MaxBytes == 0 {
		o.MaxBytes = 1 << 30
	}
	if o.BatchEvents == 0 {
		o.BatchEvents = 5_000
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

func (o *SpoolOptions) validate(dir string) error {
	var errs []error
	if dir == "" {
		errs = append(errs, errors.New("dir is empty"))
	}
	if o.MaxBytes < 64<<10 {
		errs = append(errs, fmt.Errorf("MaxBytes: %d is less than 64 KiB", o.MaxBytes))
	}
	if o.BatchEvents < 1 {
		errs = append(errs, fmt.Errorf("BatchEvents: %d is not positive", o.BatchEvents))
	}
	for field, d := range map[string]time.Duration{
		"SyncInterval": o.SyncInterval, "FlushInterval": o.FlushInterval, "AlarmAge": o.AlarmAge, "DrainTimeout": o.DrainTimeout,
	} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s: %v is negative", field, d))
		}
	}
	return errors.Join(errs...)
}

// Record implements [Sink] by one write to a file. It returns [ErrSpoolFull]
// when MaxBytes are waiting, and an error when the event is not valid or the disk
// does not take it; an event that was refused is not in the spool.
func (s *Spool) Record(ctx context.Context, e Event) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrSpoolClosed
	}
	if s.kind == usageEvents {
		if err := e.Validate(); err != nil {
			return err
		}
	}
	record, err := appendRecord(s.buffer[:0], e)
	if err != nil {
		return fmt.Errorf("usage: encode event %.40q: %w", e.ID, err)
	}
	if cap(record) <= maxBuffer {
		s.buffer = record
	}
	if s.stats.Bytes+int64(len(record)) > s.o.MaxBytes {
		s.stats.Refused++
		s.full = true
		return ErrSpoolFull
	}
	s.full = false
	if s.writeErr = s.write(record); s.writeErr != nil {
		s.stats.Refused++
		return fmt.Errorf("usage: write event %s: %w", e.ID, s.writeErr)
	}
	s.stats.Recorded++
	s.stats.Events++
	s.active.events++
	if s.oldest.IsZero() {
		s.oldest = s.o.Now()
	}
	signal(s.wake)
	return nil
}

// Ready tells why Record would not take an event: the spool is closed, less than
// 4 KiB are left, or the disk did not take the last one. That it does again only
// Record shows: a Meter calls it for the call that it refuses.
func (s *Spool) Ready(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrSpoolClosed
	case s.short():
		return ErrSpoolFull
	case s.writeErr != nil:
		return fmt.Errorf("usage: write event: %w", s.writeErr)
	}
	return nil
}

// short reports that there may be no room for an event.
func (s *Spool) short() bool { return s.stats.Bytes+maxBuffer > s.o.MaxBytes }

// write appends a record to the active file, or to a new one.
func (s *Spool) write(record []byte) error {
	if s.active == nil || s.active.size+int64(len(record)) > s.segment {
		if err := s.rotate(); err != nil {
			return err
		}
	}
	a := s.active
	if _, err := a.file.Write(record); err != nil {
		// Part of the record may be there. The event is going to be reported
		// as refused, so no part of it may come back.
		if terr := a.file.Truncate(a.size); terr != nil {
			s.seal() // what is read of the file ends before the part
		}
		return err
	}
	a.size += int64(len(record))
	s.stats.Bytes += int64(len(record))
	s.dirty = true
	return nil
}

// rotate ends the active file and begins another.
func (s *Spool) rotate() error {
	next, err := s.own.create(s.next)
	if err != nil {
		return err
	}
	s.seal()
	s.next++
	s.active, s.created, s.dirty = next, true, true
	s.queue = append(s.queue, next)
	s.stats.Bytes += next.size
	return nil
}

// seal ends the active file.
func (s *Spool) seal() {
	if s.active != nil {
		s.ended = append(s.ended, s.active)
		s.active = nil
	}
}

// Close ends the spool. Events that have not been stored stay on the disk for
// the next process. Run must have returned.
func (s *Spool) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrSpoolClosed
	}
	if s.running {
		s.mu.Unlock()
		return errors.New("usage: close spool: Run has not returned")
	}
	s.closed = true
	s.seal()
	s.mu.Unlock()

	errs := []error{s.sync()}
	for _, seg := range s.queue {
		if seg.events == 0 {
			errs = append(errs, os.Remove(seg.path))
		}
	}
	slots := map[*slot]bool{s.own: true}
	for _, seg := range s.queue {
		slots[seg.slot] = true
	}
	for slot := range slots {
		errs = append(errs, slot.lock.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("usage: close spool: %w", err)
	}
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
