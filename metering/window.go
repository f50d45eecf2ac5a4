package metering

import (
	"slices"
	"time"
)

// window is a sliding window that remembers runs of calls as one entry. An
// entry counts until its last call is a whole window old, so that no window
// ever holds more than was admitted, and a unit is released late by at most
// the length of a run.
type window struct {
	entries []entry // in order of time; the last one may still grow
	sum     int64
	length  time.Duration
}

type entry struct {
	start, last time.Time
	units       int64
}

// prune drops the entries that have left the window at now.
func (w *window) prune(now time.Time, length time.Duration) {
	n := 0
	for n < len(w.entries) && !w.entries[n].last.After(now.Add(-length)) {
		w.sum -= w.entries[n].units
		n++
	}
	w.entries = slices.Delete(w.entries, 0, n)
}

func (w *window) used(now time.Time, length time.Duration) int64 {
	w.prune(now, length)
	return w.sum
}

// add adds units at now that may be spent until ahead later.
func (w *window) add(now time.Time, ahead time.Duration, units int64, resolution time.Duration) {
	w.sum += units
	last := now.Add(ahead)
	if n := len(w.entries); n > 0 {
		e := &w.entries[n-1]
		if last.Before(e.last) {
			last = e.last // also if the clock steps back: that releases late, never early
		}
		if e.units == 0 && now.After(e.start) {
			e.start = now
		}
		if now.Sub(e.start) < resolution {
			e.last = last
			e.units += units
			return
		}
	}
	w.entries = append(w.entries, entry{start: now, last: last, units: units})
}

// sub takes units out of the entry that holds the calls of the time at, or what
// was lent then for so long ahead. Taking them out of a later entry instead
// would release them too early.
func (w *window) sub(at time.Time, ahead time.Duration, units int64) {
	for i := range w.entries {
		if e := &w.entries[i]; !e.last.Before(at.Add(ahead)) {
			if e.start.After(at) {
				return // the entry of that time has left the window
			}
			units = min(units, e.units)
			w.sum -= units
			if e.units -= units; e.units == 0 && i < len(w.entries)-1 {
				w.entries = slices.Delete(w.entries, i, i+1)
			}
			return
		}
	}
}

// retryAfter is how long it takes until missing units have left the window.
func (w *window) retryAfter(now time.Time, length time.Duration, missing int64) time.Duration {
	for _, e := range w.entries {
		if missing -= e.units; missing <= 0 {
			return e.last.Add(length).Sub(now)
		}
	}
	return length
}
