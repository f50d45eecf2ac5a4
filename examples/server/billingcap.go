package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// spendLimit is the name of the limit that a cap becomes.
const spendLimit = "spend"

// billingCap shows, sets or takes back what a tenant may spend on usage in a
// billing period.
func billingCap(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("billing cap", args, 1, 2); err != nil {
		return err
	}
	id, err := parseTenant(args[0])
	if err != nil {
		return err
	}
	if len(args) == 1 {
		return withOffice(ctx, env, func(ctx context.Context, o *office) error {
			spend, err := o.ledger.Cap(ctx, id)
			if errors.Is(err, pgledger.ErrNotFound) {
				return fmt.Errorf("tenant %s has no cap", id)
			}
			if err != nil {
				return err
			}
			return env.print(spend, func() {
				fmt.Fprintf(env.stdout, "%s a billing period, %s, by %s at %s\n", money(spend.Amount), capMode(spend), spend.Actor, spend.SetAt)
			})
		})
	}
	spend := pgledger.Cap{Tenant: id, Actor: env.config.actor, Reason: env.config.reason}
	if args[1] != "none" {
		if spend.Amount, err = parseMoney(args[1]); err != nil {
			return err
		}
	}
	switch metering.Mode(env.config.mode) {
	case "", metering.Hard:
	case metering.Soft:
		spend.Soft = true
	default:
		return usagef("-mode %s: want hard or soft", quote(env.config.mode))
	}
	if spend.Actor == "" {
		return usagef("-actor: who sets it, for the record")
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		stored := false
		return o.changeLimits(ctx, env, id, "cap "+args[1]+" "+capMode(spend)+" by "+spend.Actor, func(r tenancy.Record) ([]tenant.Limit, error) {
			limits, err := capped(r, spend)
			if err != nil {
				return nil, usagef("%w", err)
			}
			// Before the limit, so that a change of plan beside this one finds it.
			if !stored {
				stored = true
				err = o.ledger.SetCap(ctx, spend)
			}
			return limits, err
		})
	})
}

// capped returns the limits of a tenant with its cap among them. A plan whose
// units cost nothing needs none.
func capped(r tenancy.Record, spend pgledger.Cap) ([]tenant.Limit, error) {
	limits := without(r.Limits, spendLimit)
	if spend.Amount == 0 {
		return limits, nil
	}
	for _, p := range catalog().Plans {
		if p.Plan != r.Plan {
			continue
		}
		units, ok := p.Units(spend.Amount)
		switch {
		case !ok:
			return limits, nil
		case units == 0:
			return nil, fmt.Errorf("%s is less than a unit costs", money(spend.Amount))
		}
		return append(limits, tenant.Limit{
			Name: spendLimit, Units: min(units, metering.MaxUnits), Per: string(metering.BillingPeriod), Mode: capMode(spend),
		}), nil
	}
	return limits, nil
}

// applyCap makes the limit of a tenant's cap anew: its plan may have changed, and
// with it the price of a unit.
func (o *office) applyCap(ctx context.Context, id tenant.ID) error {
	spend, err := o.ledger.Cap(ctx, id)
	if errors.Is(err, pgledger.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, o.control, func(tx pgx.Tx) error {
		r, err := tenancy.LockTenant(ctx, tx, id)
		if errors.Is(err, tenancy.ErrUnknownTenant) || err == nil && r.Status.Gone() {
			return nil
		}
		if err != nil {
			return err
		}
		limits, err := capped(r, spend)
		if err != nil || slices.Equal(limits, r.Limits) {
			return err
		}
		_, err = tenancy.SetLimits(ctx, tx, id, limits)
		return err
	})
}

func capMode(c pgledger.Cap) string {
	if c.Soft {
		return string(metering.Soft)
	}
	return string(metering.Hard)
}

var moneyForm = regexp.MustCompile(`^[0-9]{1,10}(\.[0-9]{1,2})?$`)

// parseMoney reads an amount like 50 or 49.90 as cents.
func parseMoney(s string) (int64, error) {
	whole, cents, _ := strings.Cut(s, ".")
	n, err := strconv.ParseInt(whole+(cents + "00")[:2], 10, 64)
	if !moneyForm.MatchString(s) || err != nil || n == 0 {
		return 0, usagef("AMOUNT %s: want one like 50 or 49.90, or none", quote(s))
	}
	return n, nil
}

func money(cents int64) string { return fmt.Sprintf("$%d.%02d", cents/100, cents%100) }
