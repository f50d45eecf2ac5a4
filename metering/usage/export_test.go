package usage

import "os"

// SetFsync replaces what forces a file or a directory to the disk. Call it before
// anything is recorded.
func (s *Spool) SetFsync(f func(*os.File) error) { s.fsync = f }

// Adopt is what Run does now and then.
func (s *Spool) Adopt() error { return s.adopt() }

// Sync is what Run does each SyncInterval.
func (s *Spool) Sync() error { return s.sync() }
