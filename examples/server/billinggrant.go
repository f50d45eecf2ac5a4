package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// billingGrantAdd gives a tenant units. Asked twice under one reference it gives
// them once.
func billingGrantAdd(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("billing grant add", args, 2, 2); err != nil {
		return err
	}
	c := env.config
	g := pgledger.Grant{Kind: pgledger.GrantKind(c.kind), Priority: c.priority, Reference: c.reference, Actor: c.actor, Reason: c.reason}
	var err error
	if g.Tenant, err = parseTenant(args[0]); err != nil {
		return err
	}
	if g.Units, err = strconv.ParseInt(args[1], 10, 64); err != nil || g.Units < 1 {
		return usagef("units %s: want a whole number above 0", quote(args[1]))
	}
	if g.ExpiresAt, err = parseExpiry(c.expires, time.Now()); err != nil {
		return err
	}
	if g.Actor == "" {
		return usagef("-actor: who gives it, for the record")
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		if _, err := o.provisioner.Tenant(ctx, g.Tenant); err != nil {
			return named(g.Tenant, err)
		}
		g, added, err := o.ledger.AddGrant(ctx, g)
		if err != nil {
			return err
		}
		return env.print(g, func() {
			if !added {
				fmt.Fprintf(env.stdout, "was given before, under the same reference:\n")
			}
			printGrant(env, g)
		})
	})
}

func billingGrantList(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("billing grant list", args, 1, 1); err != nil {
		return err
	}
	id, err := parseTenant(args[0])
	if err != nil {
		return err
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		if _, err := o.provisioner.Tenant(ctx, id); err != nil {
			return named(id, err)
		}
		grants, err := o.ledger.Grants(ctx, id)
		if err != nil {
			return err
		}
		if grants == nil {
			grants = []pgledger.Grant{}
		}
		return env.print(grants, func() {
			for _, g := range grants {
				printGrant(env, g)
			}
			fmt.Fprintf(env.stdout, "%d grants\n", len(grants))
		})
	})
}

func billingGrantRevoke(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("billing grant revoke", args, 1, 1); err != nil {
		return err
	}
	id, err := tenant.ParseID(args[0])
	if err != nil {
		return usagef("grant %s: want the id that `billing grant list` shows", quote(args[0]))
	}
	if env.config.actor == "" {
		return usagef("-actor: who takes it, for the record")
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		g, err := o.ledger.RevokeGrant(ctx, id, env.config.actor, env.config.reason)
		if errors.Is(err, pgledger.ErrNotFound) {
			return fmt.Errorf("no grant %s", id)
		}
		if err != nil {
			return err
		}
		return env.print(map[string]any{"grant": id, "tenant": g.Tenant, "revoked": g.Remaining}, func() {
			fmt.Fprintf(env.stdout, "%d of %d units revoked\n", g.Remaining, g.Units)
		})
	})
}

func printGrant(env *environment, g pgledger.Grant) {
	until := "never expires"
	if !g.ExpiresAt.IsZero() {
		until = "expires " + g.ExpiresAt.Format(time.RFC3339)
	}
	fmt.Fprintf(env.stdout, "%s  %-7s  %d of %d units left, priority %d, %s, %s, by %s\n",
		g.ID, g.Kind, g.Remaining, g.Units, g.Priority, until, g.Reference, g.Actor)
}

// parseExpiry takes a date, a time, or how long from now.
func parseExpiry(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil && t.After(now) {
			return t.UTC(), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return now.Add(d).UTC(), nil
	}
	return time.Time{}, usagef("-expires %s: want a date like 2027-01-31, or a duration like 720h, in the future", quote(s))
}
