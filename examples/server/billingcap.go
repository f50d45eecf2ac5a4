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
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
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
			limits, worth := capped(r, spend)
			if !worth {
				return nil, usagef("%s is less than a unit costs", money(spend.Amount))
			}
			// Before the limit, so that a change of plan beside this one finds it.
			if !stored {
				stored = true
				return limits, o.ledger.SetCap(ctx, spend)
			}
			return limits, nil
		})
	})
}

// capped returns the limits of a tenant with its cap among them, and whether that
// is worth a unit; there is no limit of nothing, so that one is let through if not.
// A plan whose units cost nothing needs none.
func capped(r tenancy.Record, spend pgledger.Cap) (limits []tenant.Limit, worth bool) {
	limits = without(r.Limits, spendLimit)
	i := slices.IndexFunc(catalog().Plans, func(p stripebill.CatalogPlan) bool { return p.Plan == r.Plan })
	if spend.Amount == 0 || i < 0 {
		return limits, true
	}
	units, priced := catalog().Plans[i].Units(spend.Amount)
	if !priced {
		return limits, true
	}
	return append(limits, tenant.Limit{
		Name: spendLimit, Units: max(1, min(units, metering.MaxUnits)), Per: string(metering.BillingPeriod), Mode: capMode(spend),
	}), units > 0
}

// applyCap makes the limit of a tenant's cap anew, in the transaction that changes
// its plan, and with it the price of a unit: no call sees the one without the other.
func applyCap(ctx context.Context, tx pgx.Tx, id tenant.ID) error {
	r, err := tenancy.LockTenant(ctx, tx, id)
	if err != nil || r.Status.Gone() {
		return err
	}
	// Who sets a cap at this moment holds the tenant's row until it is stored.
	spend, err := pgledger.ReadCap(ctx, tx, id)
	if errors.Is(err, pgledger.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	limits, _ := capped(r, spend)
	if slices.Equal(limits, r.Limits) {
		return nil
	}
	_, err = tenancy.SetLimits(ctx, tx, id, limits)
	return err
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
