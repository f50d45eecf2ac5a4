// Package filebill is a [billing.Reporter] that writes what would be billed to a
// file, one JSON object a line: for development, and for whoever makes invoices
// out of a file.
//
//	reporter, err := filebill.Open("usage.jsonl")
//	...
//	defer reporter.Close()
//
// A line is on disk when a report is accepted, and a batch is written once,
// however often it is reported and whenever the process was killed in between.
package filebill

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Provider is the name of this provider in billing.Target.
const Provider = "file"

// Line is a line of the file: a batch of usage, or, if Voids is set, that an
// earlier one was taken back.
type Line struct {
	ID          string       `json:"id,omitempty"`
	Voids       string       `json:"voids,omitempty"`
	Tenant      tenant.ID    `json:"tenant,omitzero"`
	Customer    string       `json:"customer,omitempty"`
	Mode        billing.Mode `json:"mode,omitempty"`
	Meter       string       `json:"meter,omitempty"`
	Item        string       `json:"item,omitempty"`
	Quantity    int64        `json:"quantity,omitempty"`
	Slot        time.Time    `json:"slot,omitzero"`
	PeriodStart time.Time    `json:"period_start,omitzero"`
	PeriodEnd   time.Time    `json:"period_end,omitzero"`
}

// Reporter writes to one file. It is safe for concurrent use, and so is the file
// for several processes on one machine.
type Reporter struct {
	mu    sync.Mutex
	file  *os.File
	read  int64 // up to where
	torn  bool  // a line that is cut short follows there
	lines map[string]Line
	void  map[string]bool
}

var (
	_ billing.Reporter = (*Reporter)(nil)
	_ billing.Totaler  = (*Reporter)(nil)
	_ billing.Voider   = (*Reporter)(nil)
)

// Open opens the file, or makes it, and reads what it has. A line that a crash has
// cut short is passed over: it was never accepted. Any other that can't be read
// is an error.
func Open(path string) (*Reporter, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("filebill: %w", err)
	}
	r := &Reporter{file: f, lines: make(map[string]Line), void: make(map[string]bool)}
	if err := r.catchUp(); err != nil {
		f.Close()
		return nil, fmt.Errorf("filebill: read %s: %w", path, err)
	}
	return r, nil
}

// catchUp reads the lines that were added since it last did.
func (r *Reporter) catchUp() error {
	in := bufio.NewReader(io.NewSectionReader(r.file, r.read, math.MaxInt64-r.read))
	for {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			r.torn = len(text) > 0
			return nil
		}
		if err != nil {
			return err
		}
		var l Line
		err = json.Unmarshal(text[:len(text)-1], &l)
		if err != nil && !cutShort(err) {
			return fmt.Errorf("line at byte %d: %w", r.read, err)
		}
		r.read += int64(len(text))
		if err == nil {
			r.keep(l)
		}
	}
}

// cutShort recognises the beginning of a line.
func cutShort(err error) bool {
	e, ok := errors.AsType[*json.SyntaxError](err)
	return ok && e.Error() == "unexpected end of JSON input"
}

func (r *Reporter) keep(l Line) {
	if l.Voids != "" {
		r.void[l.Voids] = true
		return
	}
	r.lines[l.ID] = l
}

// Close closes the file. Reports after it fail.
func (r *Reporter) Close() error { return r.file.Close() }

// Caps has next to no limits: a file forgets nothing, and takes everything.
func (r *Reporter) Caps(billing.Target) billing.Caps {
	const ever = 100 * 365 * 24 * time.Hour
	return billing.Caps{DedupeWindow: ever, SlotGranularity: time.Second, VerifyWindow: time.Second, LateGrace: ever, VoidWindow: ever}
}

// Report implements [billing.Reporter].
func (r *Reporter) Report(ctx context.Context, d billing.Delivery) (billing.Receipt, error) {
	if err := check(ctx, d); err != nil {
		return billing.Receipt{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.catchUp(); err != nil {
		return billing.Receipt{Reason: err.Error()}, nil
	}
	if _, ok := r.lines[d.ID]; ok {
		return r.again(), nil
	}
	t := d.Target
	return r.write(Line{
		ID: d.ID, Tenant: t.Tenant, Customer: t.Customer, Mode: t.Mode, Meter: t.Meter, Item: t.Item,
		Quantity: d.Quantity, Slot: d.Slot.UTC(), PeriodStart: d.PeriodStart.UTC(), PeriodEnd: d.PeriodEnd.UTC(),
	}), nil
}

// Void implements [billing.Voider].
func (r *Reporter) Void(ctx context.Context, d billing.Delivery) (billing.Receipt, error) {
	if err := check(ctx, d); err != nil {
		return billing.Receipt{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.catchUp(); err != nil {
		return billing.Receipt{Reason: err.Error()}, nil
	}
	switch _, ok := r.lines[d.ID]; {
	case !ok:
		return billing.Receipt{Result: billing.Rejected, Reason: "filebill: the file has no such batch"}, nil
	case r.void[d.ID]:
		return r.again(), nil
	}
	return r.write(Line{Voids: d.ID}), nil
}

// write appends a line, in one piece. Whatever a failure leaves of it is found by
// the next call, whole, and then it counts, or cut short.
func (r *Reporter) write(l Line) billing.Receipt {
	var text bytes.Buffer
	if r.torn {
		text.WriteByte('\n')
	}
	err := json.NewEncoder(&text).Encode(l)
	if err == nil {
		_, err = r.file.Write(text.Bytes())
	}
	if err == nil {
		err = r.file.Sync()
	}
	if err == nil {
		err = r.catchUp()
	}
	if err != nil {
		return billing.Receipt{Reason: err.Error()}
	}
	return billing.Receipt{Result: billing.Accepted}
}

// again is the receipt for what is in the file already, maybe since a failure.
func (r *Reporter) again() billing.Receipt {
	if err := r.file.Sync(); err != nil {
		return billing.Receipt{Reason: err.Error()}
	}
	return billing.Receipt{Result: billing.AlreadyAccepted}
}

// Verify implements [billing.Reporter]: it looks for the batch itself.
func (r *Reporter) Verify(ctx context.Context, d billing.Delivery) (billing.Presence, error) {
	if err := check(ctx, d); err != nil {
		return billing.Ambiguous, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.catchUp(); err != nil {
		return billing.Ambiguous, fmt.Errorf("filebill: verify %s: %w", d.ID, err)
	}
	if _, ok := r.lines[d.ID]; !ok || r.void[d.ID] {
		return billing.Absent, nil
	}
	return billing.Present, nil
}

// UsageTotal implements [billing.Totaler]: what the file has of t with slots in
// [from, to).
func (r *Reporter) UsageTotal(ctx context.Context, t billing.Target, from, to time.Time) (total int64, err error) {
	if err := check(ctx, billing.Delivery{Target: t}); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.catchUp(); err != nil {
		return 0, fmt.Errorf("filebill: usage total: %w", err)
	}
	for _, l := range r.lines {
		same := l.Tenant == t.Tenant && l.Customer == t.Customer && l.Mode == t.Mode && l.Meter == t.Meter && l.Item == t.Item
		if same && !r.void[l.ID] && !l.Slot.Before(from) && l.Slot.Before(to) {
			total += l.Quantity
		}
	}
	return total, nil
}

func check(ctx context.Context, d billing.Delivery) error {
	if d.Target.Provider != Provider {
		return fmt.Errorf("filebill: target of provider %q", d.Target.Provider)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("filebill: report %s: %w", d.ID, err)
	}
	return nil
}
