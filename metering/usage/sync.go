package usage

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"
)

func (s *Spool) keepSyncing(ctx context.Context) {
	tick := time.NewTicker(max(s.o.SyncInterval, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return // Close syncs the last of it
		}
		if err := s.sync(); err != nil {
			s.o.Logger.Error("spool not synced to disk", slog.Any("err", err))
		}
	}
}

// sync forces what has been written to the disk. It is not called twice at once.
//
// A file that it could not force is ended, and in doubt until the store has all of
// it. Another fsync would prove nothing: after a failure the kernel may take the
// pages for clean, and succeeds the next time though the data is lost (see
// data_sync_retry in the documentation of PostgreSQL, which stops rather than try
// again). Nor would a copy: what a file is read as then, the old or the new, is up
// to the file system (Rebello et al., "Can Applications Recover from fsync
// Failures?", USENIX ATC 2020). What the store has is safe wherever it was read,
// since each record has its checksum.
func (s *Spool) sync() error {
	s.mu.Lock()
	files, ended, created := s.ended, len(s.ended), s.created
	if s.active != nil && s.dirty {
		files = append(files, s.active) // stays open: only sync closes files, once they are ended
	}
	s.ended, s.dirty, s.created = nil, false, false
	s.mu.Unlock()

	var names error
	if created {
		names = s.syncNames()
	}
	errs := []error{names}
	var doubtful []*segment
	for i, seg := range files {
		err := s.fsync(seg.file)
		if i < ended {
			err = errors.Join(err, seg.file.Close())
		}
		if err != nil || names != nil {
			doubtful = append(doubtful, seg)
		}
		errs = append(errs, err)
	}

	err := errors.Join(errs...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seg := range doubtful {
		seg.doubt = true
		if seg == s.active {
			s.seal() // what comes next can be proven again
		}
		signal(s.wake) // it may be stored already, and only be deleted now
	}
	if err != nil || !slices.ContainsFunc(s.queue, func(seg *segment) bool { return seg.doubt }) {
		s.syncErr = err
	}
	return err
}

// force forces a file to the disk that another process wrote.
func (s *Spool) force(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.fsync(f)
}

// syncNames forces the names of this process' files to the disk, where directories
// can be synced.
func (s *Spool) syncNames() error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(s.own.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := s.fsync(d); !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}
