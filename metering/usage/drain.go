package usage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 10 * time.Second
	adoptEvery   = 10 * time.Second
)

// Run carries events into store, until ctx ends; then once more within
// DrainTimeout, and returns nil. Events are stored again when store returned an
// error after it had stored, and after a crash: who takes over the file that a
// process was at begins at its start, so that all of its events come again, 4 MiB
// (an eighth of MaxBytes, if that is less) or some 50,000. So store must be
// idempotent by Event.ID. While store fails, events wait on the disk and are tried again, at
// most 10 seconds apart. Only one Run may be active.
func (s *Spool) Run(ctx context.Context, store Store) error {
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return ErrSpoolClosed
	case s.running:
		s.mu.Unlock()
		return errors.New("usage: run spool: it is running already")
	}
	s.running = true
	s.mu.Unlock()
	defer s.advance(func() { s.running = false })

	syncing, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx for the last drain
	var syncer sync.WaitGroup
	syncer.Go(func() { s.keepSyncing(syncing) })
	defer func() {
		stop()
		syncer.Wait()
	}()

	s.keepDraining(ctx, store)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.DrainTimeout)
	defer cancel()
	if err := s.drain(last, store); err != nil {
		s.o.Logger.Warn(s.kind.holds+" stay in the spool", slog.Int64("events", s.Stats().Events), slog.Any("err", err))
	}
	return nil
}

// Flush waits until every event recorded so far is stored. Run must be active.
func (s *Spool) Flush(ctx context.Context) error {
	s.mu.Lock()
	s.asked++
	mine := s.asked
	s.mu.Unlock()
	signal(s.flush)
	for {
		s.mu.Lock()
		done, running, advanced := s.done >= mine, s.running, s.advanced
		s.mu.Unlock()
		switch {
		case done:
			return nil
		case !running:
			return errors.New("usage: flush spool: Run is not active")
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			s.mu.Lock()
			defer s.mu.Unlock()
			return fmt.Errorf("usage: flush spool: %w", errors.Join(ctx.Err(), s.storeErr))
		}
	}
}

func (s *Spool) advance(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.advanced)
	s.advanced = make(chan struct{})
}

func (s *Spool) keepDraining(ctx context.Context, store Store) {
	adopt := time.NewTicker(adoptEvery)
	defer adopt.Stop()
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		before := s.Stats().Stored
		err := s.drain(ctx, store)
		if err != nil && ctx.Err() == nil {
			if s.Stats().Stored > before {
				backoff = 0
			}
			if backoff == 0 {
				s.o.Logger.Error(s.kind.holds+" not stored, they wait in the spool", slog.Any("err", err))
			}
			backoff = min(max(2*backoff, firstBackoff), lastBackoff)
			s.pause(ctx, backoff)
			continue
		}
		if backoff > 0 {
			s.o.Logger.Info(s.kind.holds + " are stored again")
		}
		backoff = 0
		select {
		case <-s.wake:
			s.pause(ctx, s.o.FlushInterval)
		case <-s.flush:
		case <-adopt.C:
			if err := s.adopt(); err != nil {
				s.o.Logger.Error("spool of a dead process not taken over", slog.Any("err", err))
			}
		case <-ctx.Done():
		}
	}
}

// pause waits for d, for a flush or for the end.
func (s *Spool) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.flush:
	case <-ctx.Done():
	}
}

// drain stores all that waits.
func (s *Spool) drain(ctx context.Context, store Store) error {
	s.mu.Lock()
	asked := s.asked
	s.mu.Unlock()
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.mu.Unlock()
			break
		}
		seg := s.queue[0]
		size, ended := seg.size, seg != s.active
		s.mu.Unlock()

		if seg.read == size {
			if !ended {
				break
			}
			if err := s.drop(seg); err != nil {
				return err
			}
			continue
		}
		if err := s.drainSegment(ctx, store, seg, size); err != nil {
			return err
		}
	}
	s.advance(func() { s.done = asked })
	return nil
}

// drainSegment stores the events of seg up to offset size.
func (s *Spool) drainSegment(ctx context.Context, store Store, seg *segment, size int64) error {
	f, err := os.Open(seg.path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := &recordReader{r: f, offset: seg.read, size: size}
	for r.offset < size {
		s.mu.Lock()
		waiting := seg.events
		s.mu.Unlock()
		// Most drains find few events: a full batch's memory would be most of
		// what a call allocates here.
		batch := make([]Event, 0, min(s.o.BatchEvents, int(waiting)))
		for len(batch) < s.o.BatchEvents {
			payload, err := r.next()
			if errors.Is(err, io.EOF) {
				break
			}
			var e Event
			if err == nil {
				err = e.UnmarshalBinary(payload)
			}
			if err != nil {
				return fmt.Errorf("read %s at %d: %w", seg.path, r.offset, err)
			}
			batch = append(batch, e)
		}
		s.mu.Lock()
		s.oldest = batch[0].Time
		s.mu.Unlock()
		_, err := store.Append(ctx, batch)
		s.mu.Lock()
		if s.storeErr = err; err == nil {
			seg.read = r.offset
			seg.events -= int64(len(batch))
			s.stats.Events -= int64(len(batch))
			s.stats.Stored += int64(len(batch))
			s.oldest = batch[len(batch)-1].Time
			if s.stats.Events == 0 {
				s.oldest = time.Time{}
			}
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// drop deletes a segment that the store has all of.
func (s *Spool) drop(seg *segment) error {
	if err := os.Remove(seg.path); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = s.queue[1:]
	s.stats.Bytes -= seg.size
	if seg.slot != s.own {
		for _, other := range s.queue {
			if other.slot == seg.slot {
				return nil
			}
		}
		return seg.slot.lock.Close()
	}
	return nil
}
