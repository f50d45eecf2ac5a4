package billing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Check returns nil while usage reaches the provider: nothing unreported is
// older than StallAfter, the credential is good, and nothing waits for an
// operator. It reads the ledger, so it also notices that no worker runs
// anywhere.
func (w *Worker) Check(ctx context.Context) error { return w.CheckTenant(ctx, tenant.ID{}) }

// CheckTenant is [Worker.Check] for one tenant's usage.
func (w *Worker) CheckTenant(ctx context.Context, id tenant.ID) error {
	s, err := w.ledger.Stats(ctx, id)
	if err != nil {
		return fmt.Errorf("billing: read the ledger: %w", err)
	}
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
