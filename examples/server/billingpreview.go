package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
)

// billingPreview shows what a tenant's next invoice would be.
func billingPreview(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("billing preview", args, 1, 1); err != nil {
		return err
	}
	id, err := parseTenant(args[0])
	if err != nil {
		return err
	}
	stripe, err := stripebill.New(env.config.stripeKey, &stripebill.Options{APIBase: env.config.stripeBase})
	if err != nil {
		return usagef("STRIPE_SECRET_KEY, STRIPE_API_BASE: %w", err)
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		s, err := o.ledger.Subscription(ctx, id)
		if errors.Is(err, pgledger.ErrNotFound) {
			return fmt.Errorf("tenant %s has no subscription", id)
		}
		if err != nil {
			return err
		}
		p, err := stripe.Preview(ctx, s.ID)
		if errors.Is(err, stripebill.ErrNotFound) {
			return fmt.Errorf("there will be no invoice of tenant %s: its subscription is over", id)
		}
		if err != nil {
			return err
		}
		return env.print(p, func() {
			for _, l := range p.Lines {
				fmt.Fprintf(env.stdout, "%10d  %10s  %s to %s  %s\n", l.Quantity, money(l.Amount), l.Start.Format("2006-01-02"), l.End.Format("2006-01-02"), l.Description)
			}
			fmt.Fprintf(env.stdout, "%22s  on %s\n", money(p.Total), p.DueAt.Format("2006-01-02"))
		})
	})
}
