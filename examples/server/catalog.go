package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/stripebill"
)

// catalog is what is sold at Stripe.
func catalog() stripebill.Catalog {
	var c stripebill.Catalog
	for _, o := range offers {
		c.Plans = append(c.Plans, stripebill.CatalogPlan{Plan: o.Plan, Name: "Shop " + o.Name, Amount: o.Cents, Unit: o.Unit})
	}
	for _, p := range packs {
		c.Packs = append(c.Packs, stripebill.CatalogPack{Pack: p.Name, Name: "Shop " + p.Title, Amount: p.Cents, Units: p.Units, Days: p.Days})
	}
	return c
}

// catalogKeeper brings the catalog at Stripe up to date. A Stripe that is away
// is no reason to refuse the tenants that there are: the server starts without
// it, its health says so, and it goes on trying.
type catalogKeeper struct {
	stripe *stripebill.Client
	logger *slog.Logger
	done   chan struct{} // closed when the catalog is up to date

	mu  sync.Mutex
	err error // of the last attempt
}

var errNoCatalog = errors.New("the catalog at Stripe has not been looked at yet")

func newCatalogKeeper(stripe *stripebill.Client, logger *slog.Logger) *catalogKeeper {
	return &catalogKeeper{stripe: stripe, logger: logger, done: make(chan struct{}), err: errNoCatalog}
}

func (k *catalogKeeper) run(ctx context.Context) error {
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		changes, err := k.stripe.EnsureCatalog(ctx, catalog())
		if ctx.Err() != nil {
			return nil
		}
		k.mu.Lock()
		k.err = err
		k.mu.Unlock()
		if err == nil {
			k.logger.InfoContext(ctx, "catalog at Stripe is up to date", "changes", len(changes))
			close(k.done)
			return nil
		}
		k.logger.ErrorContext(ctx, "catalog at Stripe is not up to date; will try again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// check is what health asks.
func (k *catalogKeeper) check(context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// wait waits for the catalog, no longer than most.
func (k *catalogKeeper) wait(ctx context.Context, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	select {
	case <-k.done:
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), k.check(ctx))
	}
}
