package main

import (
	"context"
	"fmt"

	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// billingStatus shows how far usage is on its way to Stripe.
func billingStatus(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("billing status", args, 0, 1); err != nil {
		return err
	}
	var id tenant.ID
	if len(args) > 0 {
		var err error
		if id, err = parseTenant(args[0]); err != nil {
			return err
		}
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		if !id.IsZero() {
			if _, err := o.provisioner.Tenant(ctx, id); err != nil {
				return named(id, err)
			}
		}
		s, err := o.ledger.Stats(ctx, id)
		if err != nil {
			return err
		}
		return env.print(s, func() {
			w := env.stdout
			fmt.Fprintf(w, "usage in no batch      %d events, oldest %s\n", s.Unsealed, age(s.OldestUnsealed))
			fmt.Fprintf(w, "batches on their way   %d, oldest %s, %d of them unknown\n", s.Open, age(s.OldestUnconfirmed), s.Unknown)
			fmt.Fprintf(w, "need an operator       %d parked, %d rejected\n", s.Parked, s.Rejected)
			fmt.Fprintf(w, "near their period end  %d targets with usage that may miss it\n", s.AtRisk)
			fmt.Fprintf(w, "Stripe's totals        %d windows differ, by %d units; compared %s\n", s.Drifting, s.Drift, age(s.LastReconcile))
			fmt.Fprintf(w, "Stripe last answered   %s\n", age(s.LastAnswer))
			if !s.Unauthorized.IsZero() {
				fmt.Fprintf(w, "Stripe REFUSES the key since %s\n", age(s.Unauthorized))
			}
			fmt.Fprintf(w, "webhooks               last %s, %d wait, %d dead; missed ones last asked for %s\n",
				age(s.LastNotice), s.PendingNotices, s.DeadNotices, age(s.LastPull))
			if !s.Unheard.IsZero() {
				fmt.Fprintf(w, "webhooks DON'T ARRIVE  since %s they come by being asked for alone\n", age(s.Unheard))
			}
		})
	})
}
