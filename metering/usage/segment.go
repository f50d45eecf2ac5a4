package usage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	segmentSuffix = ".events"
	badSuffix     = ".bad"
)

// kind is what a spool keeps. The sub-directories of its processes are named after
// it: what one kind has left is never taken for the other.
type kind struct{ slots, holds string }

var (
	usageEvents    = kind{"spool", "usage events"}
	journalEntries = kind{"journal", "journal entries"}
)

// pattern matches the names of the sub-directories.
func (k kind) pattern() string { return k.slots + "-[0-9]*" }

// slot is the sub-directory of one process.
type slot struct {
	dir  string
	lock *os.File
}

// segment is a file of records.
type segment struct {
	slot   *slot
	path   string
	file   *os.File // for writing; nil if another process wrote it
	size   int64    // bytes of whole records
	read   int64    // offset up to which the store has the events
	events int64    // events that the store has not got
	doubt  bool     // the disk may not have it: see sync
}

// open takes a slot of its own, and over what waits in it and in those of dead
// processes.
func (s *Spool) open() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if err := s.checkKind(); err != nil {
		return err
	}
	for i := 0; s.own == nil; i++ {
		own, err := lockSlot(filepath.Join(s.dir, fmt.Sprintf("%s-%04d", s.kind.slots, i)))
		if errors.Is(err, errLocked) {
			continue
		}
		if err != nil {
			return err
		}
		s.own = own
	}
	err := s.takeOver(s.own)
	if err == nil {
		err = s.adopt()
	}
	if err != nil {
		s.own.lock.Close()
	}
	return err
}

// checkKind refuses a directory that is the other kind's.
func (s *Spool) checkKind() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, other := range []kind{usageEvents, journalEntries} {
		for _, entry := range entries {
			if is, _ := filepath.Match(other.pattern(), entry.Name()); is && other != s.kind {
				return fmt.Errorf("%s is for %s, as %s in it shows: %s need a directory of their own", s.dir, other.holds, entry.Name(), s.kind.holds)
			}
		}
	}
	return nil
}

func lockSlot(dir string) (*slot, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	return &slot{dir: dir, lock: lock}, nil
}

// glob returns the paths below dir that match, whatever characters dir has itself.
func glob(dir, pattern string) ([]string, error) {
	paths, err := fs.Glob(os.DirFS(dir), pattern)
	for i, path := range paths {
		paths[i] = filepath.Join(dir, path)
	}
	return paths, err
}

// adopt takes over what dead processes have left.
func (s *Spool) adopt() error {
	dirs, err := glob(s.dir, s.kind.pattern())
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		if left, err := glob(dir, "*"+segmentSuffix); err != nil || len(left) == 0 || dir == s.own.dir {
			continue
		}
		sl, err := lockSlot(dir)
		if errors.Is(err, errLocked) {
			continue // its process lives, or another has taken it over
		}
		if err == nil {
			err = s.takeOver(sl)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// takeOver puts the segments of a locked slot into the queue, before what this
// process writes itself. It ends the lock if there are none, and it is not our
// own.
func (s *Spool) takeOver(sl *slot) error {
	paths, err := glob(sl.dir, "*"+segmentSuffix)
	if err != nil {
		return err
	}
	slices.Sort(paths)
	var found []*segment
	var first time.Time
	var forced error
	for _, path := range paths {
		seg, from, err := s.scan(sl, path)
		if err != nil {
			if sl != s.own {
				sl.lock.Close()
			}
			return err
		}
		if first.IsZero() {
			first = from
		}
		// Its process may have died before it forced the last of it to the disk.
		if err := s.force(path); err != nil {
			seg.doubt, forced = true, err
		}
		found = append(found, seg)
	}
	if len(found) == 0 && sl != s.own {
		return sl.lock.Close()
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(found, s.queue...)
	if forced != nil {
		s.syncErr = forced
	}
	for _, seg := range found {
		s.stats.Events += seg.events
		s.stats.Bytes += seg.size
	}
	if !first.IsZero() && (s.oldest.IsZero() || first.Before(s.oldest)) {
		s.oldest = first
	}
	if sl == s.own && len(paths) > 0 {
		fmt.Sscanf(filepath.Base(paths[len(paths)-1]), "%d", &s.next)
		s.next++
	}
	return nil
}

// scan reads a segment that another process wrote, cuts off the record that it
// may have been killed in, and returns the time of its first event.
func (s *Spool) scan(sl *slot, path string) (_ *segment, first time.Time, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, first, err
	}
	seg := &segment{slot: sl, path: path, size: int64(len(content)), read: int64(len(magic))}
	r := &recordReader{r: bytes.NewReader(content), offset: seg.read, size: seg.size}
	err = errBroken
	if strings.HasPrefix(string(content), magic) {
		for err = nil; err == nil; {
			var payload []byte
			if payload, err = r.next(); err != nil {
				break
			}
			if seg.events++; first.IsZero() {
				var e Event
				if e.UnmarshalBinary(payload) == nil {
					first = e.Time
				}
			}
		}
	} else {
		r.offset = 0
	}
	if errors.Is(err, io.EOF) {
		return seg, first, nil
	}

	rest := content[min(r.offset, seg.size):]
	cut := isTorn(rest)
	s.mu.Lock()
	if cut {
		s.stats.Torn++
	} else {
		s.stats.Damaged++
	}
	s.mu.Unlock()
	if !cut {
		// Events that were acknowledged are in there, or were. A copy waits for
		// a person; what comes before is stored.
		s.o.Logger.Error("spool file is damaged, a copy is kept", slog.String("file", path), slog.Int64("offset", r.offset))
		if err := os.WriteFile(path+badSuffix, content, 0o600); err != nil {
			return nil, first, err
		}
	}
	if seg.size = r.offset; r.offset == 0 {
		seg.size = seg.read
		return seg, first, os.WriteFile(path, []byte(magic), 0o600)
	}
	return seg, first, os.Truncate(path, seg.size)
}

// isTorn reports whether what follows the last whole record of a file is what a
// process leaves that was killed while it wrote: the beginning of one record,
// which nobody was told of, or space that was never filled.
func isTorn(rest []byte) bool {
	if len(bytes.Trim(rest, "\x00")) == 0 {
		return true
	}
	if strings.HasPrefix(magic, string(rest)) {
		return true
	}
	if len(rest) < recordHeader {
		return true
	}
	n := int64(binary.BigEndian.Uint32(rest))
	if n == 0 || n > maxRecord || recordHeader+n <= int64(len(rest)) {
		return false
	}
	// The length itself may be what is damaged: then whole records follow.
	for i := 1; i < len(rest)-recordHeader; i++ {
		r := &recordReader{r: bytes.NewReader(rest), offset: int64(i), size: int64(len(rest)), buf: rest[i:]}
		if rest[i+recordHeader] != binaryForm {
			continue
		}
		if _, err := r.next(); err == nil {
			return false
		}
	}
	return true
}

// create makes the file with the given number. Its name survives a crash of the
// machine after syncNames: to wait for that here would hold up every call meanwhile.
func (sl *slot) create(number uint64) (*segment, error) {
	path := filepath.Join(sl.dir, fmt.Sprintf("%012d%s", number, segmentSuffix))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteString(magic); err != nil {
		f.Close()
		os.Remove(path)
		return nil, err
	}
	return &segment{slot: sl, path: path, file: f, size: int64(len(magic)), read: int64(len(magic))}, nil
}
