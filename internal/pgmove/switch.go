package pgmove

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// lockSQL waits until no transaction of the tenant's is running, and keeps
// others out. The key is that of mcpsaas_app.enter.
const lockSQL = `select pg_advisory_xact_lock(hashtextextended($1, 7310868735423373166))`

// ErrPause means that the switch took longer than it may keep the tenant's
// writers waiting. They go on where they were, and it may be tried again.
var ErrPause = errors.New("the switch would keep the tenant waiting for too long")

// Switch makes the target the tenant's home, within a database: the last delta,
// and what flip does, are one transaction. It returns how long writers waited.
func (m *Move) Switch(ctx context.Context, most time.Duration, flip func(ctx context.Context, tx pgx.Tx) error) (time.Duration, error) {
	start := time.Now()
	bounded, cancel := context.WithTimeoutCause(ctx, most, ErrPause)
	defer cancel()
	err := m.within(bounded, m.To, pgx.ReadCommitted, func(tx *tx) error {
		if err := m.exclude(bounded, tx); err != nil {
			return err
		}
		if err := m.last(bounded, tx, tx); err != nil {
			return err
		}
		if err := m.putFence(bounded, tx, m.To, m.Epoch+1, true); err != nil {
			return err
		}
		if err := flip(bounded, tx); err != nil {
			return err
		}
		m.step("switching")
		return nil
	})
	return time.Since(start), late(bounded, err)
}

// late names a failure for what it is, if the time was up.
func late(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), ErrPause) {
		return ErrPause
	}
	return err
}

// exclude takes the tenant's exclusive lock for the transaction.
func (m *Move) exclude(ctx context.Context, t *tx) error {
	if _, err := t.Exec(ctx, lockTimeout(m.lockTimeout())); err != nil {
		return err
	}
	_, err := t.Exec(ctx, lockSQL, m.Tenant)
	if busy(err) {
		return ErrPause
	}
	return err
}

// last carries over what is left, while nobody writes.
func (m *Move) last(ctx context.Context, from, to *tx) error {
	if err := constraints(ctx, to, "deferred"); err != nil {
		return err
	}
	if _, err := m.carry(ctx, from, to); err != nil {
		return err
	}
	if err := m.raise(ctx, from, to, 0); err != nil {
		return err
	}
	if shapes, err := m.readShapes(ctx, from, to); err != nil || !slices.Equal(shapes, m.shapes) {
		return errors.Join(err, ErrChanged)
	}
	return constraints(ctx, to, "immediate")
}

// SwitchAcross makes the target the tenant's home, between two databases: it
// shuts the tenant out of the source, carries over what is left, lets it into
// the target, and calls flip, which changes the placement. It returns how long
// writers waited: whoever comes meanwhile waits for the lock, which is held until
// the placement leads to the target, and so learns where the tenant went.
//
// It may be called again after a crash. If it fails before flip, the source is
// open again, unless that fails too.
func (m *Move) SwitchAcross(ctx context.Context, most time.Duration, flip func(ctx context.Context) error) (time.Duration, error) {
	start := time.Now()
	bounded, cancel := context.WithTimeoutCause(ctx, most, ErrPause)
	defer cancel()
	flipped := false
	err := m.within(bounded, m.From, pgx.ReadCommitted, func(lock *tx) error {
		if err := m.exclude(bounded, lock); err != nil {
			return err
		}
		if err := m.across(bounded); err != nil {
			detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return errors.Join(late(bounded, err), m.Reopen(detached))
		}
		// What comes of it may not be known if it fails: nothing is undone.
		err := flip(ctx)
		flipped = err == nil
		return err
	})
	if flipped {
		return time.Since(start), nil // all that could fail since is the end of the lock
	}
	return time.Since(start), late(bounded, err)
}

// across does everything of SwitchAcross but the last, each step committed
// before the next: after a crash the tenant is in one place or in none.
func (m *Move) across(ctx context.Context) error {
	err := m.within(ctx, m.From, pgx.ReadCommitted, func(tx *tx) error { return m.putFence(ctx, tx, m.From, m.Epoch, false) })
	if err != nil {
		return err
	}
	m.step("source closed")
	if err := m.both(ctx, pgx.RepeatableRead, func(from, to *tx) error { return m.last(ctx, from, to) }); err != nil {
		return err
	}
	m.step("target filled")
	err = m.within(ctx, m.To, pgx.ReadCommitted, func(tx *tx) error { return m.putFence(ctx, tx, m.To, m.Epoch+1, true) })
	if err != nil {
		return err
	}
	m.step("target opened")
	return nil
}

// Reopen undoes SwitchAcross, as long as the placement wasn't changed: the target is
// shut first.
func (m *Move) Reopen(ctx context.Context) error {
	if !m.Same {
		err := m.within(ctx, m.To, pgx.ReadCommitted, func(tx *tx) error { return m.putFence(ctx, tx, m.To, m.Epoch+1, false) })
		if err != nil {
			return err
		}
	}
	return m.within(ctx, m.From, pgx.ReadCommitted, func(tx *tx) error { return m.putFence(ctx, tx, m.From, m.Epoch, true) })
}

// Size reads what the tenant has in each table.
func (m *Move) Size(ctx context.Context) ([]Size, error) {
	t, err := open(ctx, m.From, pgx.RepeatableRead)
	if err != nil {
		return nil, err
	}
	defer t.end(ctx)
	sizes := make([]Size, 0, len(m.tables))
	for _, table := range m.tables {
		s := Size{Name: table.name}
		err := t.QueryRow(ctx, "select count(*), coalesce(sum(pg_column_size(t.*)), 0)::bigint from "+m.From.rows(m, table.source)).Scan(&s.Rows, &s.Bytes)
		if err != nil {
			return nil, err
		}
		sizes = append(sizes, s)
	}
	return sizes, nil
}
