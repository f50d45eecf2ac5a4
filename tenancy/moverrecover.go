package tenancy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// cutShortSQL lists the tenants that are shut out while nobody holds them: the
// process that moved them has ended. The lock is that of hold, and is given back
// with the answer.
const cutShortSQL = `
select tenant_id from mcpsaas.moves where state = 'switching'
	and pg_try_advisory_xact_lock(hashtextextended(tenant_id::text, 7809644653577529455))`

// Recover lets in the tenants whose mover died in the short moment of a switch
// between two databases, when they are nowhere: they go on where they were, and
// their moves once [Mover.Move] is called again. It returns how many there were, and
// goes on when one fails. What another process works on it leaves alone.
//
// It is one query if there is nothing to do. A program that has tenants in
// databases of their own calls it every second or so: a call of such a tenant waits two
// seconds for its rows, and so doesn't notice.
func (m *Mover) Recover(ctx context.Context) (tenants int, err error) {
	rows, err := m.data.control.Query(ctx, cutShortSQL)
	if err != nil {
		return 0, fmt.Errorf("tenancy: recover moves: %w", redact(err))
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[tenant.ID])
	if err != nil {
		return 0, fmt.Errorf("tenancy: recover moves: %w", redact(err))
	}
	var errs []error
	for _, id := range ids {
		done, err := m.recover(ctx, id)
		if err != nil {
			errs = append(errs, fmt.Errorf("tenancy: recover moves: tenant %s: %w", id, err))
		}
		if done {
			tenants++
		}
	}
	return tenants, errors.Join(errs...)
}

func (m *Mover) recover(ctx context.Context, id tenant.ID) (done bool, err error) {
	err = m.take(ctx, id, func(r *moving) error {
		if r.row.State != MoveSwitching {
			return nil // somebody else has been here
		}
		if err := r.reopen(ctx); err != nil {
			return err
		}
		m.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "a switch was cut short; the tenant is let in again", slog.String("tenant", id.String()))
		done = true
		return nil
	})
	if errors.Is(err, ErrNoMove) {
		err = nil
	}
	return done, err
}

// take makes the move of the tenant that has begun this process's for as long as fn
// runs.
func (m *Mover) take(ctx context.Context, id tenant.ID, fn func(r *moving) error) error {
	return m.data.hold(ctx, id, holdMove, func(_ pgx.Tx, _ home, _ place) (err error) {
		r := &moving{Mover: m, id: id, start: time.Now()}
		if r.row, err = readMove(ctx, m.data.control, runningMoveSQL, id); err != nil {
			return err
		}
		if err := r.attach(ctx); err != nil {
			return err
		}
		defer r.engine.Done()
		return fn(r)
	})
}

// reopen lets the tenant in where it was, after a switch between two databases
// that was cut short: nothing has led to the other yet.
func (r *moving) reopen(ctx context.Context) error {
	if err := r.engine.Reopen(ctx); err != nil {
		return err
	}
	return r.advance(ctx, MoveCaughtUp)
}
