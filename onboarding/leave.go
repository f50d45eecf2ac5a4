package onboarding

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mcpsaas/mcpsaas/onboarding/monitor"
)

// deprovision returns the steps between closing the door, which is a
// transition, and the first drop.
func (p *Parts) deprovision() []Step {
	return []Step{
		{Name: StepRevokeKeys, Do: act(p.Keys.RevokeAll)},
		{Name: StepDrain, Timeout: 2 * time.Minute, Do: p.drain},
		{Name: StepSettleUsage, Timeout: 2 * time.Minute, Do: act(p.SettleUsage), Verify: again(p.SettleUsage)},
		{Name: StepUnsubscribe, Do: p.unsubscribe},
		{Name: StepArchive, Timeout: time.Hour, Do: p.archive, Verify: p.proveArchive},
	}
}

// purge returns the steps that drop. The first one is the gate: whoever
// resumes reads the archive again before a row is touched.
func (p *Parts) purge() []Step {
	steps := []Step{
		{Name: StepProveArchive, Timeout: time.Hour, Fresh: true, Do: func(ctx context.Context, t *Task) (any, error) {
			_, err := VerifyArchive(ctx, p.Archive, t.ArchiveName, t.ArchiveDigest)
			return nil, err
		}},
		{Name: StepUnmonitor, Do: p.unmonitor},
		{Name: StepErase, Timeout: time.Hour, Do: p.erase},
		{Name: StepRevokeKeys, Do: act(p.Keys.RevokeAll)}, // one that a stalled predecessor made late
	}
	for i, clean := range p.Clean {
		steps = append(steps, Step{Name: fmt.Sprintf("%s_%d", StepClean, i+1), Do: act(clean)})
	}
	return steps
}

// drain waits until no replica lets a call in any more, then until those under
// way have ended.
func (p *Parts) drain(ctx context.Context, t *Task) (any, error) {
	if left := p.Staleness - t.now().Sub(t.ClosedAt); left > 0 {
		if err := pause(ctx, left, nil); err != nil {
			return nil, err
		}
	}
	return act(p.Drain)(ctx, t)
}

func (p *Parts) unsubscribe(ctx context.Context, t *Task) (any, error) {
	if p.Unsubscribe == nil || t.Spec.Customer == "" {
		return nil, nil
	}
	return nil, p.Unsubscribe(ctx, t.Tenant, t.Spec.Customer)
}

type archiveOutput struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

func (p *Parts) archive(ctx context.Context, t *Task) (any, error) {
	name := fmt.Sprintf("%s/%d", t.Tenant, t.Generation)
	digest, err := WriteArchive(ctx, p.Archive, name, t.Tenant, t.now(), p.Exports...)
	return archiveOutput{name, digest}, err
}

// proveArchive reads back what archive wrote.
func (p *Parts) proveArchive(ctx context.Context, t *Task) error {
	var out archiveOutput
	if err := t.Output(StepArchive, &out); err != nil {
		return err
	}
	m, err := VerifyArchive(ctx, p.Archive, out.Name, out.Digest)
	if err == nil && m.Tenant != t.Tenant {
		err = errors.New("onboarding: archive is another tenant's")
	}
	return err
}

func (p *Parts) unmonitor(ctx context.Context, t *Task) (any, error) {
	spec := p.monitorSpec(t.Tenant)
	ref := monitor.Ref{Key: spec.Key} // all that is known of one whose making a crash cut short
	if err := t.Output(StepMonitor, &ref); err != nil && !errors.Is(err, errNoOutput) {
		return nil, err
	}
	return nil, p.Monitor.Remove(ctx, ref)
}

func (p *Parts) erase(ctx context.Context, t *Task) (any, error) {
	deleted, err := p.Erase(ctx, t.Tenant)
	return struct {
		Deleted map[string]int64 `json:"deleted"`
	}{deleted}, err
}

// archive returns what the archive step of a deprovisioning has left.
func (t *Task) archive() (name, digest string) {
	var out archiveOutput
	if t.Output(StepArchive, &out) != nil {
		return "", ""
	}
	return out.Name, out.Digest
}
