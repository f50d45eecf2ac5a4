package metering

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const (
	settleTimeout = 2 * time.Second // bounds what follows a call whose caller may be gone
	recordTries   = 2               // of a charged call's event
)

// call is one run of a tool on its way through the Meter. The middleware and
// the wrapper of one call share it, so that the call is charged once.
type call struct {
	meter *Meter
	state callState
	begun bool // the wrapper has run at least once

	tenant tenant.Tenant
	tool   string // what the caller is told
	label  string // what is counted: tool, or UnknownTool
	spec   Tool
	start  time.Time
	key    string // the caller's idempotency key

	scope    *scope // what its tool draws on; nil if nothing is asked
	decision Decision
	over     string  // the soft limit that would have refused it
	slots    *keeper // renews the slots of limits of calls in flight
	outcome  usage.Outcome
	denied   *QuotaError

	// charge is what the handler asked to be charged; negative if it did not.
	charge atomic.Int64
	added  atomic.Int64 // what it asked to be charged besides
}

// probe reports whether the platform itself is calling.
func (c *call) probe() bool { return c.tenant.HasScope(tenant.ScopeCanary) }

func (c *call) free() bool { return c.spec.Free || c.probe() }

type callState int

const (
	idle    callState = iota // nothing is reserved
	running                  // reserved, and the tool runs
	ended                    // the tool has ended; the middleware will finish
)

type callKey struct{}

// enter returns the call that ctx belongs to, or a new one. shared reports that
// the middleware made it and will finish it.
func (m *Meter) enter(ctx context.Context) (_ context.Context, c *call, shared bool) {
	if c, ok := ctx.Value(callKey{}).(*call); ok && c.meter == m {
		return ctx, c, true
	}
	c = &call{meter: m}
	return context.WithValue(ctx, callKey{}, c), c, false
}

// reserve takes what the call of tool costs. A call that must not run gets an
// error that can be shown to its caller; its event has been recorded.
func (m *Meter) reserve(ctx context.Context, c *call, tool string, req *mcp.CallToolRequest) error {
	t, ok := tenant.FromContext(ctx)
	if !ok {
		return ErrUnauthenticated
	}
	c.tenant, c.tool, c.label, c.start = t, tool, m.label(tool), m.now()
	c.scope, c.over = nil, ""
	c.decision, c.denied, c.key = Decision{Allowed: true, Source: SourceUnlimited, Refused: -1, Time: c.start.UTC()}, nil, ""
	c.charge.Store(-1)
	c.added.Store(0)
	if c.spec, ok = m.tools[tool]; !ok {
		c.spec = Tool{Units: 1}
	}
	err := m.admit(ctx, c, req)
	if err != nil {
		c.outcome = usage.Error
		if c.denied != nil {
			c.outcome = usage.Denied
		} else if ctx.Err() != nil {
			c.outcome = usage.Canceled
		}
		c.decision.Units, c.decision.ID = 0, newEventID()
		m.recordUncharged(ctx, c)
		return err
	}
	m.admitted.Add(1)
	c.state = running
	c.slots = m.guard.keep(ctx, c.decision)
	return nil
}

// admit decides on the call and fills in c.decision.
func (m *Meter) admit(ctx context.Context, c *call, req *mcp.CallToolRequest) error {
	plan, ok := m.planOf(c.tenant)
	if ok && !c.probe() && !plan.has(c.tool) {
		m.denied.Add(1)
		c.denied = &QuotaError{Code: CodeNotInPlan, Tool: c.tool, Plan: c.tenant.Plan, RetryAfter: -1}
		return c.denied
	}
	if c.free() {
		return nil
	}
	if !ok {
		return m.unknownPlan(ctx, c.tenant, c.tool)
	}
	if m.ready != nil {
		if err := m.ready.Ready(ctx); err != nil {
			m.unavailable.Add(1)
			return ErrNotRecorded
		}
	}
	units, err := c.spec.price(req)
	if errors.Is(err, errPrice) {
		m.log.LogAttrs(ctx, slog.LevelWarn, "call has no price", slog.String("tenant", c.tenant.ID.String()), slog.String("tool", c.label), slog.Any("err", err))
		return callError(c.tool + " has no price for these arguments; it did not run and nothing was charged")
	}
	if err != nil {
		return err
	}
	if c.key, err = idempotencyKey(req); err != nil {
		return err
	}
	scope := plan.scope(c.tool)
	r := Request{Tenant: c.tenant.ID, Units: units, Bounds: scope.at(c.tenant, c.start), Receipt: m.journal != nil}
	if c.key == "" {
		r.ID = newEventID()
	} else {
		r.Key, r.ID = m.replayIDs(c, req)
		r.KeyTTL = m.keyTTL
	}
	if len(r.Bounds) == 0 {
		c.decision.ID, c.decision.Units, c.decision.Request = r.ID, units, r
		return nil
	}

	c.scope = scope
	d, err := m.guard.take(ctx, r)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !scope.hard { // what only tells doesn't make a call fail
			c.decision.ID, c.decision.Units, c.decision.Request, c.decision.Source = r.ID, units, r, SourceLocal
			m.unmetered.Add(1)
			return nil
		}
		return m.outage(ctx, c, plan.Plan, r, err)
	}
	if m.seeder != nil && d.Allowed && d.Source == SourceLimiter {
		m.seeder.touch(r.Tenant, d)
	}
	return m.apply(c, d)
}

// outage decides on a call while the limiter is away.
func (m *Meter) outage(ctx context.Context, c *call, plan Plan, r Request, cause error) error {
	m.logOutage(ctx, c.tenant.ID, c.label, cause)
	if plan.OnOutage == Deny {
		m.unavailable.Add(1)
		c.denied = &QuotaError{Code: CodeUnavailable, Tool: c.tool, Plan: c.tenant.Plan, Units: r.Units, RetryAfter: breakerProbe}
		return c.denied
	}
	processes := int64(1)
	if plan.OnOutage == Share {
		processes = m.processes
	}
	d, err := m.guard.takeLocal(ctx, r, processes)
	if err != nil {
		return err
	}
	if d.Allowed {
		m.unmetered.Add(1)
	}
	return m.apply(c, d)
}

// unknownPlan is what the caller of a tool is told whose plan is not configured.
func (m *Meter) unknownPlan(ctx context.Context, t tenant.Tenant, tool string) error {
	m.log.LogAttrs(ctx, slog.LevelError, "tenant's plan is not configured", slog.String("tenant", t.ID.String()), slog.String("plan", string(t.Plan)))
	return &QuotaError{Code: CodeUnknownPlan, Tool: tool, Plan: t.Plan, RetryAfter: -1}
}

// logOutage says once for each question that failed why it did.
func (m *Meter) logOutage(ctx context.Context, id tenant.ID, tool string, cause error) {
	if !errors.Is(cause, errBreakerOpen) {
		m.log.LogAttrs(ctx, slog.LevelWarn, "limiter can't be asked", slog.String("tenant", id.String()), slog.String("tool", tool), slog.Any("err", cause))
	}
}

func (m *Meter) apply(c *call, d Decision) error {
	c.decision = d
	if !d.Allowed {
		m.watch.see(c)
		m.denied.Add(1)
		c.denied = quotaError(d, c.tool, c.tenant.Plan)
		return c.denied
	}
	if c.over = c.scope.over(d); d.Replay {
		m.replayed.Add(1)
	}
	return nil
}

// finish settles a call that ran and records its event. The error, if any,
// must be answered instead of the tool's result.
func (m *Meter) finish(ctx context.Context, c *call, outcome usage.Outcome) error {
	c.state, c.outcome = idle, outcome
	d := &c.decision
	reserved, want := d.Units, int64(0)
	if c.spec.Charge.charges(outcome) {
		want = reserved
		if !d.Replay && !c.free() {
			if asked := c.charge.Load(); asked >= 0 {
				want = asked
			}
			want = min(want+c.added.Load(), MaxUnits)
		}
	}
	// The caller may be gone, and its units and event must not go with it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	m.settle(ctx, c, want)
	m.watch.see(c)
	if c.probe() {
		c.outcome = usage.Probe
	}
	if d.Units == 0 {
		if d.ID == "" || c.key != "" {
			// The id of a charge under an idempotency key belongs to the call
			// that is charged in the end.
			d.ID = newEventID()
		}
		m.recordUncharged(ctx, c)
		m.noteUse(ctx, c) // of the attempt
		return nil
	}
	e := m.event(c)
	if err := m.record(ctx, e, recordTries); err != nil {
		m.unrecorded.Add(1)
		m.log.LogAttrs(ctx, slog.LevelError, "usage not recorded, answer withheld", slog.String("tenant", c.tenant.ID.String()), slog.String("tool", c.label), slog.String("event", d.ID), slog.Any("err", err))
		m.settle(ctx, c, 0)
		if e.Units = 0; outcome == usage.OK || outcome == usage.Input {
			e.Outcome = usage.Error // its caller is told so
		}
		m.tellObserver(c, e)
		return ErrNotRecorded
	}
	m.tellObserver(c, e)
	m.noteUse(ctx, c)
	return nil
}

// settle changes what the call is charged to want, if that is not what it has
// been charged already.
func (m *Meter) settle(ctx context.Context, c *call, want int64) {
	d := &c.decision
	c.slots.release()
	if want == d.Units && !(d.Replay && want == 0) && d.Slot == "" {
		return
	}
	if len(d.Request.Bounds) == 0 {
		d.Units = want
		return
	}
	charged, err := m.guard.settle(ctx, *d, want)
	if err != nil {
		m.settleFailed.Add(1)
		m.log.LogAttrs(ctx, slog.LevelWarn, "units not settled while the limiter is away", slog.String("tenant", c.tenant.ID.String()), slog.String("tool", c.label), slog.String("event", d.ID), slog.Any("err", err))
		m.unsettled(ctx, *d, want, err)
		charged = min(want, d.Units) // a bill never exceeds what was taken
	} else if d.Slot = ""; charged < want {
		m.log.LogAttrs(ctx, slog.LevelWarn, "limits admitted only part of what a tool asked to charge", slog.String("tenant", c.tenant.ID.String()), slog.String("tool", c.label), slog.String("event", d.ID))
	}
	for i, b := range d.Request.Bounds {
		if b.refundable() && i < len(d.Limits) && !d.Replay {
			d.Limits[i].Remaining = max(0, d.Limits[i].Remaining+d.Units-charged)
		}
	}
	d.Units = charged
}

func (m *Meter) event(c *call) usage.Event {
	return usage.Event{
		ID:        c.decision.ID,
		Tenant:    c.tenant.ID,
		Plan:      c.tenant.Plan,
		Tool:      c.label,
		Units:     c.decision.Units,
		Outcome:   c.outcome,
		Time:      c.time(),
		Duration:  max(0, m.now().Sub(c.start)),
		Unmetered: c.letThrough(),
		RequestID: c.key,
	}
}

// letThrough reports whether the call ran without the limiter.
func (c *call) letThrough() bool { return c.decision.Source == SourceLocal && c.decision.Allowed }

// time is when the call's units were taken, within the periods that they were
// taken from: the limiter's clock and ours may differ where one ends. Those of a
// block were when it was lent: should the limiter lose its counters, the ledger says
// what was taken before.
func (c *call) time() time.Time {
	t := c.decision.Time.UTC()
	if c.letThrough() {
		t = letThroughAt(t)
	} else if g := c.decision.grant; g != nil {
		t = g.at.UTC()
	}
	for _, b := range c.decision.Request.Bounds {
		if b.Period == "" {
			continue
		}
		if t.Before(b.Start) {
			t = b.Start.UTC()
		} else if !t.Before(b.End) {
			t = b.End.UTC().Add(-time.Millisecond)
		}
	}
	return t
}

func (m *Meter) record(ctx context.Context, e usage.Event, tries int) (err error) {
	for range tries {
		if err = m.sink.Record(ctx, e); err == nil {
			break
		}
	}
	return err
}

func (m *Meter) tellObserver(c *call, e usage.Event) {
	if m.observe != nil {
		if c.decision.Replay {
			e.Units = 0
		}
		m.observe(Observation{Plan: e.Plan, Tool: e.Tool, Outcome: e.Outcome, Source: c.decision.Source, Units: e.Units, Duration: e.Duration, Over: c.over})
	}
}

// recordUncharged records an event without units. Losing it loses no money, so
// the answer it belongs to is given all the same; the loss is counted.
func (m *Meter) recordUncharged(ctx context.Context, c *call) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	e := m.event(c)
	if err := m.record(ctx, e, 1); err != nil {
		m.eventsLost.Add(1)
		m.log.LogAttrs(ctx, slog.LevelError, "event of an uncharged call lost", slog.String("tenant", c.tenant.ID.String()), slog.String("tool", c.label), slog.String("event", c.decision.ID), slog.Any("err", err))
	}
	m.tellObserver(c, e)
}

// outcomeOf tells how a run of a tool ended.
func outcomeOf(ctx context.Context, res *mcp.CallToolResult, err error) usage.Outcome {
	switch {
	case err == nil && res != nil && res.InputRequests != nil:
		return usage.Input
	case err == nil && (res == nil || !res.IsError):
		return usage.OK
	case ctx.Err() != nil:
		return usage.Canceled
	default:
		return usage.Error
	}
}

// label returns the name under which a tool is counted.
func (m *Meter) label(tool string) string {
	if _, ok := m.tools[tool]; ok {
		return tool
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.wrapped[tool] || m.known[tool] {
		return tool
	}
	return UnknownTool
}

// newEventID returns a UUIDv7, so that events sort by time in an index.
func newEventID() string { return tenant.NewID().String() }
