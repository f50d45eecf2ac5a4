package redisquota

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mcpsaas/mcpsaas/metering"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

//go:embed alerts.lua
var alertsLua string

// Alerts is a metering.AlertStore in Redis, for all replicas together. What
// waits to be told is as durable as Redis is; Redis without an append-only file
// that starts anew tells thresholds again that are still reached. All keys begin
// with "prefix:{alerts}:", so that they are in one slot of a Redis Cluster. It is
// safe for concurrent use.
type Alerts struct {
	client Client
	prefix string
	script script
}

var _ metering.AlertStore = (*Alerts)(nil)

// NewAlerts returns a store on client, with the prefix of opts. Nil opts mean the
// defaults.
func NewAlerts(client Client, opts *Options) (*Alerts, error) {
	l, err := New(client, opts)
	if err != nil {
		return nil, err
	}
	return &Alerts{client: client, prefix: l.prefix + ":{alerts}:", script: newScript(alertsLua)}, nil
}

func (a *Alerts) run(ctx context.Context, remember string, args ...any) (string, error) {
	keys := []string{a.prefix + "due", a.prefix + "waiting", a.prefix + "tries"}
	if remember != "" {
		keys = append(keys, a.prefix+"seen:"+remember)
	}
	return a.script.run(ctx, a.client, append(a.script.args(keys, len(args)), args...))
}

// Add implements metering.AlertStore by one script call.
func (a *Alerts) Add(ctx context.Context, alert metering.Alert, forget time.Time) (bool, error) {
	alert.Attempt = 0
	encoded, err := json.Marshal(alert)
	if err != nil {
		return false, fmt.Errorf("redisquota: encode alert: %w", err)
	}
	remember := max(time.Until(forget), time.Minute)
	added, err := a.run(ctx, alert.ID, "add", alert.ID, encoded, remember.Milliseconds())
	if err != nil {
		return false, fmt.Errorf("redisquota: add alert: %w", err)
	}
	return added == "1", nil
}

// Claim implements metering.AlertStore by one script call.
func (a *Alerts) Claim(ctx context.Context, most int, lease time.Duration) ([]metering.Alert, error) {
	lines, err := a.run(ctx, "", "claim", most, lease.Milliseconds())
	if err != nil {
		return nil, fmt.Errorf("redisquota: claim alerts: %w", err)
	}
	var alerts []metering.Alert
	for line := range strings.Lines(lines) {
		var alert metering.Alert
		attempt, encoded, _ := strings.Cut(line, " ")
		alert.Attempt, err = strconv.Atoi(attempt)
		if unread := json.Unmarshal([]byte(encoded), &alert); err != nil || unread != nil {
			return alerts, errors.New("redisquota: claim alerts: what is stored is no alert")
		}
		alerts = append(alerts, alert)
	}
	return alerts, nil
}

// Release implements metering.AlertStore by one script call.
func (a *Alerts) Release(ctx context.Context, alert metering.Alert, again time.Duration) error {
	ms := again.Milliseconds()
	if again < 0 {
		ms = -1
	}
	if _, err := a.run(ctx, "", "release", alert.ID, alert.Attempt, ms); err != nil {
		return fmt.Errorf("redisquota: release alert: %w", err)
	}
	return nil
}

// Forget removes the alerts of a tenant that wait to be told. What remembers
// that others were told holds nothing of a tenant, and goes by itself.
func (a *Alerts) Forget(ctx context.Context, id tenant.ID) error {
	waiting := redis.NewStringSliceCmd(ctx, "hvals", a.prefix+"waiting")
	if err := a.client.Process(ctx, waiting); err != nil {
		return fmt.Errorf("redisquota: read alerts: %w", err)
	}
	for _, encoded := range waiting.Val() {
		var alert metering.Alert
		if json.Unmarshal([]byte(encoded), &alert) != nil || alert.Tenant != id {
			continue
		}
		if err := a.Release(ctx, alert, -1); err != nil {
			return err
		}
	}
	return nil
}
