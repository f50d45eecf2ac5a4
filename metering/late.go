package metering

import (
	"context"
	"time"
)

const (
	// maxLate is how many questions are let go on after those who asked have
	// given up: fewer than a client has connections, so that those that a dead
	// network holds don't keep the limiter away when it is back.
	maxLate = 24

	// lateTimeout is how long they go on.
	lateTimeout = 10 * time.Second
)

// outlive asks a limiter, and waits for its answer until ctx is done. Then the
// question is not broken off: the limiter may have done what it was asked, or do
// so when it is back, for a call that has been refused meanwhile. Its answer is
// waited for in the background, and undo told of it.
//
// If no answer comes, only the question's receipt tells what became of it: see
// [Restorer].
func outlive[T any](ctx context.Context, l *Leased, ask func(context.Context) (T, error), undo func(context.Context, T, error)) (T, error) {
	if err := ctx.Err(); err != nil {
		var none T
		return none, err
	}
	if ctx.Done() == nil || l.late.Load() >= maxLate {
		return ask(ctx)
	}
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer)
	go func() {
		asked, cancel := context.WithTimeout(context.WithoutCancel(ctx), lateTimeout)
		defer cancel()
		value, err := ask(asked)
		// One of the two happens: the caller has the answer, or undo has.
		select {
		case answers <- answer{value, err}:
		case <-ctx.Done():
			defer l.late.Add(-1)
			undone, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
			defer cancel()
			undo(undone, value, err)
		}
	}()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		l.late.Add(1)
		var none T
		return none, lateError{ctx.Err()}
	}
}

// lateError says that a question goes on, and that somebody waits for its answer.
type lateError struct{ error }

func (e lateError) Unwrap() error { return e.error }

// takeBehind asks the limiter behind for units. If nobody waits for the answer
// any more, what was taken is given back.
func (l *Leased) takeBehind(ctx context.Context, r Request) (Decision, error) {
	return outlive(ctx, l,
		func(ctx context.Context) (Decision, error) {
			d, err := l.limiter.Take(ctx, r)
			if err != nil {
				noted, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
				defer cancel()
				l.unanswered(noted, r, err)
			}
			return d, err
		},
		func(ctx context.Context, d Decision, err error) {
			if err != nil || !d.Allowed {
				return
			}
			if _, err := l.settleBehind(ctx, d, 0); err != nil {
				l.unsettled(ctx, d, 0, err) // nobody else is left to be told
			}
		})
}

// settleBehind settles with the limiter behind. If nobody waits for the answer
// any more, the call has been charged what it had taken at most, and what was
// taken in addition is given back.
func (l *Leased) settleBehind(ctx context.Context, d Decision, units int64) (int64, error) {
	settle := func(ctx context.Context, d Decision, units int64) (int64, error) {
		charged, err := l.limiter.Settle(ctx, d, units)
		if err == nil {
			l.forgive(d.Request.Tenant)
		}
		return charged, err
	}
	return outlive(ctx, l,
		func(ctx context.Context) (int64, error) { return settle(ctx, d, units) },
		func(ctx context.Context, charged int64, err error) {
			more := d
			switch {
			case err != nil:
				l.unsettled(ctx, d, units, err)
			case charged > d.Units:
				more.Units, more.Slot, more.Block = charged, "", Block{Hold: d.Block.Hold}
				if _, err := settle(ctx, more, d.Units); err != nil {
					l.unsettled(ctx, more, d.Units, err)
				}
			}
		})
}
