package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/billing"
	"github.com/mcpsaas/mcpsaas/billing/pgledger"
	"github.com/mcpsaas/mcpsaas/billing/stripebill"
	"github.com/mcpsaas/mcpsaas/metering/usage"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// desk is what decisions about billing are made at.
type desk struct {
	*office
	*billing.Operator
	stripe *stripebill.Client
}

// withDesk runs f with the books open and the providers at hand.
func withDesk(ctx context.Context, env *environment, f func(ctx context.Context, d *desk) error) error {
	if env.config.stripeKey == "" {
		return usagef("STRIPE_SECRET_KEY is not set (-stripe-secret-key)")
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		stripe, err := stripebill.New(env.config.stripeKey, &stripebill.Options{APIBase: env.config.stripeBase, Logger: o.logger})
		if err != nil {
			return err
		}
		reports, err := newReporting(env.config, stripe)
		if err != nil {
			return err
		}
		defer reports.close()
		worker, err := billing.NewWorker(o.ledger, reports, &billing.WorkerOptions{Lease: batchLease, Logger: o.logger})
		if err != nil {
			return err
		}
		operator, err := billing.NewOperator(o.ledger, worker)
		if err != nil {
			return err
		}
		return f(ctx, &desk{o, operator, stripe})
	})
}

// accountable wants to know who decides, and why.
func (env *environment) accountable() error {
	if env.config.actor == "" || env.config.reason == "" {
		return usagef("-actor and -reason must be given: who decides, and why, goes on record")
	}
	return nil
}

// outcome is what came of an order, or why it was refused.
type outcome struct {
	billing.Outcome
	Error string `json:"error,omitempty"`
}

// billingVerb is a command that does one thing to batches.
func billingVerb(verb billing.Verb, name string) func(context.Context, *environment, []string) error {
	return func(ctx context.Context, env *environment, args []string) error {
		if err := wantArgs(name, args, 1, 1000); err != nil {
			return err
		}
		if err := env.accountable(); err != nil {
			return err
		}
		return withDesk(ctx, env, func(ctx context.Context, d *desk) error {
			var all []outcome
			var errs []error
			for _, batch := range args {
				out, err := d.Do(ctx, billing.Order{Verb: verb, Batch: batch, Actor: env.config.actor, Reason: env.config.reason})
				one := outcome{Outcome: out}
				if err != nil {
					one.Error = err.Error()
					one.Batch, one.Verb = batch, verb
					errs = append(errs, err)
				}
				all = append(all, one)
			}
			return errors.Join(env.print(all, func() {
				for _, o := range all {
					switch {
					case o.Error != "":
					case o.Successor != "":
						fmt.Fprintf(env.stdout, "%s: %s, %d units, by %s\n", o.Batch, o.State, o.Quantity, o.Successor)
					case o.Changed:
						fmt.Fprintf(env.stdout, "%s: %s, %d units\n", o.Batch, o.State, o.Quantity)
					default:
						fmt.Fprintf(env.stdout, "%s: is %s, %d units; nothing to do\n", o.Batch, o.State, o.Quantity)
					}
				}
			}), errors.Join(errs...))
		})
	}
}

// explained is an explanation, and the invoice line that it is of.
type explained struct {
	Line *stripebill.InvoiceLine `json:"invoice_line,omitempty"`
	pgledger.Explanation
}

// billingExplain says what became of usage: of a tenant's billing period, of the lines
// of an invoice, of a batch or of an event.
func billingExplain(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("billing explain", args, 1, 1); err != nil {
		return err
	}
	q := pgledger.Question{Item: env.config.item, Events: env.config.events}
	if env.config.at != "" {
		at, err := parseTime(env.config.at)
		if err != nil {
			return err
		}
		q.At = at
	}
	show := func(all []explained) error {
		return env.print(all, func() {
			for _, x := range all {
				env.explain(x)
			}
		})
	}
	if strings.HasPrefix(args[0], "in_") {
		return withDesk(ctx, env, func(ctx context.Context, d *desk) error {
			all, err := d.explainInvoice(ctx, args[0], q)
			if err != nil {
				return err
			}
			return show(all)
		})
	}
	id, err := parseTenant(args[0])
	if err != nil {
		return err
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		found, err := o.explain(ctx, id, q)
		if err != nil {
			return err
		}
		all := []explained{}
		for _, x := range found {
			all = append(all, explained{nil, x})
		}
		return show(all)
	})
}

// explain finds out what it is that has the id.
func (o *office) explain(ctx context.Context, id tenant.ID, q pgledger.Question) ([]pgledger.Explanation, error) {
	for _, about := range []pgledger.Question{{Batch: id.String()}, {Event: id.String(), Events: q.Events}} {
		all, err := o.ledger.Explain(ctx, about)
		if !errors.Is(err, pgledger.ErrNotFound) {
			return all, err
		}
	}
	if _, err := o.provisioner.Tenant(ctx, id); err != nil {
		return nil, fmt.Errorf("no batch, no event and no tenant is %s: %w", id, err)
	}
	q.Tenant = id
	return o.ledger.Explain(ctx, q)
}

func (d *desk) explainInvoice(ctx context.Context, invoice string, q pgledger.Question) ([]explained, error) {
	customer, lines, err := d.stripe.InvoiceLines(ctx, invoice)
	if err != nil {
		return nil, err
	}
	if q.Tenant, err = d.ledger.TenantOf(ctx, customer); err != nil {
		return nil, fmt.Errorf("tenant of customer %s: %w", customer, err)
	}
	all := []explained{}
	for _, l := range lines {
		about, itself := q, l.Batch != "" // charged for by itself
		about.Item, about.At = l.Item, l.From
		if itself {
			about = pgledger.Question{Batch: l.Batch}
		}
		found, err := d.ledger.Explain(ctx, about)
		if err != nil {
			return nil, err
		}
		for _, x := range found { // none for what isn't metered
			if x.Target.Provider == stripebill.Provider && (x.Target.Mode == billing.ModeInvoiceItem) == itself {
				all = append(all, explained{&l, x})
			}
		}
	}
	return all, nil
}

func (env *environment) explain(x explained) {
	w, t, u := env.stdout, x.Target, x.Units
	fmt.Fprintf(w, "tenant %s, %s %s, %s to %s\n", t.Tenant, t.Provider, t.Mode, x.PeriodStart.Format(time.RFC3339), x.PeriodEnd.Format(time.RFC3339))
	if x.Line != nil {
		fmt.Fprintf(w, "  invoice line %s has %d units\n", x.Line.ID, x.Line.Quantity)
	}
	fmt.Fprintf(w, "  %d units: %d billed, %d open, %d parked, %d rejected, %d written off, %d voided, %d moved on\n",
		u.Produced, u.Billed, u.Open, u.Parked, u.Rejected, u.WrittenOff, u.Voided, u.Moved)
	if !x.Agrees {
		fmt.Fprintln(w, "  THESE DON'T ADD UP")
	}
	for _, b := range x.Batches {
		fmt.Fprintf(w, "  %s  %-11s  %8d units, %d events, at %s", b.ID, b.State, b.Quantity, b.Events, b.Slot.Format(time.RFC3339))
		for _, more := range []struct{ name, value string }{
			{"request", b.RequestID}, {"for", b.MovedFrom}, {"by", b.MovedTo}, {"because", b.Reason},
		} {
			if more.value != "" {
				fmt.Fprintf(w, ", %s %s", more.name, more.value)
			}
		}
		fmt.Fprintln(w)
		for _, e := range b.Log {
			fmt.Fprintf(w, "      %s  %-11s  %s  %s\n", e.At.Format(time.RFC3339), e.State, e.Actor, e.Reason)
		}
		for _, id := range b.EventIDs {
			fmt.Fprintf(w, "      event %s\n", id)
		}
	}
}

func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("-at %q: want a time like 2026-03-10T09:00:00Z or a date", s)
}

// billingReconcile compares a tenant's usage with the provider's totals.
func billingReconcile(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("billing reconcile", args, 1, 1); err != nil {
		return err
	}
	id, err := parseTenant(args[0])
	if err != nil {
		return err
	}
	if err := env.accountable(); err != nil {
		return err
	}
	return withDesk(ctx, env, func(ctx context.Context, d *desk) error {
		if _, err := d.provisioner.Tenant(ctx, id); err != nil {
			return named(id, err)
		}
		drifts, err := d.Reconcile(ctx, id, env.config.actor, env.config.reason)
		if err != nil {
			return err
		}
		return env.print(drifts, func() {
			for _, x := range drifts {
				fmt.Fprintf(env.stdout, "%d: %s to %s: %d confirmed, %d at %s, a difference of %d\n", x.ID,
					x.From.Format(time.RFC3339), x.To.Format(time.RFC3339), x.Confirmed, x.Provider, x.Target.Provider, x.Units)
			}
			if len(drifts) == 0 {
				fmt.Fprintln(env.stdout, "no difference")
			}
		})
	})
}

// billingAccept takes a difference off the list.
func billingAccept(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("billing accept", args, 1, 1); err != nil {
		return err
	}
	id, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return usagef("%q is no number of a difference", args[0])
	}
	if err := env.accountable(); err != nil {
		return err
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		if err := o.ledger.AcceptDrift(ctx, id, env.config.actor, env.config.reason); err != nil {
			return err
		}
		return env.print(map[string]int64{"accepted": id}, func() { fmt.Fprintf(env.stdout, "%d: accepted\n", id) })
	})
}

// billingBackfill adds events that the ledger doesn't have.
func billingBackfill(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("billing backfill", args, 1, 10_000); err != nil {
		return err
	}
	if !env.config.dryRun {
		if err := env.accountable(); err != nil {
			return err
		}
	}
	var events iter.Seq2[usage.Event, error] = func(yield func(usage.Event, error) bool) {
		for _, path := range args {
			for e, err := range usage.ReadFile(path) {
				if err != nil {
					err = fmt.Errorf("%s: %w", path, err)
				}
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		b, err := o.ledger.Backfill(ctx, events, env.config.actor, env.config.reason, env.config.dryRun)
		return errors.Join(env.print(b, func() {
			w, did := env.stdout, "added"
			if b.DryRun {
				did = "would be added"
			}
			fmt.Fprintf(w, "%d events read: %d %s, with %d units, %d of them to be billed\n", b.Read, b.Added, did, b.Units, b.Billable)
			fmt.Fprintf(w, "%d are there already; %d are too old; %d are there with another tenant or other units\n", b.Known, b.TooOld, b.Conflicting)
			for _, id := range b.Conflicts {
				fmt.Fprintf(w, "  %s\n", id)
			}
		}), err)
	})
}
