package tenancy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/internal/pgmigrate"
)

// Status tells how every schema stands, in one query per database.
func (m *Migrator) Status(ctx context.Context) ([]MigrationStatus, error) {
	targets, err := m.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("tenancy: migration status: %w", err)
	}
	all := m.status(ctx, targets)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("tenancy: migration status: %w", err)
	}
	return all, nil
}

func (m *Migrator) status(ctx context.Context, targets []MigrationTarget) []MigrationStatus {
	all := make([]MigrationStatus, len(targets))
	places := make(map[MigrationDB][]int)
	var dbs []MigrationDB
	for i, t := range targets {
		if places[t.DB] == nil {
			dbs = append(dbs, t.DB)
		}
		places[t.DB] = append(places[t.DB], i)
	}
	m.each(ctx, len(dbs), func(n int) {
		places := places[dbs[n]]
		schemas := make([]string, len(places))
		for i, at := range places {
			schemas[i] = targets[at].Schema
		}
		states, err := pgmigrate.States(ctx, dbs[n], schemas, m.files)
		for _, at := range places {
			all[at] = statusOf(targets[at], states[targets[at].Schema], err)
		}
	}, nil)
	return all
}

func statusOf(t MigrationTarget, s pgmigrate.State, err error) MigrationStatus {
	status := MigrationStatus{Target: t, State: MigrationPending, Version: s.Version, Pending: s.Pending, LastError: s.Error}
	switch {
	case err != nil:
		status.State, status.Err = MigrationFailed, fmt.Errorf("schema %q: %w", t.Schema, redact(err))
	case s.Missing:
		status.State, status.Err = MigrationFailed, fmt.Errorf("schema %q: no such schema", t.Schema)
	case s.Ahead:
		status.State = MigrationAhead
	case s.Current():
		status.State = MigrationCurrent
	}
	return status
}

// each calls f for the numbers below n, several at a time, until all are done,
// the context ends or stop says so. It returns when no call is running.
func (m *Migrator) each(ctx context.Context, n int, f func(int), stop func() bool) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(m.opts.Workers, n) {
		wg.Go(func() {
			for i := range next {
				if stop == nil || !stop() { // it may have changed while i was waiting
					f(i)
				}
			}
		})
	}
	defer wg.Wait()
	defer close(next)
	for i := range n {
		if ctx.Err() != nil || stop != nil && stop() {
			return
		}
		select {
		case next <- i:
		case <-ctx.Done():
			return
		}
	}
}

// Migrate brings every schema up to date: the canaries first, then the rest,
// several at a time. It goes on when a schema fails, up to
// [MigratorOptions.MaxFailures]. A cancelled context ends it: what is running
// is rolled back. However a run ended, also by a kill, the next one goes on
// where it stopped; schemas with nothing to do cost one query in all.
//
// The result is complete, also with an error, unless the schemas could not be
// listed. A [*MigrateError] says that not every schema is up to date.
func (m *Migrator) Migrate(ctx context.Context) (*MigrationResult, error) {
	targets, err := m.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("tenancy: migrate: %w", err)
	}
	r := &migration{Migrator: m, start: time.Now(), outcomes: make([]MigrationOutcome, len(targets))}
	r.progress.Total = len(targets)
	var canaries, rest []int
	for i, status := range m.status(ctx, targets) {
		o := &r.outcomes[i]
		*o = MigrationOutcome{Target: targets[i], State: status.State, Err: status.Err}
		switch {
		case ctx.Err() != nil:
			o.State, o.Err = MigrationStopped, context.Cause(ctx)
		case o.State == MigrationFailed:
			r.failed(o)
		case o.State != MigrationPending:
			r.progress.Done++
		default:
			o.State = MigrationStopped // until it is started
			if targets[i].Canary {
				canaries = append(canaries, i)
			} else {
				rest = append(rest, i)
			}
		}
	}
	m.opts.Logger.LogAttrs(ctx, slog.LevelInfo, "migration begins",
		slog.Int("schemas", len(targets)), slog.Int("pending", len(canaries)+len(rest)))
	r.report(nil, func(p *MigrationProgress) { p.Canary = len(canaries) > 0 })
	r.run(ctx, canaries)
	for i := range r.outcomes {
		if r.cause == nil && r.outcomes[i].Target.Canary && r.outcomes[i].State == MigrationFailed {
			r.cause = ErrCanaryFailed
		}
	}
	if r.cause == nil {
		r.progress.Canary = false
		r.run(ctx, rest)
	}
	return r.end(ctx)
}

// migration is one run.
type migration struct {
	*Migrator
	start    time.Time
	outcomes []MigrationOutcome

	mu       sync.Mutex // for what follows, while workers run
	progress MigrationProgress
	cause    error
}

func (r *migration) run(ctx context.Context, which []int) {
	r.each(ctx, len(which), func(n int) {
		o := &r.outcomes[which[n]]
		r.report(nil, func(p *MigrationProgress) { p.Running++ })
		began := time.Now()
		r.migrate(ctx, o)
		o.Took = time.Since(began)
		r.report(o, func(p *MigrationProgress) {
			p.Running--
			switch o.State {
			case MigrationFailed:
				r.failed(o)
			case MigrationApplied, MigrationCurrent:
				p.Done++
			}
		})
	}, r.full)
	if r.cause == nil && ctx.Err() != nil {
		r.cause = context.Cause(ctx)
	}
}

// full reports whether so many schemas have failed that no more are started.
func (r *migration) full() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.opts.MaxFailures >= 0 && r.progress.Failed >= r.opts.MaxFailures {
		r.cause = ErrTooManyFailures
		return true
	}
	return false
}

func (r *migration) failed(o *MigrationOutcome) {
	r.progress.Failed++
	attrs := []slog.Attr{slog.String("schema", o.Target.Schema), slog.Any("err", o.Err)}
	if !o.Target.Tenant.IsZero() {
		attrs = append(attrs, slog.String("tenant", o.Target.Tenant.String()))
	}
	r.opts.Logger.LogAttrs(context.Background(), slog.LevelWarn, "schema not migrated", attrs...)
}

// report changes the progress and shows it, unless that is only a start.
func (r *migration) report(last *MigrationOutcome, change func(*MigrationProgress)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	started := r.progress.Running
	change(&r.progress)
	if r.opts.Progress == nil || r.progress.Running > started {
		return
	}
	p := r.progress
	p.Last, p.Elapsed = last, time.Since(r.start)
	r.opts.Progress(p)
}

// migrate applies what one schema lacks.
func (r *migration) migrate(ctx context.Context, o *MigrationOutcome) {
	s := pgmigrate.Schema{DB: o.Target.DB, Name: o.Target.Schema, LockTimeout: r.opts.LockTimeout}
	if !o.Target.Tenant.IsZero() {
		s.Tenant = o.Target.Tenant.String()
	}
	for attempt := 1; ; {
		if o.Err = ctx.Err(); o.Err != nil {
			o.State = MigrationStopped
			return
		}
		f, more, err := s.Step(ctx, r.files)
		switch {
		case err == nil:
			if f != nil {
				o.Applied = append(o.Applied, f.Name)
			}
			if more {
				attempt = 1
				continue
			}
			o.State = MigrationCurrent
			if len(o.Applied) > 0 {
				o.State = MigrationApplied
			}
			return
		case ctx.Err() != nil:
			o.State, o.Err = MigrationStopped, ctx.Err()
			return
		case errors.Is(err, pgmigrate.ErrBusy) && attempt < r.opts.LockAttempts:
			pause(ctx, attempt)
			attempt++
			continue
		}
		o.State, o.Err = MigrationFailed, redact(err)
		if f != nil {
			o.Err = fmt.Errorf("apply %s: %w", f.Name, o.Err)
		}
		o.Err = fmt.Errorf("schema %q: %w", o.Target.Schema, o.Err)
		return
	}
}

// pause waits longer with each attempt, and not exactly as long as others do.
func pause(ctx context.Context, attempt int) {
	const first, longest = 50 * time.Millisecond, 5 * time.Second
	d := min(first<<min(attempt-1, 10), longest)
	timer := time.NewTimer(d/2 + rand.N(d/2))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (r *migration) end(ctx context.Context) (*MigrationResult, error) {
	result := &MigrationResult{Outcomes: r.outcomes, Took: time.Since(r.start)}
	e := &MigrateError{Total: len(r.outcomes), Cause: r.cause}
	for i := range r.outcomes {
		o := &r.outcomes[i]
		switch o.State {
		case MigrationFailed:
			e.Failed = append(e.Failed, *o)
		case MigrationStopped:
			e.Stopped++
			if o.Err == nil {
				o.Err = r.cause
			}
		}
	}
	r.opts.Logger.LogAttrs(ctx, slog.LevelInfo, "migration ends",
		slog.Int("applied", result.Count(MigrationApplied)), slog.Int("current", result.Count(MigrationCurrent)),
		slog.Int("ahead", result.Count(MigrationAhead)), slog.Int("failed", len(e.Failed)),
		slog.Int("stopped", e.Stopped), slog.Duration("took", result.Took))
	if len(e.Failed) > 0 || e.Stopped > 0 {
		return result, e
	}
	return result, nil
}
