package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/metering/alert"
	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// The settings of a tenant in tenant_config that alerts go by.
const (
	settingThreshold = "alert_threshold" // percent
	settingURL       = "webhook_url"
	settingSecrets   = "webhook_secret" // the newest first, separated by spaces
)

func newSender(c *config, endpoints alert.Endpoints) (*alert.Sender, error) {
	return alert.NewSender(endpoints, &alert.Options{Allow: c.alertAllowed, AllowHTTP: len(c.alertAllowed) > 0})
}

// tell tells an alert to the log, to the metrics and, unless it is about a limit
// that is only tried out, to the tenant.
func (a *app) tell(ctx context.Context, al metering.Alert) error {
	if al.Mode != metering.Shadow {
		err := a.sender.Send(ctx, al.Tenant, alert.Message{ID: al.ID, Type: "usage.threshold_reached", Time: al.Time, Data: al})
		if err != nil {
			return err
		}
	}
	a.logger.InfoContext(ctx, "usage threshold reached", "tenant", al.Tenant, "event", al.ID, "limit", al.Limit, "mode", al.Mode,
		"percent", al.Percent, "used", al.Used, "allowed", al.Allowed)
	return nil
}

// settings reads what a tenant has set, as the tenant.
func (a *app) settings(ctx context.Context, id tenant.ID, keys ...string) (map[string]string, error) {
	ctx = tenant.NewContext(ctx, tenant.Tenant{ID: id})
	rows, err := a.db.Query(ctx, `select key, value from tenant_config where key = any($1)`, keys)
	if err != nil {
		return nil, err
	}
	settings := make(map[string]string)
	var key, value string
	_, err = pgx.ForEachRow(rows, []any{&key, &value}, func() error {
		settings[key] = value
		return nil
	})
	return settings, err
}

func (a *app) ownPercent(ctx context.Context, id tenant.ID) (int, error) {
	settings, err := a.settings(ctx, id, settingThreshold)
	if err != nil {
		return 0, err
	}
	percent, _ := strconv.Atoi(settings[settingThreshold]) // what is no number has not been set
	return percent, nil
}

func (a *app) endpoint(ctx context.Context, id tenant.ID) (alert.Endpoint, error) {
	if t, ok := a.directory.Lookup(id); !ok || t.Status.Gone() {
		return alert.Endpoint{}, nil
	}
	settings, err := a.settings(ctx, id, settingURL, settingSecrets)
	return alert.Endpoint{URL: settings[settingURL], Secrets: strings.Fields(settings[settingSecrets])}, err
}

// webhookCommand shows or sets where a tenant is told.
func webhookCommand(ctx context.Context, env *environment, args []string) error {
	if err := wantArgs("tenant webhook", args, 1, 2); err != nil {
		return err
	}
	id, err := parseTenant(args[0])
	if err != nil {
		return err
	}
	order := ""
	if len(args) > 1 {
		order = args[1]
	}
	sender, err := newSender(env.config, alert.EndpointsFunc(func(context.Context, tenant.ID) (alert.Endpoint, error) { return alert.Endpoint{}, nil }))
	if err != nil {
		return err
	}
	switch order {
	case "", "none", "rotate", "retire":
	default:
		if err := sender.CheckURL(order); err != nil {
			return usagef("%s: %w", quote(order), err)
		}
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		if _, err := o.provisioner.Tenant(ctx, id); err != nil {
			return named(id, err)
		}
		settings, err := o.data.Config(ctx, id)
		if err != nil {
			return err
		}
		change, secret, err := webhookChange(settings, order)
		if err != nil {
			return err
		}
		if change != nil {
			action := order
			if settings[settingURL] != change[settingURL] && change[settingURL] != "" {
				action = "set"
			}
			if _, err := o.record(ctx, id, "webhook", action, func(r *onboarding.Record) error { return o.served(*r) }); err != nil {
				return err
			}
			if err := o.data.SetConfig(ctx, id, change); err != nil {
				return err
			}
			settings = change
		}
		out := map[string]any{"tenant": id, "url": settings[settingURL], "secrets": len(strings.Fields(settings[settingSecrets]))}
		if secret != "" {
			out["secret"] = secret
		}
		return env.print(out, func() {
			if settings[settingURL] == "" {
				fmt.Fprintf(env.stdout, "%s is told nothing\n", id)
				return
			}
			fmt.Fprintf(env.stdout, "url      %s\nsecrets  %d\n", settings[settingURL], out["secrets"])
			if secret != "" {
				fmt.Fprintf(env.stdout, "secret   %s  (shown this once, for the receiver)\n", secret)
			}
		})
	})
}

// webhookChange works out the settings that an order leads to, and the secret that
// it makes. Nothing changes if they are nil.
func webhookChange(settings map[string]string, order string) (change map[string]string, secret string, err error) {
	url, secrets := settings[settingURL], strings.Fields(settings[settingSecrets])
	if url == "" && (order == "rotate" || order == "retire") {
		return nil, "", errors.New("the tenant has no webhook")
	}
	switch order {
	case "":
		return nil, "", nil
	case "none":
		return map[string]string{settingURL: "", settingSecrets: ""}, "", nil
	case "retire":
		secrets = secrets[:min(1, len(secrets))]
	case "rotate":
		secret = alert.NewSecret()
		secrets = append([]string{secret}, secrets[:min(1, len(secrets))]...)
	default: // another receiver never learns the secret of the one before
		url, secret = order, alert.NewSecret()
		secrets = []string{secret}
	}
	return map[string]string{settingURL: url, settingSecrets: strings.Join(secrets, " ")}, secret, nil
}
