package onboarding

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Step is one persisted part of an operation. The provisioner does the steps
// of a list in order and records each.
//
// Do must be idempotent: after a crash it runs again, perhaps beside a stalled
// predecessor whose effects still arrive.
type Step struct {
	// Name is unique within its list: lower case, digits and underscores.
	Name string

	// Timeout bounds one run of Do and one of Verify.
	// Defaults to 30 s.
	Timeout time.Duration

	// Do does the work. What it returns is stored as JSON and handed to Verify
	// and to later steps; it must hold no secret. nil is fine.
	Do func(ctx context.Context, t *Task) (output any, err error)

	// Verify proves that the work is done: after Do, and again when another
	// owner resumes the operation; if it fails there, the step is done anew.
	// nil trusts the record.
	Verify func(ctx context.Context, t *Task) error

	// Fresh has the step done anew by each owner that resumes the operation,
	// because what it proves or makes doesn't outlive a crash.
	Fresh bool
}

// Steps are the lists of steps of each operation. [Standard] makes them.
type Steps struct {
	Provision   []Step // all of them before the tenant is active
	Attend      []Step // after that; they never keep the tenant from serving
	Deprovision []Step // after the door is closed, until the archive is verified; they drop nothing
	Purge       []Step // what drops
}

// Task is what a step knows. It is for one goroutine.
type Task struct {
	Record // as it was when the operation was resumed
	Op     string

	outputs map[string]json.RawMessage
	secrets map[string]string
	read    time.Time // when Record.Now was
}

// now is the store's clock, as far as this process can tell.
func (t *Task) now() time.Time { return t.Record.Now.Add(time.Since(t.read)) }

var errNoOutput = errors.New("onboarding: step has no output")

// Output decodes what the step of that name returned into v: a step of this
// operation, or of the tenant's provisioning. It is an error if there is none.
func (t *Task) Output(step string, v any) error {
	raw, ok := t.outputs[step]
	if !ok {
		return fmt.Errorf("%w: %s of %s", errNoOutput, step, t.Op)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("onboarding: read output of step %s: %w", step, err)
	}
	return nil
}

// SetSecret keeps a secret in memory for the later steps of this run. It is
// never stored: the step that sets it should be Fresh.
func (t *Task) SetSecret(name, value string) {
	if t.secrets == nil {
		t.secrets = make(map[string]string)
	}
	t.secrets[name] = value
}

// Secret returns what SetSecret has kept, or "".
func (t *Task) Secret(name string) string { return t.secrets[name] }
