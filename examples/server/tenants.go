package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/user"
	"strings"
	"time"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/onboarding/pgstate"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/apikey"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// commandTimeout bounds the commands that wait for a running server.
const commandTimeout = 2 * time.Minute

// withOffice runs f with the books open.
func withOffice(ctx context.Context, env *environment, f func(ctx context.Context, o *office) error) error {
	if err := env.config.forCommand(); err != nil {
		return err
	}
	o, err := openOffice(ctx, env.config, env.logger())
	if err != nil {
		return err
	}
	defer o.close()
	return f(ctx, o)
}

// forCommand fills in what a command can do without, and refuses to go on where it
// can't.
func (c *config) forCommand() error {
	if c.databaseURL == "" {
		return usagef("DATABASE_URL is not set (-database-url): a command works on the database of a server")
	}
	if c.pepper != "" {
		return nil
	}
	dir, err := cacheDir(c.databaseURL)
	if err != nil {
		return err
	}
	c.pepper, err = devPepper("", dir)
	return err
}

func (env *environment) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(env.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func (env *environment) print(data any, text func()) error {
	if !env.config.json {
		text()
		return nil
	}
	enc := json.NewEncoder(env.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(data)
}

// operator is who the audit log says has done it.
func operator() string {
	if u, err := user.Current(); err == nil {
		return "operator:" + u.Username
	}
	return "operator"
}

type tenantRow struct {
	ID        tenant.ID           `json:"id"`
	Name      string              `json:"name,omitempty"`
	Plan      tenant.Plan         `json:"plan"`
	Status    tenant.Status       `json:"status"`
	Placement string              `json:"placement"`
	Epoch     int64               `json:"epoch"`            // counts its moves, from 1
	Wants     tenancy.Tier        `json:"wants,omitempty"`  // where its plan would put a new tenant, if that is elsewhere
	Limits    []tenant.Limit      `json:"limits,omitempty"` // of its own
	Customer  string              `json:"stripe_customer,omitempty"`
	DeleteAt  time.Time           `json:"delete_at,omitzero"`
	Holds     map[string]string   `json:"holds,omitempty"`
	Failure   *onboarding.Failure `json:"failure,omitempty"`
}

// row needs a directory that was read.
func (o *office) row(r onboarding.Record) tenantRow {
	at, epoch, _ := o.directory.Placement(r.Tenant)
	t, _ := o.directory.Lookup(r.Tenant)
	row := tenantRow{
		ID: r.Tenant, Name: r.Spec.Name, Plan: r.Spec.Plan, Status: r.State, Customer: r.Spec.Customer,
		Placement: at.String(), Epoch: epoch,
		DeleteAt: r.Spec.DeleteAt, Holds: r.Spec.Holds, Failure: r.Failure, Limits: t.Limits,
	}
	if tier := o.databases.tier(r.Spec.Plan); tier != at.Tier && r.State != tenant.Deleted {
		row.Wants = tier
	}
	return row
}

// tenant reads how one tenant stands.
func (o *office) tenant(ctx context.Context, id tenant.ID) (tenantRow, error) {
	record, err := o.provisioner.Tenant(ctx, id)
	if err != nil {
		return tenantRow{}, named(id, err)
	}
	if err := o.readDirectory(ctx); err != nil {
		return tenantRow{}, err
	}
	return o.row(record), nil
}

// readDirectory reads where the tenants are, once.
func (o *office) readDirectory(ctx context.Context) error {
	if err := o.control.Ping(ctx); err != nil { // the directory would wait for the end of an outage
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	g := newGroup(ctx)
	g.run("directory", o.directory.Run)
	err := o.directory.Ready(ctx)
	cancel()
	g.wg.Wait()
	return err
}

func tenantList(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("tenant list", args, 0, 0); err != nil {
		return err
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		if err := o.readDirectory(ctx); err != nil {
			return err
		}
		rows := []tenantRow{}
		var f pgstate.Filter
		for {
			records, err := o.state.List(ctx, f)
			if err != nil {
				return err
			}
			if len(records) == 0 {
				break
			}
			for _, r := range records {
				if row := o.row(r); row.Wants != "" || !env.config.misplaced {
					rows = append(rows, row)
				}
			}
			f.After = records[len(records)-1].Tenant
		}
		return env.print(rows, func() {
			for _, r := range rows {
				tier := tierOf(r.Placement)
				if r.Wants != "" {
					tier += " (wants " + string(r.Wants) + ")"
				}
				fmt.Fprintf(env.stdout, "%s  %-10s  %-8s  %-22s  %s\n", r.ID, r.Plan, tier, r.Status, r.Name)
			}
		})
	})
}

func tenantShow(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("tenant show", args, 1, 1); err != nil {
		return err
	}
	id, err := parseTenant(args[0])
	if err != nil {
		return err
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		row, err := o.tenant(ctx, id)
		if err != nil {
			return err
		}
		steps, err := o.state.Steps(ctx, id, "")
		if err != nil {
			return err
		}
		keys, err := o.keys.List(ctx, id)
		if err != nil {
			return err
		}
		log, err := o.state.Audit(ctx, id, 20)
		if err != nil {
			return err
		}
		out := struct {
			tenantRow
			Steps []onboarding.StepRecord `json:"steps"`
			Keys  []apikey.Info           `json:"keys"`
			Log   []onboarding.Entry      `json:"log"`
		}{row, steps, keys, log}
		return env.print(out, func() {
			fmt.Fprintf(env.stdout, "%s  %s\nplan %s, %s\nplacement %s, epoch %d\n", out.ID, out.Name, out.Plan, out.Status, out.Placement, out.Epoch)
			if out.Wants != "" {
				fmt.Fprintf(env.stdout, "a new tenant of its plan would get the tier %s: `tenant move`\n", out.Wants)
			}
			if f := out.Failure; f != nil {
				fmt.Fprintf(env.stdout, "failed at %s (%s): %s\n", f.Step, f.Class, f.Text)
			}
			for _, l := range out.Limits {
				fmt.Fprintf(env.stdout, "limit of its own: %s\n", limitText(l))
			}
			fmt.Fprintln(env.stdout, "\nsteps")
			for _, s := range steps {
				fmt.Fprintf(env.stdout, "  %-14s %-14s %-8s attempt %d\n", s.Op, s.Name, s.State, s.Attempt)
			}
			fmt.Fprintln(env.stdout, "\nkeys")
			for _, k := range keys {
				state := "valid"
				if !k.RevokedAt.IsZero() {
					state = "revoked"
				} else if !k.ExpiresAt.IsZero() && k.ExpiresAt.Before(time.Now()) {
					state = "expired"
				}
				fmt.Fprintf(env.stdout, "  %s  %-8s  %-12s  %v\n", k.ID, state, k.Name, k.Scopes)
			}
			fmt.Fprintln(env.stdout, "\nlog")
			for _, e := range log {
				fmt.Fprintf(env.stdout, "  %s  %-20s  %-12s  %s -> %s  %s\n", e.At.UTC().Format(time.RFC3339), e.Actor, e.Action, e.From, e.To, e.Reason)
			}
		})
	})
}

// tenantCreate asks for a tenant without a checkout, waits for a running server
// to make it, and prints its first key.
func tenantCreate(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("tenant create", args, 1, 2); err != nil {
		return err
	}
	plan := tenant.Plan(args[0])
	if !sold(plan) {
		return usagef("unknown plan %s: want one of %s", quote(args[0]), planNames())
	}
	request := onboarding.Request{Tenant: tenant.NewID(), Plan: plan, Actor: operator()}
	if len(args) > 1 {
		request.Name = args[1]
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		ctx, cancel := context.WithTimeout(ctx, commandTimeout)
		defer cancel()
		if err := o.provisioner.Provision(ctx, request); err != nil {
			return err
		}
		if _, err := o.provisioner.Wait(ctx, request.Tenant, tenant.Active); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("tenant %s is asked for, but no server has made it yet: is one running on this database?", request.Tenant)
			}
			return err
		}
		key, err := o.keys.Claim(ctx, request.Tenant)
		if err != nil {
			return err
		}
		return env.print(map[string]any{"id": request.Tenant, "plan": plan, "api_key": key}, func() {
			fmt.Fprintf(env.stdout, "tenant  %s\nkey     %s  (shown this once)\n", request.Tenant, key)
		})
	})
}

// tierOf is a placement without its reference.
func tierOf(placement string) string {
	tier, _, _ := strings.Cut(placement, ":")
	return tier
}

// parseTenant reads the id of a tenant off the command line.
func parseTenant(arg string) (tenant.ID, error) {
	id, err := tenant.ParseID(arg)
	if err != nil {
		return id, usagef("%w", err)
	}
	return id, nil
}

// named says which tenant it is that isn't known.
func named(id tenant.ID, err error) error {
	if errors.Is(err, onboarding.ErrUnknownTenant) {
		return fmt.Errorf("tenant %s: %w", id, err)
	}
	return err
}

// order is a command that changes what is desired of one tenant.
func order(name string, ctx context.Context, env *environment, args []string, act func(*onboarding.Provisioner, context.Context, onboarding.Order) error) error {
	if err := wantArgs(name, args, 1, 1); err != nil {
		return err
	}
	id, err := parseTenant(args[0])
	if err != nil {
		return err
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		if err := act(o.provisioner, ctx, onboarding.Order{Tenant: id, Actor: operator(), Reason: name, Now: env.config.now}); err != nil {
			return named(id, err)
		}
		row, err := o.tenant(ctx, id)
		if err != nil {
			return err
		}
		return env.print(row, func() {
			fmt.Fprintf(env.stdout, "%s is %s\n", id, row.Status)
			if !row.DeleteAt.IsZero() {
				fmt.Fprintf(env.stdout, "its data goes at %s; until then `tenant restore` takes it back\n", row.DeleteAt.UTC().Format(time.RFC3339))
			}
		})
	})
}

func tenantSuspend(ctx context.Context, env *environment, args []string) error {
	return order("tenant suspend", ctx, env, args, (*onboarding.Provisioner).Suspend)
}

func tenantResume(ctx context.Context, env *environment, args []string) error {
	return order("tenant resume", ctx, env, args, (*onboarding.Provisioner).Resume)
}

func tenantDelete(ctx context.Context, env *environment, args []string) error {
	return order("tenant delete", ctx, env, args, (*onboarding.Provisioner).Deprovision)
}

func tenantRetry(ctx context.Context, env *environment, args []string) error {
	return order("tenant retry", ctx, env, args, (*onboarding.Provisioner).Retry)
}

func tenantRestore(ctx context.Context, env *environment, args []string) error {
	return order("tenant restore", ctx, env, args, (*onboarding.Provisioner).Restore)
}
