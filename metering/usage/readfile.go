package usage

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
)

// ReadFile yields the events in a file: one of a [Spool], also one that was set
// aside as damaged, up to where it is; or JSON lines, as of an archive. It
// changes nothing, and ends after the first error. For whoever brings events to a
// [Store] that were left behind.
func ReadFile(path string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		f, err := os.Open(path)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer f.Close()
		head := make([]byte, len(magic))
		n, err := io.ReadFull(f, head)
		switch {
		case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			yield(Event{}, err)
		case string(head[:n]) == magic:
			readSegment(f, yield)
		default:
			readLines(io.MultiReader(bytes.NewReader(head[:n]), f), yield)
		}
	}
}

func readSegment(f *os.File, yield func(Event, error) bool) {
	info, err := f.Stat()
	if err != nil {
		yield(Event{}, err)
		return
	}
	r := &recordReader{r: f, offset: int64(len(magic)), size: info.Size()}
	for {
		var e Event
		at := r.offset
		payload, err := r.next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			err = e.UnmarshalBinary(payload)
		}
		if errors.Is(err, errBroken) {
			rest := make([]byte, min(info.Size()-at, maxRecord+recordHeader))
			if _, e := f.ReadAt(rest, at); e == nil && isTorn(rest) {
				return // a process was killed while it wrote: nobody was told of this one
			}
		}
		if err != nil {
			yield(Event{}, fmt.Errorf("record at byte %d: %w", at, err))
			return
		}
		if !yield(e, nil) {
			return
		}
	}
}

func readLines(r io.Reader, yield func(Event, error) bool) {
	in := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			yield(Event{}, err)
			return
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			var e Event
			if err := json.Unmarshal(line, &e); err != nil {
				yield(Event{}, fmt.Errorf("line %d: %w", n, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
		if last {
			return
		}
	}
}
