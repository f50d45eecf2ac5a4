package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/mcpsaas/mcpsaas/billing/pgledger"
)

// mostNotices is how many a listing shows.
const mostNotices = 1000

// billingNotices lists the dead letters of the inbox.
func billingNotices(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("billing notices", args, 0, 0); err != nil {
		return err
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		dead, err := o.ledger.DeadNotices(ctx, mostNotices)
		if err != nil {
			return err
		}
		if dead == nil {
			dead = []pgledger.DeadNotice{}
		}
		return env.print(dead, func() {
			for _, n := range dead {
				fmt.Fprintf(env.stdout, "%s  %s  %s  received %s, given up %s after %d attempts: %s\n",
					n.ID, n.Type, n.ObjectID, age(n.ReceivedAt), age(n.GivenUpAt), n.Attempts, n.Reason)
			}
			fmt.Fprintf(env.stdout, "%d given up\n", len(dead))
		})
	})
}

// billingReplay has webhooks applied again, whether they failed or not: what they
// are about is fetched anew, so that once more does no harm.
func billingReplay(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("billing replay", args, 1, mostNotices); err != nil {
		return err
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		for _, id := range args {
			err := o.ledger.RequeueNotice(ctx, id)
			if errors.Is(err, pgledger.ErrNotFound) {
				return fmt.Errorf("no notice %s", quote(id))
			}
			if err != nil {
				return err
			}
		}
		return env.print(map[string]any{"replayed": args}, func() {
			fmt.Fprintf(env.stdout, "%d to be applied by the server\n", len(args))
		})
	})
}
