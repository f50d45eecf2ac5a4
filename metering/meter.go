package metering

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// UnknownTool stands in keys, events and observations for a tool that the
// Meter has not seen succeed and that has no price: names that callers make up
// never become keys or labels.
const UnknownTool = "unknown"

// Options are the settings of a [Meter]. The zero value works.
type Options struct {
	// Tools is the price of each tool by its name. A tool that is missing here
	// costs 1 unit, and Coverage reports it.
	Tools map[string]Tool

	// Plans is what the tenants of each plan may use; a tenant of any other
	// plan is refused. Defaults to DefaultPlans().
	Plans map[tenant.Plan]Plan

	// Logger takes what the operator should know. Nil discards it.
	Logger *slog.Logger

	// Now is the local clock. Defaults to time.Now.
	Now func() time.Time

	// Budget is how long one question to the limiter may take. A call waits so
	// long at most once before its tool runs and once after, and once more if the
	// sink fails then. After five failures in a row calls ask nothing. Sixteen
	// questions are asked at once, or as many as the limiter says that it is good
	// for; while more calls come than a slow one answers, they wait their turn
	// first, for as long as their callers do. Defaults to 25 ms.
	Budget time.Duration

	// Leases says which units the Meter takes from the limiter in blocks, to
	// spend them by itself while Run runs. By default those of calls all of
	// whose limits allow more than 1,000 units, and LeasedOptions.MinUnits of
	// MaxUnits means none. A refusal is repeated without asking for at most a
	// second, whatever the limit. Nothing of this holds for a limiter that is a
	// Memory, which is asked for every call. Now is Options.Now.
	Leases LeasedOptions

	// Journal, if set, keeps what the limiter could not be asked or told while it
	// was away: the calls that were let through, and the units of others that it
	// was to give back. Run brings them to its counters when it is there again,
	// once each, at the times when they were used. The limiter must be a
	// [Restorer], and the journal this Meter's alone and not its sink.
	// usage.OpenJournal opens one.
	Journal Journal

	// Ledger, if set, fills the counters of periods that the limiter has lost: Run
	// compares those that have just begun, in the limiter's memory or in this
	// process', with what the ledger says. The limiter must be a [Seeder].
	Ledger Ledger

	// Processes is how many processes share the limiter, for plans whose OnOutage
	// is Share. Defaults to 1.
	Processes int

	// IdempotencyTTL is how long an idempotency key is remembered.
	// Defaults to 24 hours.
	IdempotencyTTL time.Duration

	// Alerts, if set, has tenants told when they have used a part of a limit.
	// Nobody is told unless [Meter.Run] runs.
	Alerts *AlertOptions

	// Observe, if set, is told of every call once it has ended, for metrics.
	// It must be fast and safe for concurrent use.
	Observe func(Observation)
}

// Observation is a call without its tenant: every field is of small
// cardinality, fit for the label of a metric.
type Observation struct {
	Plan     tenant.Plan
	Tool     string // UnknownTool for a name that callers made up
	Source   Source
	Duration time.Duration

	// Outcome and Units are those of the call's event, whether or not that could be
	// recorded. But a call whose answer was withheld because it could not, see
	// [ErrNotRecorded], has 0 units and an outcome that is not usage.OK. A call that
	// an earlier one under its idempotency key has paid for, whose event it shares,
	// has 0 units too.
	Outcome usage.Outcome
	Units   int64

	// Over is the name of the first soft or shadow limit that would have refused
	// the call, empty if none would. Names that operators give to limits of
	// single tenants are among them.
	Over string
}

// Meter meters tool calls. It is safe for concurrent use; its configuration
// does not change.
type Meter struct {
	guard  *guard
	sink   usage.Sink
	ready  readier // sink, if it can tell beforehand; else nil
	tools  map[string]Tool
	plans  map[tenant.Plan]*compiledPlan
	own    ownPlans
	varied bool // some plan leaves out a tool

	log     *slog.Logger
	now     func() time.Time
	keyTTL  time.Duration
	observe func(Observation)
	watch   *watcher
	loops   []func(context.Context) error // what Run runs
	running atomic.Bool

	processes int64
	restorer  Restorer // nil if there is no journal
	journal   *journal // nil if there is none
	seeder    *seeder  // nil if there is no ledger

	mu      sync.RWMutex
	wrapped map[string]bool // tools that WithMetering has wrapped
	known   map[string]bool // tools without a price that have been seen to exist

	counters
}

// readier is a sink that tells beforehand that it would not take an event.
type readier interface{ Ready(context.Context) error }

// spool is a sink, or a journal, that knows which of the two it is.
type spool interface{ IsJournal() bool }

// New returns a Meter that asks limiter and records into sink. It reports every
// mistake in opts by the name of its field. Nil opts mean the defaults.
func New(limiter Limiter, sink usage.Sink, opts *Options) (*Meter, error) {
	if opts == nil {
		opts = &Options{}
	}
	o := *opts
	if o.Plans == nil {
		o.Plans = DefaultPlans()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Budget == 0 {
		o.Budget = 25 * time.Millisecond
	}
	if o.IdempotencyTTL == 0 {
		o.IdempotencyTTL = 24 * time.Hour
	}
	if o.Processes == 0 {
		o.Processes = 1
	}
	o.Leases.Now = o.Now
	o.Leases = o.Leases.withDefaults()
	if err := o.validate(limiter, sink); err != nil {
		return nil, fmt.Errorf("metering: configure meter: %w", err)
	}

	var leased *Leased
	behind := limiter
	if _, ok := limiter.(*Memory); !ok {
		leased = newLeased(limiter, o.Leases)
		behind = leased
	}
	m := &Meter{
		guard:     newGuard(behind, o.Budget, o.Now, o.Logger),
		sink:      sink,
		tools:     maps.Clone(o.Tools),
		plans:     make(map[tenant.Plan]*compiledPlan, len(o.Plans)),
		log:       o.Logger,
		now:       o.Now,
		keyTTL:    o.IdempotencyTTL,
		observe:   o.Observe,
		processes: int64(o.Processes),
		watch:     newWatcher(o.Alerts, o.Logger, o.Now),
		wrapped:   make(map[string]bool),
		known:     make(map[string]bool),
	}
	m.ready, _ = sink.(readier)
	m.loops = append(m.loops, m.guard.probe)
	if leased != nil {
		leased.unsettled, leased.unanswered = m.unsettled, m.unanswered
		m.loops = append(m.loops, leased.Run)
	}
	if o.Journal != nil {
		m.journal, m.restorer = newJournal(o.Journal), limiter.(Restorer)
		m.loops = append(m.loops, m.runJournal)
	}
	if o.Ledger != nil {
		m.seeder = newSeeder(limiter.(Seeder), o.Ledger, o.Logger, o.Now, &m.guard.outages)
		m.loops = append(m.loops, m.seeder.run)
	}
	if m.watch.on {
		m.loops = append(m.loops, m.watch.run)
	}
	for name, p := range o.Plans {
		m.plans[name] = compile(p, o.Tools)
		m.varied = m.varied || len(p.Without) > 0
	}
	return m, nil
}

func (o Options) validate(limiter Limiter, sink usage.Sink) error {
	var errs []error
	if limiter == nil {
		errs = append(errs, errors.New("limiter is nil"))
	}
	if _, ok := limiter.(*Leased); ok {
		errs = append(errs, errors.New("limiter is a Leased: the Meter leases by itself; give it the limiter behind, and set Leases"))
	}
	if sink == nil {
		errs = append(errs, errors.New("sink is nil"))
	}
	if s, ok := sink.(spool); ok && s.IsJournal() {
		errs = append(errs, errors.New("sink: is a journal, which is for Options.Journal: usage.OpenSpool opens a sink"))
	}
	if s, ok := o.Journal.(spool); ok && !s.IsJournal() {
		errs = append(errs, errors.New("Journal: is a spool of usage events, which is for the sink: usage.OpenJournal opens a journal"))
	}
	if _, ok := limiter.(Restorer); o.Journal != nil && !ok {
		errs = append(errs, fmt.Errorf("Journal: the limiter, a %T, is no Restorer; a redisquota.Limiter is", limiter))
	}
	if _, ok := limiter.(Seeder); o.Ledger != nil && !ok {
		errs = append(errs, fmt.Errorf("Ledger: the limiter, a %T, is no Seeder; a redisquota.Limiter is", limiter))
	}
	if o.Processes < 1 {
		errs = append(errs, fmt.Errorf("Processes: %d is negative", o.Processes))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Tools)) {
		field := fmt.Sprintf("Tools[%q]", name)
		if name == "" {
			errs = append(errs, fmt.Errorf("%s: the name is empty", field))
		}
		errs = append(errs, o.Tools[name].validate(field))
	}
	if len(o.Plans) == 0 {
		errs = append(errs, errors.New("Plans: is empty, so that every call would be refused"))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Plans)) {
		field := fmt.Sprintf("Plans[%q]", name)
		if name == "" {
			errs = append(errs, fmt.Errorf("%s: the name is empty", field))
		}
		errs = append(errs, o.Plans[name].validate(field, o.Tools))
	}
	if o.Budget < time.Millisecond || o.Budget > time.Minute {
		errs = append(errs, fmt.Errorf("Budget: %v is not within 1ms and 1m", o.Budget))
	}
	errs = append(errs, o.Leases.validate("Leases."))
	if o.Alerts != nil {
		errs = append(errs, o.Alerts.validate("Alerts"))
	}
	if o.IdempotencyTTL < time.Minute || o.IdempotencyTTL > 30*24*time.Hour {
		errs = append(errs, fmt.Errorf("IdempotencyTTL: %v is not within 1m and 720h", o.IdempotencyTTL))
	}
	return errors.Join(errs...)
}

// Remaining tells where the limits of the tenant in ctx stand: those that hold
// for all tools together, then those of single tools, which have the tool in their
// names, but no shadow limits; none for an unlimited plan. Of a limit of calls in
// flight it tells how many more may start. The attempts are not among the limits: they
// are what a tenant may start, not what it may use. It asks the limiter once and
// changes nothing; while the limiter is away, its error matches [ErrUnavailable].
func (m *Meter) Remaining(ctx context.Context) ([]LimitState, error) {
	t, ok := tenant.FromContext(ctx)
	if !ok {
		return nil, ErrUnauthenticated
	}
	plan, ok := m.planOf(t)
	if !ok {
		return nil, ErrUnknownPlan
	}
	s := plan.all
	if len(s.limits) == 0 {
		return nil, nil
	}
	bounds := s.at(t, m.now())
	if bounds[len(bounds)-1].Attempts {
		bounds = bounds[:len(bounds)-1]
	}
	d, err := m.guard.peek(ctx, Request{Tenant: t.ID, Bounds: bounds})
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for i, b := range bounds {
		if b.Hold > 0 && d.Allowed {
			d.Limits[i].Remaining++ // the slot of a call that nobody makes
		}
	}
	for i := 0; m.seeder != nil && i < len(bounds); i++ {
		m.seeder.meet(t.ID, bounds[i], false)
	}
	var states []LimitState
	for _, l := range s.limits {
		if l.Mode == Shadow {
			continue
		}
		state := d.Limits[l.bound]
		state.Name, state.Units, state.Remaining, state.Mode = l.Name, l.Units, max(0, l.Units-l.used(d)), l.Mode
		states = append(states, state)
	}
	return states, nil
}

// Reset sets every counter of the tenant's plan to zero, after a payment for
// instance: those of all its limits, of the current periods, and its attempts.
// Idempotency keys and the slots of calls in flight stay. The limiter must be a
// [Resetter].
func (m *Meter) Reset(ctx context.Context, t tenant.Tenant) error {
	plan, ok := m.planOf(t)
	if !ok {
		return ErrUnknownPlan
	}
	resetter, ok := m.guard.limiter.(Resetter)
	if !ok {
		return errors.New("metering: reset tenant: the limiter can't reset")
	}
	r := Request{Tenant: t.ID, Bounds: plan.all.at(t, m.now())}
	if err := resetter.Reset(ctx, r); err != nil {
		return fmt.Errorf("metering: reset tenant: %w", err)
	}
	return m.guard.local.Reset(ctx, r)
}

// Check reports whether the limiter can be asked, for a health check. It asks
// even while the breaker is open, and closes it when the limiter answers.
func (m *Meter) Check(ctx context.Context) error {
	if err := m.guard.check(ctx); err != nil {
		return fmt.Errorf("metering: check limiter: %w", err)
	}
	return nil
}
