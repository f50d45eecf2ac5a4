package onboarding

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/onboarding/monitor"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// Isolation makes and proves the place where a tenant's rows live.
type Isolation interface {
	// Prepare makes the place, the tenant's marker row in it, and the
	// sentinel's, and returns the marker. It is idempotent: the marker of a
	// tenant never changes.
	Prepare(ctx context.Context, id tenant.ID) (marker string, err error)

	// Prove returns nil if all of it is there.
	Prove(ctx context.Context, id tenant.ID, marker string) error
}

// Keys are the tenant's credentials.
type Keys interface {
	// IssueFirst makes the tenant's first key, sealed until it is fetched,
	// once. It is idempotent: a tenant has at most one first key, ever.
	IssueFirst(ctx context.Context, id tenant.ID) error

	// IssueProbe makes a key with the scope [tenant.ScopeCanary] that ends
	// after ttl.
	IssueProbe(ctx context.Context, id tenant.ID, ttl time.Duration) (key string, err error)

	// RevokeAll revokes every key of the tenant, for every replica. It is
	// idempotent.
	RevokeAll(ctx context.Context, id tenant.ID) error
}

// Action is something done for one tenant. It must be idempotent.
type Action func(ctx context.Context, id tenant.ID) error

// Parts are what the steps of [Standard] work with.
type Parts struct {
	Isolation Isolation // required
	Keys      Keys      // required
	Canary    *Canary   // required

	// Migrate brings grants and schema of the tenant's place up to date and
	// proves them.
	// Defaults to nothing.
	Migrate Action

	// Configure writes the settings that the tenant hasn't got yet, and
	// leaves those it has. Required unless Config is empty and not nil.
	Configure func(ctx context.Context, id tenant.ID, defaults map[string]string) error

	// Config are a new tenant's settings.
	// Defaults to alert_threshold 95 (percent of a limit).
	Config map[string]string

	// Monitor watches the tenant from outside, at what MonitorURL returns.
	// Defaults to [monitor.Noop].
	Monitor    monitor.Monitor
	MonitorURL func(tenant.ID) string

	// Staleness is how old what a replica believes of tenants and keys can
	// be: that long after the door was closed, nobody lets a call in.
	// Defaults to 1 s.
	Staleness time.Duration

	// Drain returns when no call of the tenant is under way.
	// Defaults to nothing: the calls' own time limit must then lie within
	// Staleness.
	Drain Action

	// SettleUsage returns nil when the tenant's last usage is stored and
	// billed. While the provider is away it is an error, and nothing further
	// is done. Required.
	SettleUsage Action

	// Unsubscribe ends the tenant's subscription at the provider; one that is
	// over is a success. customer is empty for a tenant that never had one.
	// Defaults to nothing.
	Unsubscribe func(ctx context.Context, id tenant.ID, customer string) error

	// Archive keeps what Exports write. Both are required.
	Archive Archive
	Exports []Exporter

	// Erase deletes the tenant's rows, in batches, and returns their numbers
	// by table; called again it goes on where it stopped. Required. It is
	// called only after the archive was read back and found good.
	Erase func(ctx context.Context, id tenant.ID) (deleted map[string]int64, err error)

	// Clean removes what else is left: counters, caches.
	Clean []Action
}

// The names of the standard steps.
const (
	StepIsolation    = "isolation"
	StepMigrate      = "migrate"
	StepConfigure    = "configure"
	StepFirstKey     = "first_key"
	StepProbeKey     = "probe_key"
	StepCanary       = "canary"
	StepMonitor      = "monitor"
	StepRevokeKeys   = "revoke_keys"
	StepDrain        = "drain"
	StepSettleUsage  = "settle_usage"
	StepUnsubscribe  = "unsubscribe"
	StepArchive      = "archive"
	StepProveArchive = "prove_archive"
	StepUnmonitor    = "unmonitor"
	StepErase        = "erase"
	StepClean        = "clean"
)

const probeTTL = time.Minute // of the canary's key

// Standard returns the steps for tenants wherever their rows are to live: that is
// the Isolation's business. The tenant's row is there before the first of them:
// the store writes it when the tenant is asked for.
func Standard(parts Parts) (Steps, error) {
	p := &parts
	var errs []error
	require := func(ok bool, name string) {
		if !ok {
			errs = append(errs, fmt.Errorf("onboarding: Parts.%s is required", name))
		}
	}
	if p.Config == nil {
		p.Config = map[string]string{"alert_threshold": "95"}
	}
	require(p.Isolation != nil, "Isolation")
	require(p.Keys != nil, "Keys")
	require(p.Canary != nil, "Canary")
	require(p.Configure != nil || len(p.Config) == 0, "Configure")
	require(p.SettleUsage != nil, "SettleUsage")
	require(p.Archive != nil, "Archive")
	require(len(p.Exports) > 0, "Exports")
	require(p.Erase != nil, "Erase")
	require(p.Monitor == nil || p.MonitorURL != nil, "MonitorURL")
	if p.Staleness < 0 {
		errs = append(errs, errors.New("onboarding: Parts.Staleness is negative"))
	}
	if p.Staleness == 0 {
		p.Staleness = time.Second
	}
	if p.Monitor == nil {
		p.Monitor, p.MonitorURL = monitor.Noop{}, func(tenant.ID) string { return "" }
	}
	if len(errs) > 0 {
		return Steps{}, errors.Join(errs...)
	}
	return Steps{
		Provision: []Step{
			{Name: StepIsolation, Do: p.prepare, Verify: p.proveIsolation},
			{Name: StepMigrate, Do: act(p.Migrate), Verify: again(p.Migrate)},
			{Name: StepConfigure, Do: p.configure},
			{Name: StepFirstKey, Do: act(p.Keys.IssueFirst)},
			{Name: StepProbeKey, Do: p.probeKey, Fresh: true},
			{Name: StepCanary, Do: p.canary, Fresh: true},
		},
		Attend:      []Step{{Name: StepMonitor, Do: p.monitor}},
		Deprovision: p.deprovision(),
		Purge:       p.purge(),
	}, nil
}

func act(a Action) func(context.Context, *Task) (any, error) {
	return func(ctx context.Context, t *Task) (any, error) {
		if a == nil {
			return nil, nil
		}
		return nil, a(ctx, t.Tenant)
	}
}

func again(a Action) func(context.Context, *Task) error {
	return func(ctx context.Context, t *Task) error {
		_, err := act(a)(ctx, t)
		return err
	}
}

type isolationOutput struct {
	Marker string `json:"marker"`
}

func (p *Parts) prepare(ctx context.Context, t *Task) (any, error) {
	marker, err := p.Isolation.Prepare(ctx, t.Tenant)
	return isolationOutput{marker}, err
}

func (p *Parts) proveIsolation(ctx context.Context, t *Task) error {
	var out isolationOutput
	if err := t.Output(StepIsolation, &out); err != nil {
		return err
	}
	return p.Isolation.Prove(ctx, t.Tenant, out.Marker)
}

func (p *Parts) configure(ctx context.Context, t *Task) (any, error) {
	if len(p.Config) == 0 {
		return nil, nil
	}
	return nil, p.Configure(ctx, t.Tenant, p.Config)
}

func (p *Parts) probeKey(ctx context.Context, t *Task) (any, error) {
	key, err := p.Keys.IssueProbe(ctx, t.Tenant, probeTTL)
	if err != nil {
		return nil, err
	}
	t.SetSecret(StepProbeKey, key)
	return nil, nil
}

func (p *Parts) canary(ctx context.Context, t *Task) (any, error) {
	var out isolationOutput
	if err := t.Output(StepIsolation, &out); err != nil {
		return nil, err
	}
	return nil, p.Canary.Check(ctx, t.Secret(StepProbeKey), Expect{Tenant: t.Tenant, Marker: out.Marker})
}

func (p *Parts) monitor(ctx context.Context, t *Task) (any, error) {
	return p.Monitor.Ensure(ctx, p.monitorSpec(t.Tenant))
}

func (p *Parts) monitorSpec(id tenant.ID) monitor.Spec {
	return monitor.Spec{Tenant: id, URL: p.MonitorURL(id), Kind: "http", Key: "tenant-" + id.String()}
}
