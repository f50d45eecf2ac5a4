package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy"
)

// progressLine shows how far a migration or a move is: on a terminal as one line that
// changes in place, elsewhere as a line every few seconds and one per failure.
type progressLine struct {
	w     io.Writer
	live  bool
	quiet bool

	shown bool              // whether there is a line to end
	last  time.Duration     // when the last one was printed
	state tenancy.MoveState // of the last one
}

// progressEvery is how often a line is printed where it can't change in place.
const progressEvery = 5 * time.Second

func (l *progressLine) show(p tenancy.MigrationProgress) {
	if l.quiet {
		return
	}
	failed := p.Last != nil && p.Last.State == tenancy.MigrationFailed
	if failed {
		l.end()
		fmt.Fprintln(l.w, p.Last.Err)
	}
	text := fmt.Sprintf("%d of %d schemas", p.Done+p.Failed, p.Total)
	if p.Failed > 0 {
		text += fmt.Sprintf(", %d failed", p.Failed)
	}
	finished := p.Done+p.Failed == p.Total
	if p.Canary && !finished {
		text += " (canaries)"
	}
	l.print(text, p.Elapsed, finished || failed)
}

func (l *progressLine) showMove(p tenancy.MoveProgress) {
	text := strings.ReplaceAll(string(p.State), "_", " ")
	switch {
	case p.Total > 0:
		text += fmt.Sprintf(": %d of %d rows", p.Rows, p.Total)
	case p.Rows > 0:
		text += fmt.Sprintf(": %d rows", p.Rows)
	}
	if p.Changes > 0 {
		text += fmt.Sprintf(", %d written meanwhile", p.Changes)
	}
	l.print(text, p.Elapsed, p.State != l.state)
	l.state = p.State
}

// print shows a text in place of the last one, or below it if it is time or there
// is news.
func (l *progressLine) print(text string, elapsed time.Duration, news bool) {
	if l.quiet {
		return
	}
	if seconds := elapsed.Seconds(); seconds >= 1 {
		text += fmt.Sprintf(", %.0fs", seconds)
	}
	switch {
	case l.live:
		fmt.Fprint(l.w, "\r\x1b[K"+text)
		l.shown = true
	case news || elapsed-l.last >= progressEvery:
		fmt.Fprintln(l.w, text)
		l.last = elapsed
	}
}

// end leaves the line as it is and begins a new one.
func (l *progressLine) end() {
	if l.shown {
		fmt.Fprintln(l.w)
	}
	l.shown = false
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
