package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/mcpsaas/mcpsaas/billing/pgledger"
)

// billingPortal prints a link by which a tenant changes its card and plan and reads
// its invoices. Whoever has the link can do so: it is sent to a person, and no API
// key, which agents have, gets one.
func billingPortal(ctx context.Context, env *environment, args []string) error {
	id, err := oneTenant("billing portal", args)
	if err != nil {
		return err
	}
	if err := needPublicURL(env); err != nil {
		return err
	}
	return withDesk(ctx, env, func(ctx context.Context, d *desk) error {
		customer, err := d.ledger.Customer(ctx, id)
		if errors.Is(err, pgledger.ErrNotFound) {
			return usagef("tenant %s is no customer: it was made without a checkout", id)
		}
		if err != nil {
			return err
		}
		link, err := d.stripe.PortalURL(ctx, customer, env.config.publicURL)
		if err != nil {
			return err
		}
		return env.print(map[string]any{"tenant": id, "url": link}, func() { fmt.Fprintln(env.stdout, link) })
	})
}

func needPublicURL(env *environment) error {
	if env.config.publicURL == "" {
		return usagef("PUBLIC_URL is not set (-public-url): it is where the tenant returns to")
	}
	return nil
}
