package pgmigrate

import (
	"errors"
	"fmt"
)

// ErrChanged is matched by errors that say that a file which was applied is no
// longer the same, or is gone.
var ErrChanged = errors.New("an applied migration was changed")

// ErrOutOfOrder is matched by errors that say that a file is older than one
// that was applied already: it would run on some databases after its
// successors and on others before them.
var ErrOutOfOrder = errors.New("a migration is older than one that was applied")

// record is what a ledger says of one file.
type record struct {
	version        int64
	name, checksum string
	at             string // when it was applied; empty: it wasn't, an attempt failed or was cut short
	statements     int    // how many of an unapplied file's are done
	running        bool   // whether the one after them was begun, and nobody knows how it ended
}

// plan compares what was applied with what is wanted, and returns the files
// that are left to apply.
func plan(records []record, wanted []File) ([]File, error) {
	applied := make(map[int64]record, len(records))
	var newest int64
	for _, r := range records {
		if r.at != "" {
			applied[r.version] = r
			newest = max(newest, r.version)
		}
	}
	known := make(map[int64]bool, len(wanted))
	var todo []File
	for _, f := range wanted {
		known[f.Version] = true
		got, ok := applied[f.Version]
		switch {
		case !ok && f.Version < newest:
			return nil, fmt.Errorf("%s, newest applied version %d: %w", f.Name, newest, ErrOutOfOrder)
		case !ok:
			todo = append(todo, f)
		case got.checksum != f.Checksum:
			return nil, fmt.Errorf("%s differs from %s, applied %s: %w", f.Name, got.name, got.at, ErrChanged)
		}
	}
	last := wanted[len(wanted)-1].Version
	for version, got := range applied {
		if version < last && !known[version] {
			return nil, fmt.Errorf("%s is missing: %w", got.name, ErrChanged)
		}
	}
	return todo, nil
}
