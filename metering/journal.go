package metering

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Journal keeps what a limiter's counters lack until it can be told: a
// *usage.Spool, opened by usage.OpenJournal. What Record has taken survives a crash
// of the process, and Run hands it on in the order in which it came.
type Journal interface {
	usage.Sink

	// Run gives store what Record has taken, until it has it, in that order.
	Run(ctx context.Context, store usage.Store) error
}

// letThroughSpan is to what the times of calls that were let through are rounded
// down, in their events too, so that a journal's uses add up to few.
const letThroughSpan = time.Second

// journal writes entries with a number each, in the order of the numbers: a
// limiter remembers by the last number alone which it knows.
type journal struct {
	sink Journal
	name string

	mu   sync.Mutex
	last int64
}

// journalEntry is what an entry tells a limiter, in the JSON of a usage event's
// RequestID. One of the first three is set.
type journalEntry struct {
	Let      *Request  `json:"let,omitempty"`      // of a call that was let through
	Settle   *Decision `json:"settle,omitempty"`   // that could not be settled; the event's units are its charge
	Withdraw *Request  `json:"withdraw,omitempty"` // to which no answer came

	Receipt string `json:"receipt,omitempty"` // of what is in doubt
}

// note is an entry that was read again.
type note struct {
	journalEntry
	journal string
	number  int64
	units   int64
	time    time.Time
}

func newJournal(sink Journal) *journal {
	return &journal{sink: sink, name: tenant.NewID().String()}
}

// write makes an entry durable.
func (j *journal) write(ctx context.Context, id tenant.ID, tool string, units int64, at time.Time, e journalEntry) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	return j.sink.Record(ctx, usage.Event{
		ID: j.name + ":" + strconv.FormatInt(j.last, 10), Tenant: id, Tool: tool, Units: units, Time: at,
		Unmetered: true, RequestID: string(text),
	})
}

func readNote(e usage.Event) (n note, err error) {
	name, number, ok := strings.Cut(e.ID, ":")
	if !ok {
		return n, errors.New("it has no number")
	}
	if n.number, err = strconv.ParseInt(number, 10, 64); err != nil {
		return n, errors.New("it has no number")
	}
	if err := json.Unmarshal([]byte(e.RequestID), &n.journalEntry); err != nil {
		return n, err
	}
	if n.Let == nil && n.Settle == nil && n.Withdraw == nil {
		return n, errors.New("it says nothing")
	}
	n.journal, n.units, n.time = name, e.Units, e.Time
	return n, nil
}

// noteUse notes what a call used that was let through.
func (m *Meter) noteUse(ctx context.Context, c *call) {
	d := &c.decision
	if !c.letThrough() {
		return
	}
	let := Request{Tenant: d.Request.Tenant, Units: d.Units, ID: d.ID, Key: d.Request.Key, KeyTTL: d.Request.KeyTTL}
	if d.Units == 0 {
		let.Key = "" // nobody has paid
	}
	for _, b := range d.Request.Bounds {
		if b.Hold == 0 && b.Weight(d.Units) > 0 {
			let.Bounds = append(let.Bounds, b)
		}
	}
	if len(let.Bounds) > 0 {
		m.note(ctx, c.tenant.ID, c.label, d.Units, c.time(), journalEntry{Let: &let})
	}
}

// unsettled deals with a decision that the limiter could not be asked to settle,
// or did not answer. Where nothing tells whether it has done so all the same, it
// counts too much rather than too little; what is left of a loan can be given back
// as often as one likes.
func (m *Meter) unsettled(ctx context.Context, d Decision, units int64, cause error) {
	more := units > d.Units
	units = min(units, d.Units) // a bill never exceeds what was taken
	receipt := m.receiptOf(cause)
	nothing := units == d.Units && !(d.Replay && units == 0) && d.Block.Units+d.Block.Calls == 0
	if _, late := errors.AsType[lateError](cause); late || nothing && !(more && !notAsked(cause)) {
		return
	}
	if !notAsked(cause) && d.Block.ID == "" && receipt == "" {
		m.inDoubt.Add(1)
		return
	}
	if g := d.grant; g != nil {
		d.Time, d.Block = g.at, Block{Hold: g.left.Hold}
	}
	d.Limits, d.Slot = nil, "" // slots expire by themselves
	m.note(ctx, d.Request.Tenant, "", units, d.Time, journalEntry{Settle: &d, Receipt: receipt})
}

// unanswered deals with a request of which nobody knows whether the limiter has
// taken its units.
func (m *Meter) unanswered(ctx context.Context, r Request, cause error) {
	if notAsked(cause) {
		return
	}
	receipt := m.receiptOf(cause)
	if receipt == "" {
		m.inDoubt.Add(1)
		return
	}
	m.note(ctx, r.Tenant, "", 0, m.now(), journalEntry{Withdraw: &r, Receipt: receipt})
}

// receiptOf returns by what the limiter finds out afterwards what it did, if there
// is a journal to ask it from; empty if nothing does.
func (m *Meter) receiptOf(err error) string {
	if tells, ok := errors.AsType[interface {
		error
		Receipt() string
	}](err); ok && m.journal != nil {
		return tells.Receipt()
	}
	return ""
}

func (m *Meter) note(ctx context.Context, id tenant.ID, tool string, units int64, at time.Time, e journalEntry) {
	err := errors.New("there is no journal")
	if m.journal != nil {
		err = m.journal.write(ctx, id, tool, units, at, e)
	}
	if err != nil {
		m.unjournaled.Add(1)
		if m.journal != nil {
			m.log.LogAttrs(ctx, slog.LevelError, "the limiter will not be told of a call", slog.String("tenant", id.String()), slog.String("tool", tool), slog.Any("err", err))
		}
	}
}

// runJournal tells the limiter what it lacks, whenever it is there.
func (m *Meter) runJournal(ctx context.Context) error {
	return m.journal.sink.Run(ctx, usage.StoreFunc(func(asked context.Context, events []usage.Event) (int, error) {
		select {
		case <-m.guard.back():
		case <-ctx.Done(): // the last try
		case <-asked.Done():
		}
		return len(events), m.restore(asked, events)
	}))
}

// restore tells the limiter of entries, of each tenant in their order.
func (m *Meter) restore(ctx context.Context, events []usage.Event) error {
	type owner struct {
		tenant  tenant.ID
		journal string
	}
	notes := make(map[owner][]note)
	var order []owner
	for _, e := range events {
		n, err := readNote(e)
		if err != nil {
			m.unjournaled.Add(1)
			m.log.LogAttrs(ctx, slog.LevelError, "journal entry can't be read, the limiter will not be told of it", slog.String("tenant", e.Tenant.String()), slog.String("event", e.ID), slog.Any("err", err))
			continue
		}
		o := owner{e.Tenant, n.journal}
		if notes[o] == nil {
			order = append(order, o)
		}
		notes[o] = append(notes[o], n)
	}
	for _, o := range order {
		for left := notes[o]; len(left) > 0; {
			n, err := m.restoreSome(ctx, o.tenant, left)
			if err != nil {
				return fmt.Errorf("metering: restore units of tenant %s: %w", o.tenant, err)
			}
			left = left[n:]
		}
	}
	return nil
}

// restoreSome tells the limiter of the first of a tenant's notes, of as many as
// go together, and returns how many it knows now.
func (m *Meter) restoreSome(ctx context.Context, id tenant.ID, notes []note) (known int, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	n, together := notes[0], 1
	for n.plain() && together < len(notes) && notes[together].plain() {
		together++
	}
	e := Entries{Tenant: id, Journal: n.journal, First: n.number, Last: notes[together-1].number}
	var last int64
	switch {
	case n.Settle != nil:
		last, err = m.restorer.SettleLate(ctx, e, *n.Settle, n.units, n.Receipt)
	case n.Withdraw != nil:
		last, err = m.restorer.Withdraw(ctx, e, *n.Withdraw, n.Receipt)
	default:
		r := Restoration{Entries: e, Uses: usesOf(notes[:together]), Ledger: m.seeder != nil}
		if n.Let.Key != "" {
			r.Key, r.KeyTTL, r.ID, r.Units = n.Let.Key, n.Let.KeyTTL, n.Let.ID, n.Let.Units
		}
		last, err = m.restorer.Restore(ctx, r)
		for i := 0; m.seeder != nil && i < len(r.Uses); i++ {
			m.seeder.meet(id, r.Uses[i].Bound, true)
		}
	}
	if err != nil {
		return 0, err
	}
	for known < together && notes[known].number <= last {
		known++
	}
	if known == 0 {
		return 0, fmt.Errorf("entry %d was not taken", n.number)
	}
	return known, nil
}

// plain reports whether n goes together with others.
func (n note) plain() bool { return n.Let != nil && n.Let.Key == "" }

// usesOf adds up what calls that were let through used of each bound at a time.
func usesOf(notes []note) []Use {
	type place struct {
		bound Bound
		time  time.Time
	}
	at := make(map[place]int)
	var uses []Use
	for _, n := range notes {
		for _, b := range n.Let.Bounds {
			p := place{b, n.time}
			i, ok := at[p]
			if !ok {
				i = len(uses)
				at[p] = i
				uses = append(uses, Use{Bound: b, Time: n.time})
			}
			uses[i].Units += b.Weight(n.Let.Units)
		}
	}
	return uses
}

// letThroughAt is when a call that was let through counts as made.
func letThroughAt(t time.Time) time.Time { return t.UTC().Truncate(letThroughSpan) }

// notAsked reports an error with which a limiter says that it has changed nothing,
// and won't.
func notAsked(err error) bool {
	if errors.Is(err, errBreakerOpen) {
		return true
	}
	var sure interface{ NotAsked() bool }
	return errors.As(err, &sure) && sure.NotAsked()
}
