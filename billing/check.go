package billing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Check returns nil while usage reaches the provider: nothing unreported is
// older than StallAfter or at risk of missing the end of its billing period, the
// credential is good, nothing waits for an operator, and the provider's totals
// are what was confirmed, as far as Run compared them, and it did so in the last
// hours. It reads the ledger, so it also notices that no worker runs anywhere.
func (w *Worker) Check(ctx context.Context) error {
	s, err := w.ledger.Stats(ctx, tenant.ID{})
	if err != nil {
		return fmt.Errorf("billing: read the ledger: %w", err)
	}
	w.mu.Lock()
	w.stats = s
	compared := w.compares
	w.mu.Unlock()
	if s.LastReconcile.After(compared) && !compared.IsZero() {
		compared = s.LastReconcile
	}
	err = w.judge(s)
	if age := w.opts.Now().Sub(compared); !compared.IsZero() && age > 3*reconcileEvery {
		err = errors.Join(err, fmt.Errorf("billing: not compared with the provider's totals for %s", age.Round(time.Second)))
	}
	return err
}

// Stats returns the numbers that Check read last: what a metrics page shows
// without asking the database.
func (w *Worker) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

// CheckTenant is [Worker.Check] for one tenant's usage.
func (w *Worker) CheckTenant(ctx context.Context, id tenant.ID) error {
	s, err := w.ledger.Stats(ctx, id)
	if err != nil {
		return fmt.Errorf("billing: read the ledger: %w", err)
	}
	return w.judge(s)
}

// judge says what is wrong with the numbers.
func (w *Worker) judge(s Stats) error {
	now := w.opts.Now()
	var errs []error
	if !s.Unauthorized.IsZero() {
		errs = append(errs, ErrUnauthorized)
	}
	stalled := func(what string, since time.Time) {
		if age := now.Sub(since); !since.IsZero() && age > w.opts.StallAfter {
			errs = append(errs, fmt.Errorf("billing: stalled: oldest %s is %s old", what, age.Round(time.Second)))
		}
	}
	stalled("unreported usage", s.OldestUnsealed)
	stalled("unconfirmed batch", s.OldestUnconfirmed)
	if s.AtRisk > 0 {
		errs = append(errs, fmt.Errorf("billing: %d targets have usage that may miss the end of its billing period", s.AtRisk))
	}
	if s.Drifting > 0 {
		errs = append(errs, fmt.Errorf("billing: %d windows differ from the provider's totals, by %d units", s.Drifting, s.Drift))
	}
	if s.Parked > 0 {
		errs = append(errs, fmt.Errorf("billing: %s parked for an operator", batches(s.Parked)))
	}
	if s.Rejected > 0 {
		errs = append(errs, fmt.Errorf("billing: %s rejected by the provider", batches(s.Rejected)))
	}
	return errors.Join(errs...)
}

func batches(n int) string {
	switch {
	case n >= StatsLimit:
		return fmt.Sprintf("at least %d batches", n)
	case n == 1:
		return "1 batch"
	default:
		return fmt.Sprintf("%d batches", n)
	}
}
