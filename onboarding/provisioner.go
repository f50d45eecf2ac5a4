package onboarding

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Options configure a [Provisioner]. The zero value is good for production.
type Options struct {
	// Plans are the plans that may be asked for; any other is an error.
	// Defaults to free, starter, pro and enterprise.
	Plans []tenant.Plan

	// Grace is how long a tenant that is leaving can be restored.
	// Defaults to 30 days.
	Grace time.Duration

	// Workers is how many tenants are worked on at once by this process.
	// Defaults to 4.
	Workers int

	// Lease is how long after its last sign of life another process takes a
	// tenant over.
	// Defaults to 30 s.
	Lease time.Duration

	// Poll is how often the store is asked for work that no notification has
	// told of.
	// Defaults to 1 s.
	Poll time.Duration

	// MaxAttempts is how often a step is tried before its operation fails.
	// Defaults to 10.
	MaxAttempts int

	// Backoff is the wait after a step's first failed attempt; it doubles
	// with each further one, up to 5 minutes.
	// Defaults to 1 s.
	Backoff time.Duration

	// RetryFailed is when an operation that used up its attempts begins
	// again by itself. One that failed with a [Terminal] error never does.
	// Defaults to 1 h.
	RetryFailed time.Duration

	// Owner names this process in the leases.
	// Defaults to the host's name, the process id and a random part.
	Owner string

	// Logger gets one line for each transition and each failed step.
	// Defaults to none.
	Logger *slog.Logger
}

// Provisioner brings tenants to the state that is wanted of them. It is safe
// for concurrent use; several processes may have one each on the same store.
type Provisioner struct {
	state State
	steps Steps
	opts  Options
	log   *slog.Logger
	plans map[tenant.Plan]bool

	mu   sync.Mutex
	bell chan struct{} // closed, and replaced, when something may be due or has changed
}

var stepName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,40}$`)

// New returns a Provisioner that keeps its state in state and does steps. It
// works on nothing until [Provisioner.Run] is called, in this or another
// process.
func New(state State, steps Steps, opts *Options) (*Provisioner, error) {
	p := &Provisioner{state: state, steps: steps, plans: make(map[tenant.Plan]bool), bell: make(chan struct{})}
	if opts != nil {
		p.opts = *opts
	}
	var errs []error
	if state == nil {
		errs = append(errs, errors.New("onboarding: State is required"))
	}
	for _, list := range []struct {
		name  string
		steps []Step
	}{{"Provision", steps.Provision}, {"Attend", steps.Attend}, {"Deprovision", steps.Deprovision}, {"Purge", steps.Purge}} {
		seen := make(map[string]bool)
		for _, s := range list.steps {
			if !stepName.MatchString(s.Name) || seen[s.Name] || s.Do == nil || s.Timeout < 0 {
				errs = append(errs, fmt.Errorf("onboarding: Steps.%s: step %q needs a name of its own, a Do, and no negative Timeout", list.name, s.Name))
			}
			seen[s.Name] = true
		}
	}
	o := &p.opts
	for _, d := range []struct {
		name  string
		field *time.Duration
		def   time.Duration
	}{
		{"Grace", &o.Grace, 30 * 24 * time.Hour}, {"Lease", &o.Lease, 30 * time.Second}, {"Poll", &o.Poll, time.Second},
		{"Backoff", &o.Backoff, time.Second}, {"RetryFailed", &o.RetryFailed, time.Hour},
	} {
		if *d.field < 0 {
			errs = append(errs, fmt.Errorf("onboarding: Options.%s is negative", d.name))
		}
		if *d.field == 0 {
			*d.field = d.def
		}
	}
	if o.Workers < 0 || o.MaxAttempts < 0 {
		errs = append(errs, errors.New("onboarding: Options.Workers and MaxAttempts must not be negative"))
	}
	if o.Workers == 0 {
		o.Workers = 4
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = 10
	}
	if len(o.Plans) == 0 {
		o.Plans = []tenant.Plan{tenant.Free, tenant.Starter, tenant.Pro, tenant.Enterprise}
	}
	for _, plan := range o.Plans {
		p.plans[plan] = true
	}
	if o.Owner == "" {
		host, _ := os.Hostname()
		o.Owner = fmt.Sprintf("%s/%d/%s", host, os.Getpid(), rand.Text()[:8])
	}
	p.log = o.Logger
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	return p, errors.Join(errs...)
}

// update makes a change that somebody asked for, and wakes the reconciler of
// this process; the store tells the others.
func (p *Provisioner) update(ctx context.Context, id tenant.ID, create bool, c Change) error {
	if _, err := p.state.Update(ctx, id, create, c); err != nil {
		return err
	}
	p.ring()
	return nil
}

// Tenant returns where a tenant stands, or [ErrUnknownTenant].
func (p *Provisioner) Tenant(ctx context.Context, id tenant.ID) (Record, error) {
	return p.state.Load(ctx, id)
}

// Wait returns once the tenant is in one of the wanted states. If its
// operation gives up meanwhile it returns a [*StepError], and for a tenant that
// can't come to a wanted state any more a [*TransitionError].
func (p *Provisioner) Wait(ctx context.Context, id tenant.ID, want ...tenant.Status) (Record, error) {
	for {
		bell := p.listen()
		r, err := p.state.Load(ctx, id)
		switch {
		case err != nil:
			return Record{}, err
		case slices.Contains(want, r.State):
			return r, nil
		case final(r.State):
			return r, &TransitionError{Tenant: id, From: r.State, Event: EventStart}
		case r.State == tenant.Failed || r.State == tenant.DeprovisionFailed:
			if r.NextAt.IsZero() || r.NextAt.After(r.Now) {
				return r, p.stepError(ctx, r)
			}
		}
		// The reconciler may be another process, which rings no bell here.
		if err := pause(ctx, min(p.opts.Poll, 100*time.Millisecond), bell); err != nil {
			return r, fmt.Errorf("onboarding: wait for tenant %s, which is %s: %w", id, r.State, err)
		}
	}
}

func (p *Provisioner) stepError(ctx context.Context, r Record) error {
	e := &StepError{Tenant: r.Tenant, Err: errors.New("gave up")}
	if r.Failure != nil {
		e.Step, e.Err = r.Failure.Step, fmt.Errorf("%s: %s", r.Failure.Class, r.Failure.Text)
	}
	steps, err := p.state.Steps(ctx, r.Tenant, operation(r))
	if err != nil {
		return err
	}
	for _, s := range steps {
		if s.State == StepDone {
			e.Done = append(e.Done, s.Name)
		}
	}
	return e
}

// ring wakes everyone that waits for the bell.
func (p *Provisioner) ring() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.bell)
	p.bell = make(chan struct{})
}

// listen returns a channel that is closed at the next ring.
func (p *Provisioner) listen() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bell
}

// pause waits for d, the bell, or the end of ctx, whose error it returns.
func pause(ctx context.Context, d time.Duration, bell <-chan struct{}) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	case <-bell:
	}
	return nil
}
