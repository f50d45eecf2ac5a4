package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// tenantMove moves a tenant, which goes on working meanwhile. It needs no server
// to run, and what a killed one has begun the next one ends.
func tenantMove(ctx context.Context, env *environment, args []string) error {
	id, err := oneTenant("tenant move", args)
	if err != nil {
		return err
	}
	c := env.config
	wishes := 0
	for _, given := range []bool{c.to != "", c.abort, c.purge} {
		if given {
			wishes++
		}
	}
	if wishes != 1 || c.dryRun && c.to == "" {
		return usagef("server tenant move ID: want one of -to (with -dry-run or without), -abort and -purge")
	}
	var to tenancy.Placement
	if c.to != "" {
		if to, err = c.databases.parseTarget(c.to, id); err != nil {
			return err
		}
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		line := &progressLine{w: env.stdout, live: isTerminal(env.stdout), quiet: c.json}
		mover, err := tenancy.NewMover(o.data, &tenancy.MoverOptions{Progress: line.showMove, Logger: o.logger})
		if err != nil {
			return err
		}
		if _, err := o.provisioner.Tenant(ctx, id); err != nil {
			return named(id, err)
		}
		switch {
		case c.abort:
			err = o.abortMove(ctx, env, mover, id)
		case c.purge:
			err = o.purgeCopies(ctx, env, mover, id)
		case c.dryRun:
			err = o.planMove(ctx, env, mover, id, to)
		default:
			err = o.move(ctx, env, mover, id, to, line)
		}
		return hint(id, err)
	})
}

// hint adds what to type next.
func hint(id tenant.ID, err error) error {
	switch {
	case errors.Is(err, tenancy.ErrMoving):
		return fmt.Errorf("%w: server tenant move %s -abort", err, id)
	case errors.Is(err, context.Canceled), errors.Is(err, tenancy.ErrMovePause):
		return fmt.Errorf("%w; the same command goes on, and -abort gives up", err)
	}
	return err
}

func (o *office) move(ctx context.Context, env *environment, mover *tenancy.Mover, id tenant.ID, to tenancy.Placement, line *progressLine) error {
	if err := o.makeDatabase(ctx, to); err != nil {
		return err
	}
	if _, err := o.record(ctx, id, "move", "to "+to.String(), nil); err != nil {
		return err
	}
	r, err := mover.Move(ctx, id, to)
	line.end()
	if err != nil {
		return err
	}
	return env.print(r, func() {
		fmt.Fprintf(env.stdout, "%s is in %s, epoch %d: %d rows, and %d that were written meanwhile; writers waited %v\n",
			id, r.To, r.Epoch, r.Rows, r.Changes, r.Pause.Round(time.Millisecond))
		if !r.KeepTill.IsZero() {
			fmt.Fprintf(env.stdout, "the old copy stays until %s, or `tenant move %s -purge`\n", r.KeepTill.UTC().Format(time.RFC3339), id)
		}
	})
}

// planMove says what a move would do. What is in its way makes the exit code 1.
func (o *office) planMove(ctx context.Context, env *environment, mover *tenancy.Mover, id tenant.ID, to tenancy.Placement) error {
	plan, err := mover.Plan(ctx, id, to)
	if err != nil {
		return err
	}
	if err := env.print(plan, func() {
		fmt.Fprintf(env.stdout, "from %s to %s\n", plan.From, plan.To)
		for _, t := range plan.Tables {
			fmt.Fprintf(env.stdout, "  %-32s  %9d rows  %11d bytes\n", t.Name, t.Rows, t.Bytes)
		}
		for _, note := range plan.Notes {
			fmt.Fprintln(env.stdout, " ", note)
		}
		for _, p := range plan.Problems {
			fmt.Fprintln(env.stdout, "  IN THE WAY:", p)
		}
	}); err != nil {
		return err
	}
	if len(plan.Problems) > 0 {
		return &tenancy.MoveRefusedError{Plan: plan}
	}
	return nil
}

func (o *office) abortMove(ctx context.Context, env *environment, mover *tenancy.Mover, id tenant.ID) error {
	if _, err := o.record(ctx, id, "move", "abort", nil); err != nil {
		return err
	}
	if err := mover.Abort(ctx, id); err != nil {
		return err
	}
	if err := o.dropUnused(ctx, id); err != nil {
		return err
	}
	return env.print(map[string]any{"tenant": id, "aborted": true}, func() {
		fmt.Fprintf(env.stdout, "given up; %s is where it was\n", id)
	})
}

func (o *office) purgeCopies(ctx context.Context, env *environment, mover *tenancy.Mover, id tenant.ID) error {
	if _, err := o.record(ctx, id, "move", "purge", nil); err != nil {
		return err
	}
	if err := mover.Purge(ctx, id); err != nil {
		return err
	}
	if err := o.dropUnused(ctx, id); err != nil {
		return err
	}
	return env.print(map[string]any{"tenant": id, "purged": true}, func() {
		fmt.Fprintf(env.stdout, "nothing is left of %s but where it is\n", id)
	})
}

// record writes into the audit log what an operator is about to do to a tenant's
// data, unless check refuses it.
func (o *office) record(ctx context.Context, id tenant.ID, action, reason string, check func(*onboarding.Record) error) (onboarding.Record, error) {
	r, err := o.state.Update(ctx, id, false, func(r *onboarding.Record) ([]onboarding.Entry, error) {
		if check != nil {
			if err := check(r); err != nil {
				return nil, err
			}
		}
		return []onboarding.Entry{{Tenant: id, Actor: operator(), Action: action, Reason: reason, From: r.State, To: r.State}}, nil
	})
	return r, named(id, err)
}

const (
	recoverEvery = 500 * time.Millisecond // a call waits two seconds for rows that are nowhere
	purgeEvery   = 10 * time.Minute
)

// endMoves takes care of what moves have left behind: a tenant that is shut out
// because its mover died is let in again, and a copy whose time is over is deleted.
// Any number of servers may do it at once.
func (a *app) endMoves(ctx context.Context) error {
	mover, err := tenancy.NewMover(a.data, &tenancy.MoverOptions{Logger: a.logger})
	if err != nil {
		return err
	}
	tick := time.NewTicker(recoverEvery)
	defer tick.Stop()
	for due := time.Now(); ; {
		if _, err := mover.Recover(ctx); err != nil && ctx.Err() == nil {
			a.logger.ErrorContext(ctx, "a move that was cut short keeps its tenant out; will try again", "err", err)
		}
		if !time.Now().Before(due) {
			due = time.Now().Add(purgeEvery)
			a.purge(ctx, mover)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *app) purge(ctx context.Context, mover *tenancy.Mover) {
	n, err := mover.PurgeDue(ctx)
	if err == nil && n > 0 {
		err = a.dropAllUnused(ctx)
	}
	if err != nil && ctx.Err() == nil {
		a.logger.ErrorContext(ctx, "old copies are not purged; will try again", "err", err)
	}
}
