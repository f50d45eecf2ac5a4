// Package usage is the record of one tool call that a bill can be made of.
//
// An [Event] says who called what, when, how it ended and how many units it
// was charged. A [Sink] makes events durable: once Record has returned nil,
// the event survives a kill -9 of the process. A [Store] is where they end up.
// Both are idempotent by [Event.ID]; whoever is unsure whether an event
// arrived sends it again.
//
// The package imports the standard library and package tenant alone.
package usage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Outcome is how a call ended.
type Outcome string

// The outcomes of a call.
const (
	OK       Outcome = "ok"       // the tool did its work
	Error    Outcome = "error"    // the tool, the protocol or the Meter answered with an error
	Denied   Outcome = "denied"   // refused by a limit, a plan without the tool, or for want of a limiter; the tool did not run
	Panicked Outcome = "panicked" // the tool panicked
	Canceled Outcome = "canceled" // the caller went away or time ran out
	Input    Outcome = "input"    // an interim round: the tool asked for more input
	Probe    Outcome = "probe"    // a canary or health call of the platform itself
)

// Event is one tool call. It is a plain value; its JSON form, and the
// binary one of AppendBinary, are stable.
type Event struct {
	// ID is a UUID, made once per charged call: two events with the same ID
	// are the same event, stored once.
	ID     string      `json:"id"`
	Tenant tenant.ID   `json:"tenant"`
	Plan   tenant.Plan `json:"plan"`
	Tool   string      `json:"tool"`

	// Units is what the call was charged, in the units of the plan's limits,
	// and so what is billed: 0 for a call that was refused, failed without a
	// charge, or is not billable. Never negative.
	Units int64 `json:"units"`

	Outcome Outcome `json:"outcome"`

	// Time is when the call was admitted, by the limiter's clock, in UTC. It
	// decides the billing period.
	Time     time.Time     `json:"time"`
	Duration time.Duration `json:"duration"`

	// Unmetered is set when the call was let through without the limiter, which
	// was away. Its units come into the limiter's counters later where the Meter has
	// a Journal, and else not at all.
	Unmetered bool `json:"unmetered,omitempty"`

	// RequestID is the idempotency key that the caller gave, for support.
	RequestID string `json:"request_id,omitempty"`
}

// Validate returns an error that names the field with which no store takes e: an ID
// that is no UUID, no Tenant, no Time, or negative Units.
func (e Event) Validate() error {
	var err error
	_, isUUID := parseUUID(strings.ToLower(e.ID))
	switch {
	case !isUUID:
		err = errors.New("ID: is not a UUID")
	case e.Tenant.IsZero():
		err = errors.New("Tenant: is empty")
	case e.Time.IsZero():
		err = errors.New("Time: is zero")
	case e.Units < 0:
		err = fmt.Errorf("Units: %d is negative", e.Units)
	default:
		return nil
	}
	return fmt.Errorf("usage: event %.40q: %w", e.ID, err)
}

// Sink takes events and makes them durable. Record returns nil once the event
// survives a crash of the process, and an error when the event may be lost. It
// is idempotent by Event.ID and safe for concurrent use. It refuses an event that is
// not valid (Event.Validate): a store would never take it, nor what is with it.
//
// A sink that knows beforehand that it would not take an event, because it is full
// or its disk fails, says so by a method Ready(context.Context) error, if it has
// one, without waiting: a call that is to be charged is then not run.
type Sink interface {
	Record(ctx context.Context, e Event) error
}

// Store is the final home of events, usually a database. Append stores the
// events whose ID it has not got yet, all or none of them, and returns how
// many were new.
type Store interface {
	Append(ctx context.Context, events []Event) (added int, err error)
}
