package tenancy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/internal/pgmove"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Move takes the tenant to another place, and returns when it is there. A
// schema that it needs is made, and a database that exists filled with tables.
//
// If the move was begun before, by any process, and not ended, Move goes on where
// that stopped: a copy that was cut short is begun again, all else is not lost. If
// ctx is done, or the process dies, the tenant is where it was, and what it writes
// is noted on, until Move or [Mover.Abort] is called; only in the short moment of a
// switch between two databases the tenant is nowhere until then, or until
// [Mover.Recover] is.
//
// A [*MoveRefusedError] says that nothing was done and why.
func (m *Mover) Move(ctx context.Context, id tenant.ID, to Placement) (*MoveResult, error) {
	var result *MoveResult
	err := m.data.hold(ctx, id, holdMove, func(_ pgx.Tx, h home, p place) (err error) {
		result, err = m.move(ctx, h, p, to)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tenancy: move tenant: %w", err)
	}
	return result, nil
}

func (m *Mover) move(ctx context.Context, h home, p place, at Placement) (*MoveResult, error) {
	to, err := m.data.placeAt(p.tenant, at)
	if err != nil {
		return nil, err
	}
	r := &moving{Mover: m, id: p.tenant, start: time.Now()}
	r.row, err = readMove(ctx, m.data.control, runningMoveSQL, r.id)
	switch {
	case errors.Is(err, ErrNoMove):
		if p.at == to.at {
			return m.there(ctx, p, h)
		}
		return r.begin(ctx, h, p, to)
	case err != nil:
		return nil, err
	case r.row.Target != to.at.String():
		return nil, fmt.Errorf("%w, to %s: end or abort it first", ErrMoving, r.row.Target)
	}
	if err := r.attach(ctx); err != nil {
		return nil, err
	}
	return r.run(ctx, true)
}

// there answers a call that has nothing to do.
func (m *Mover) there(ctx context.Context, p place, h home) (*MoveResult, error) {
	result := &MoveResult{Tenant: p.tenant, From: p.at.String(), To: p.at.String(), Epoch: h.epoch}
	row, err := readMove(ctx, m.data.control, lastMoveSQL, p.tenant)
	switch {
	case errors.Is(err, ErrNoMove):
		return result, nil
	case err != nil:
		return nil, err
	case row.Target == p.at.String() && row.Epoch+1 == h.epoch:
		return row.result(p.tenant), nil
	}
	return result, nil
}

func (row *moveRow) result(id tenant.ID) *MoveResult {
	result := &MoveResult{Tenant: id, From: row.Source, To: row.Target, Epoch: row.Epoch + 1, Rows: row.Rows, Changes: row.Changes}
	if row.Pause != nil {
		result.Pause = *row.Pause
	}
	if row.KeepUntil != nil {
		result.KeepTill = *row.KeepUntil
	}
	return result
}

// begin begins a move, unless something stands in the way.
func (r *moving) begin(ctx context.Context, h home, from, to place) (*MoveResult, error) {
	// A copy that an earlier move has left there is no longer of use.
	if err := r.purge(ctx, from, func(row *moveRow) bool { return row.Source == to.at.String() }); err != nil {
		return nil, err
	}
	plan := &MovePlan{Tenant: r.id, From: from.at.String(), To: to.at.String()}
	if plan.checkTenant(h); len(plan.Problems) == 0 {
		if err := r.data.create(ctx, to); err != nil {
			return nil, fmt.Errorf("make the new place: %w", err)
		}
		if err := r.fill(ctx, plan, from, to, h.epoch, false); err != nil {
			return nil, err
		}
	}
	if len(plan.Problems) > 0 {
		return nil, &MoveRefusedError{plan}
	}
	r.total = plan.Rows
	rows, err := r.data.control.Query(ctx, insertMoveSQL, r.id, plan.From, plan.To, h.epoch, token())
	if err != nil {
		return nil, err
	}
	if r.row, err = pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByPos[moveRow]); err != nil {
		return nil, err
	}
	if err := r.attach(ctx); err != nil {
		return nil, err
	}
	return r.run(ctx, false)
}

// attach finds both places, and makes the move this process's.
func (r *moving) attach(ctx context.Context) error {
	for text, p := range map[string]*place{r.row.Source: &r.from, r.row.Target: &r.to} {
		at, err := ParsePlacement(text)
		if err == nil {
			*p, err = r.data.placeAt(r.id, at)
		}
		if err != nil {
			return err
		}
	}
	r.engine = r.ends(r.from, r.to, r.row.Epoch)
	r.engine.Step = r.report
	err := r.claim(ctx)
	if err != nil {
		r.engine.Done()
	}
	return err
}

// claim makes the move this process's, under a new token, and reads how far it
// is: a transaction under the old one has ended by then, however late it was, or
// can do nothing more.
func (r *moving) claim(ctx context.Context) error {
	r.owner = token()
	r.engine.Owner = r.owner
	rows, err := r.data.control.Query(ctx, claimMoveSQL, r.row.ID, r.owner)
	if err != nil {
		return err
	}
	if r.row.State, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[MoveState]); err != nil {
		return err
	}
	return r.engine.Claim(ctx)
}

// run brings the move to its end.
func (r *moving) run(ctx context.Context, resumed bool) (*MoveResult, error) {
	log := r.opts.Logger.With(slog.String("tenant", r.id.String()))
	log.LogAttrs(ctx, slog.LevelInfo, "move begins", slog.String("from", r.row.Source), slog.String("to", r.row.Target), slog.String("state", string(r.row.State)))
	r.report("begun")
	defer r.engine.Done()
	err := r.steps(ctx)
	if err != nil {
		log.LogAttrs(ctx, slog.LevelWarn, "move stopped", slog.String("state", string(r.row.State)), slog.Any("err", err))
		return nil, errors.Join(err, r.failed(ctx, err))
	}
	result := r.row.result(r.id)
	result.Took, result.Resumed = time.Since(r.start), resumed
	log.LogAttrs(ctx, slog.LevelInfo, "move ends", slog.Int64("rows", result.Rows), slog.Int64("changes", result.Changes), slog.Duration("pause", result.Pause))
	return result, nil
}

// failed writes down why, and aborts what can't be mended by trying again. The
// caller's context may be what ended it.
func (r *moving) failed(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if r.row.State == MoveSwitched || errors.Is(cause, pgmove.ErrLost) {
		return nil
	}
	r.row.Error = redact(cause).Error()
	if errors.Is(cause, ErrMoveDiffers) {
		return r.undo(ctx)
	}
	r.set(ctx, r.row.State) // for people to read; the cause itself is returned
	return nil
}

func (r *moving) report(step string) {
	if r.opts.Progress != nil {
		r.opts.Progress(MoveProgress{Tenant: r.id, State: r.row.State, Step: step,
			Rows: r.row.Rows, Total: r.total, Changes: r.row.Changes, Elapsed: time.Since(r.start)})
	}
	if r.step != nil {
		r.step(step)
	}
}

func (r *moving) advance(ctx context.Context, state MoveState) error {
	if err := r.set(ctx, state); err != nil {
		return err
	}
	r.report("now " + string(state))
	return nil
}

// steps does what is left to do, according to the state.
func (r *moving) steps(ctx context.Context) error {
	if r.row.State == MoveSwitched {
		return r.cleanUp(ctx)
	}
	problems, err := r.engine.Prepare(ctx)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: %v", pgmove.ErrChanged, problems[0])
	}
	if r.row.State == MovePlanned {
		if err := r.advance(ctx, MoveCopying); err != nil {
			return err
		}
	}
	if r.row.State == MoveSwitching {
		if err := r.reopen(ctx); err != nil {
			return err
		}
	}
	outlive, err := r.engine.Fence(ctx)
	if err != nil {
		return err
	}
	r.report("fenced")
	if err := r.engine.Capture(ctx); err != nil {
		return err
	}
	if r.row.State == MoveCopying {
		if err := r.copy(ctx); err != nil {
			return err
		}
	}
	if err := r.catchUp(ctx, outlive); err != nil {
		return err
	}
	if err := r.switchOver(ctx); err != nil {
		return err
	}
	return r.cleanUp(ctx)
}

func (r *moving) copy(ctx context.Context) error {
	r.row.Rows, r.row.Changes = 0, 0
	if _, err := r.engine.Clear(ctx, r.engine.To, r.data.batch); err != nil {
		return err
	}
	if _, err := r.engine.Copy(ctx, func(_ string, rows int64) { r.row.Rows += rows }); err != nil {
		return err
	}
	if err := r.engine.Analyze(ctx); err != nil {
		return err
	}
	return r.advance(ctx, MoveCopied)
}

// catchUp carries over what was written during the copy, and compares.
func (r *moving) catchUp(ctx context.Context, outlive func(context.Context) error) error {
	if err := r.follow(ctx); err != nil {
		return err
	}
	rows, err := r.engine.Verify(ctx)
	if err != nil {
		return r.differs(err)
	}
	r.row.Changes += rows
	r.report("compared")
	if err := r.engine.RaiseSequences(ctx); err != nil {
		return err
	}
	if err := outlive(ctx); err != nil {
		return err
	}
	return r.advance(ctx, MoveCaughtUp)
}

func (r *moving) differs(err error) error {
	if differ, ok := errors.AsType[*pgmove.DifferError](err); ok {
		return fmt.Errorf("%w: %w", ErrMoveDiffers, differ)
	}
	return err
}

// follow carries over until there is little to do for the switch, as little as
// there will be. A tenant that writes faster than that goes is slowed down, more
// with each round.
func (r *moving) follow(ctx context.Context) error {
	const (
		few   = 100
		quick = 60 * time.Millisecond
		slice = 30 * time.Millisecond // for how long the brake holds at a time
		most  = 20
	)
	release := 2 * slice
	before := int64(math.MaxInt64)
	for round := range most {
		brake := func() {}
		if round > 1 {
			brake = r.engine.Brake(ctx, slice, release)
			release = max(release/2, slice/3)
		}
		start := time.Now()
		rows, err := r.engine.CatchUp(ctx)
		took := time.Since(start)
		brake()
		if err != nil {
			return r.differs(err)
		}
		r.row.Changes += rows
		r.report("carried over")
		if rows <= few || took < quick || round > 3 && rows > before*3/4 {
			return nil
		}
		before = rows
	}
	return nil
}

// switchAttempts is how often the switch is tried.
const switchAttempts = 20

func (r *moving) switchOver(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		if err := r.follow(ctx); err != nil {
			return err
		}
		err := r.switchOnce(ctx)
		if err == nil {
			r.row.State = MoveSwitched
			r.report("switched")
			return nil
		}
		if !errors.Is(err, pgmove.ErrPause) {
			return r.differs(err)
		}
		if err := r.claim(ctx); err != nil {
			return err
		}
		switch {
		case r.row.State == MoveSwitched:
			return nil // it was committed, and the answer came too late
		case attempt == switchAttempts:
			return ErrMovePause
		}
		pause(ctx, attempt)
	}
}

func (r *moving) switchOnce(ctx context.Context) error {
	if r.engine.Same {
		waited, err := r.engine.Switch(ctx, r.opts.MaxPause, r.flip)
		r.row.Pause = &waited
		return err
	}
	if r.row.State != MoveSwitching {
		if err := r.advance(ctx, MoveSwitching); err != nil {
			return err
		}
	}
	waited, err := r.engine.SwitchAcross(ctx, r.opts.MaxPause, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, r.data.control, func(tx pgx.Tx) error { return r.flip(ctx, tx) })
	})
	r.row.Pause = &waited
	return err
}

// cleanUp ends the capture at the old place, which is out of reach by now.
func (r *moving) cleanUp(ctx context.Context) error {
	if err := r.engine.Release(ctx); err != nil {
		return err
	}
	if err := r.set(ctx, MoveKept); err != nil {
		return err
	}
	r.report("kept")
	if err := r.engine.Unclaim(ctx); err != nil || r.opts.Keep >= 0 {
		return err
	}
	p, err := r.data.placeAt(r.id, r.to.at)
	if err != nil {
		return err
	}
	return r.purge(ctx, p, func(row *moveRow) bool { return row.ID == r.row.ID })
}

// Abort ends a move that has begun and leaves the tenant where it was. It is
// possible until the switch: [ErrMoveSwitched] means that it is too late. [ErrNoMove]
// means that there is nothing to abort.
func (m *Mover) Abort(ctx context.Context, id tenant.ID) error {
	err := m.take(ctx, id, func(r *moving) error {
		if r.row.State == MoveSwitched {
			return ErrMoveSwitched
		}
		return r.undo(ctx)
	})
	if err != nil {
		return fmt.Errorf("tenancy: abort move: %w", err)
	}
	return nil
}

// undo opens the old place again and empties the new one.
func (r *moving) undo(ctx context.Context) error {
	if r.row.State == MoveSwitching {
		if err := r.reopen(ctx); err != nil {
			return err
		}
	}
	if err := r.engine.Release(ctx); err != nil {
		return err
	}
	// What stands in the way of a move doesn't in that of its end.
	if _, err := r.engine.Prepare(ctx); err != nil {
		return err
	}
	if _, err := r.engine.Clear(ctx, r.engine.To, r.data.batch); err != nil {
		return err
	}
	if err := r.set(ctx, MoveAborted); err != nil {
		return err
	}
	r.report("aborted")
	return r.engine.Unclaim(ctx)
}
