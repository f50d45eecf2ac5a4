package usage

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// SpoolStats are the counts of a [Spool]: what waits now, and what has
// happened since it was opened.
type SpoolStats struct {
	Events    int64         // events that wait to be stored
	Bytes     int64         // size of the files
	OldestAge time.Duration // age of the oldest event that waits

	Recorded int64 // events taken by Record
	Stored   int64 // events taken by the store, repeated ones too
	Refused  int64 // events not taken: the spool was full, or the disk failed
	Torn     int64 // files that ended in a record that was never acknowledged
	Damaged  int64 // files with damage before their end: see Check
}

// Stats returns the counts.
func (s *Spool) Stats() SpoolStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	if !s.oldest.IsZero() {
		stats.OldestAge = max(0, s.o.Now().Sub(s.oldest))
	}
	return stats
}

// Check reports, for a health check, that the disk does not take events, or did
// not keep some that the store has not got yet, so that a crash of the machine
// may lose them; that the spool is full, as Ready and Record say it, that an event
// has waited for longer than AlarmAge, or that a file was damaged: its copy, named
// *.bad, holds events that a person has to look at, and is to be moved away then.
// That the spool is at least 80 % full is an error too, but alone it has a method
// HealthDegraded() bool: nothing is refused yet.
func (s *Spool) Check(context.Context) error {
	stats := s.Stats()
	s.mu.Lock()
	closed, full, writeErr, syncErr, storeErr := s.closed, s.full || s.short(), s.writeErr, s.syncErr, s.storeErr
	s.mu.Unlock()
	if closed {
		return ErrSpoolClosed
	}
	var errs []error
	if writeErr != nil {
		errs = append(errs, fmt.Errorf("last event not written: %w", writeErr))
	}
	if syncErr != nil {
		errs = append(errs, fmt.Errorf("events not synced, nor all of them stored yet: %w", syncErr))
	}
	if stats.OldestAge > s.o.AlarmAge {
		errs = append(errs, fmt.Errorf("%d events wait, the oldest for %v", stats.Events, stats.OldestAge.Round(time.Second)))
		if storeErr != nil {
			errs = append(errs, fmt.Errorf("last events not stored: %w", storeErr))
		}
	}
	if bad, _ := glob(s.dir, s.kind.pattern()+"/*"+badSuffix); len(bad) > 0 {
		errs = append(errs, fmt.Errorf("%d damaged files", len(bad)))
	}
	degraded := false
	if stats.Bytes >= s.o.MaxBytes/5*4 {
		err := fmt.Errorf("%d of %d bytes are used", stats.Bytes, s.o.MaxBytes)
		if full {
			err = fmt.Errorf("events are refused: %w", err)
		}
		degraded = len(errs) == 0 && !full
		errs = append(errs, err)
	}
	switch err := errors.Join(errs...); {
	case err == nil:
		return nil
	case degraded:
		return degradedError{fmt.Errorf("usage: check spool: %w", err)}
	default:
		return fmt.Errorf("usage: check spool: %w", err)
	}
}

// degradedError is how package health, which this one does not import, knows
// that something works, but not as it should.
type degradedError struct{ error }

func (e degradedError) Unwrap() error        { return e.error }
func (e degradedError) HealthDegraded() bool { return true }
