package onboarding

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

const (
	defaultTimeout = 30 * time.Second
	maxBackoff     = 5 * time.Minute

	opProvision = "provision"
	opAttend    = "attend"
)

// operation names the operation that a tenant in r's state is in. Its
// generation sets the steps of one deprovisioning apart from those of an
// earlier one that was called off.
func operation(r Record) string {
	switch r.State {
	case tenant.Deprovisioning, tenant.DeprovisionFailed:
		return fmt.Sprintf("deprovision-%d", r.Generation)
	case tenant.Purging, tenant.Deleted:
		return fmt.Sprintf("purge-%d", r.Generation)
	case tenant.Active, tenant.Suspended:
		return opAttend
	}
	return opProvision
}

// operate does what is left of an operation and calls done at its end.
func (p *Provisioner) operate(ctx context.Context, held Record, steps []Step, done func(*Task) (Record, error)) (Record, error) {
	task, kept, err := p.resume(ctx, held)
	if err != nil {
		return held, err
	}
	for _, s := range steps {
		rec, ok := kept[s.Name]
		if !ok {
			rec = StepRecord{Op: task.Op, Name: s.Name, State: StepPending}
		}
		if (rec.State == StepFailed || rec.State == StepRunning) && p.spent(rec) {
			// A crash came between the two writes, or the step is what kills
			// the process each time.
			if rec.Failure == nil {
				rec.Failure = &Failure{Step: s.Name, Class: ClassError, Text: "the process ended during the step"}
			}
			return p.giveUp(ctx, held, rec)
		}
		if rec.State == StepDone && !s.Fresh && p.proved(ctx, s, task) {
			continue
		}
		if rec.State == StepDone {
			rec.Attempt = 0
		}
		rec, err = p.do(ctx, held, s, task, rec)
		if err != nil {
			return held, err
		}
		if rec.State == StepDone {
			continue
		}
		if p.spent(rec) {
			return p.giveUp(ctx, held, rec)
		}
		return p.rest(ctx, held, rec.NextAt, rec.Failure)
	}
	return done(task)
}

// resume reads what the operation has done so far.
func (p *Provisioner) resume(ctx context.Context, held Record) (*Task, map[string]StepRecord, error) {
	task := &Task{Record: held, Op: operation(held), outputs: make(map[string]json.RawMessage), read: time.Now()}
	kept := make(map[string]StepRecord)
	for _, op := range []string{opProvision, opAttend, task.Op} {
		list, err := p.state.Steps(ctx, held.Tenant, op)
		if err != nil {
			return nil, nil, err
		}
		for _, rec := range list {
			if rec.Output != nil {
				task.outputs[rec.Name] = rec.Output
			}
			if op == task.Op {
				kept[rec.Name] = rec
			}
		}
	}
	return task, kept, nil
}

// proved reports whether a step that is recorded as done still is.
func (p *Provisioner) proved(ctx context.Context, s Step, task *Task) bool {
	if s.Verify == nil {
		return true
	}
	err := guard(ctx, s, func(ctx context.Context) error { return s.Verify(ctx, task) })
	if err != nil && ctx.Err() == nil {
		p.log.LogAttrs(ctx, slog.LevelWarn, "step is done again",
			slog.String("tenant", task.Tenant.String()), slog.String("step", s.Name), slog.Any("err", err))
	}
	return err == nil
}

// do runs a step once and records how it ended. The error is one of the store
// or of the context; the step's own is in the record.
func (p *Provisioner) do(ctx context.Context, held Record, s Step, task *Task, rec StepRecord) (StepRecord, error) {
	rec.State, rec.Attempt, rec.NextAt, rec.StartedAt, rec.EndedAt = StepRunning, rec.Attempt+1, time.Time{}, task.now(), time.Time{}
	if err := p.state.PutStep(ctx, held, rec); err != nil {
		return rec, err
	}
	var output json.RawMessage
	err := guard(ctx, s, func(ctx context.Context) error {
		v, err := s.Do(ctx, task)
		if err != nil || v == nil {
			return err
		}
		output, err = json.Marshal(v)
		return err
	})
	if err == nil {
		if output != nil {
			task.outputs[s.Name] = output
		}
		if s.Verify != nil {
			err = guard(ctx, s, func(ctx context.Context) error { return s.Verify(ctx, task) })
		}
	}
	if ctx.Err() != nil {
		// Stopped from outside, which is no failure of the step. It stays
		// "running"; the next owner does it again.
		return rec, context.Cause(ctx)
	}
	ended := task.now()
	rec.EndedAt = ended
	if err == nil {
		rec.State, rec.Failure, rec.Output = StepDone, nil, output
	} else {
		rec.State, rec.Failure = StepFailed, failure(s.Name, err)
		rec.NextAt = ended.Add(p.backoff(rec.Attempt, err))
		p.log.LogAttrs(ctx, slog.LevelWarn, "step failed", slog.String("tenant", held.Tenant.String()),
			slog.String("step", s.Name), slog.Int("attempt", rec.Attempt), slog.Any("err", err))
	}
	return rec, p.state.PutStep(ctx, held, rec)
}

// guard runs user code within the step's time; a panic is an error.
func guard(ctx context.Context, s Step, f func(context.Context) error) (err error) {
	limit := s.Timeout
	if limit == 0 {
		limit = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v}
		}
	}()
	return f(ctx)
}

func (p *Provisioner) backoff(attempt int, err error) time.Duration {
	d := maxBackoff
	if attempt < 20 {
		d = min(d, p.opts.Backoff<<(attempt-1))
	}
	if r, ok := errors.AsType[*retryError](err); ok {
		d = max(d, r.after)
	}
	return d
}

// spent reports whether the step is not to be tried again by itself.
func (p *Provisioner) spent(rec StepRecord) bool {
	return rec.Attempt >= p.opts.MaxAttempts || rec.Failure != nil && rec.Failure.Class == ClassTerminal
}

// giveUp ends an operation whose step is spent. Where the tenant serves, or
// where data is being dropped, the state stays and it is tried again later.
func (p *Provisioner) giveUp(ctx context.Context, held Record, rec StepRecord) (Record, error) {
	p.log.LogAttrs(ctx, slog.LevelError, "gave up", slog.String("tenant", held.Tenant.String()),
		slog.String("step", rec.Name), slog.Int("attempt", rec.Attempt))
	var next time.Time
	if rec.Failure == nil || rec.Failure.Class != ClassTerminal {
		next = held.Now.Add(p.opts.RetryFailed)
	}
	if held.State != tenant.Provisioning && held.State != tenant.Deprovisioning {
		rec.Attempt, rec.State = 0, StepPending
		if err := p.state.PutStep(ctx, held, rec); err != nil {
			return held, err
		}
		return p.rest(ctx, held, next, rec.Failure)
	}
	return p.state.Advance(ctx, held, change(reconciler, "step "+rec.Name, func(d *draft) error {
		if err := d.apply(EventFail); err != nil {
			return err
		}
		d.NextAt, d.Failure = next, rec.Failure
		d.LeaseOwner, d.LeaseUntil = "", time.Time{}
		return nil
	}))
}

// reset gives the steps of a failed operation their attempts back.
func (p *Provisioner) reset(ctx context.Context, held Record) error {
	list, err := p.state.Steps(ctx, held.Tenant, operation(held))
	if err != nil {
		return err
	}
	for _, rec := range list {
		if rec.State == StepDone {
			continue
		}
		rec.State, rec.Attempt, rec.NextAt = StepPending, 0, time.Time{}
		if err := p.state.PutStep(ctx, held, rec); err != nil {
			return err
		}
	}
	return nil
}
