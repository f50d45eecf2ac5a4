package billing

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// UnsettledError says why a tenant's usage could not all be reported.
type UnsettledError struct {
	Tenant tenant.ID
	// Unsealed and Open may still get through: events in no batch yet, and
	// batches on their way.
	Unsealed, Open int
	// Parked and Rejected wait for an operator.
	Parked, Rejected int
	Err              error // what was met last; may be nil
}

func (e *UnsettledError) Error() string {
	s := fmt.Sprintf("billing: usage of tenant %s is not all reported: %d events unsealed, %d batches open, %d parked, %d rejected",
		e.Tenant, e.Unsealed, e.Open, e.Parked, e.Rejected)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns e.Err.
func (e *UnsettledError) Unwrap() error { return e.Err }

// flushPoll is how often Flush looks whether a batch that waits for its
// backoff, or is in another worker's hands, has come through.
const flushPoll = 250 * time.Millisecond

// Flush seals and sends all usage of the tenant now, and waits until the
// provider has it: for the end of a billing period, and before a tenant is
// taken down. Usage that is not in the ledger yet is not seen; drain the sink
// first.
//
// It returns an [*UnsettledError] when ctx ends before that, when the provider
// refuses the credential, or when some of it needs an operator. It may be
// called again, and beside Run.
func (w *Worker) Flush(ctx context.Context, id tenant.ID) error {
	var last error
	for {
		if err := w.flushOnce(ctx, id); err != nil {
			last = err
		}
		stats, err := w.left(ctx, id)
		if err != nil {
			return fmt.Errorf("billing: flush tenant %s: %w", id, err)
		}
		unsettled := &UnsettledError{
			Tenant: id, Err: last,
			Unsealed: stats.Unsealed, Open: stats.Open, Parked: stats.Parked, Rejected: stats.Rejected,
		}
		switch {
		case stats.Unsealed+stats.Open+stats.Parked+stats.Rejected == 0:
			return nil
		case stats.Unsealed+stats.Open == 0, errors.Is(last, ErrUnauthorized):
			return unsettled
		}
		if err := sleep(ctx, flushPoll); err != nil {
			unsettled.Err = errors.Join(last, err)
			return unsettled
		}
	}
}

// left counts what is not reported, also when ctx has just ended.
func (w *Worker) left(ctx context.Context, id tenant.ID) (Stats, error) {
	ctx, cancel := outlive(ctx, w.opts.CallTimeout, writeGrace)
	defer cancel()
	return w.ledger.Stats(ctx, id)
}

func (w *Worker) flushOnce(ctx context.Context, id tenant.ID) error {
	if err := w.sealTenant(ctx, id); err != nil {
		return err
	}
	now := w.opts.Now()
	targets, err := w.ledger.Open(ctx, id, now)
	if err != nil {
		return fmt.Errorf("billing: list batches of tenant %s: %w", id, err)
	}
	if len(targets) > 0 && now.Before(w.pausedUntil()) {
		return ErrUnauthorized
	}
	return each(ctx, w.opts.Concurrency, targets, func(ctx context.Context, t OpenTarget) error {
		if t.NextAt.After(now) {
			return nil
		}
		_, _, err := w.drain(ctx, t, math.MaxInt, nil)
		return err
	})
}
