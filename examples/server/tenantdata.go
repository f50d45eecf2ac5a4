package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"time"

	"github.com/mcpsaas/mcpsaas/onboarding"
	"github.com/mcpsaas/mcpsaas/tenancy"
	"github.com/mcpsaas/mcpsaas/tenancy/tenant"
)

// exportDir keeps the files of one export side by side in a directory.
type exportDir struct{ dir onboarding.Dir }

func (d exportDir) Put(ctx context.Context, name string, write func(io.Writer) error) error {
	return d.dir.Put(ctx, path.Base(name), write)
}

func (d exportDir) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	return d.dir.Open(ctx, path.Base(name))
}

// tenantExport writes all that a tenant has, and reads it back.
func tenantExport(ctx context.Context, env *environment, args []string) error {
	id, err := oneTenant("tenant export", args)
	if err != nil {
		return err
	}
	dir := env.config.dir
	if dir == "" {
		return usagef("-dir is not set: the directory to write to")
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return usagef("-dir %s: the directory is not empty", quote(dir))
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return usagef("-dir: %w", err)
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		if _, err := o.provisioner.Tenant(ctx, id); err != nil {
			return named(id, err)
		}
		to := exportDir{onboarding.Dir(dir)}
		digest, err := onboarding.WriteArchive(ctx, to, "export", id, time.Now(), o.data, usageExport{o.ledger})
		if err != nil {
			return err
		}
		m, err := onboarding.VerifyArchive(ctx, to, "export", digest)
		if err != nil {
			return err
		}
		return env.print(struct {
			onboarding.Manifest
			SHA256 string `json:"manifest_sha256"`
		}{m, digest}, func() {
			for _, f := range m.Files {
				fmt.Fprintf(env.stdout, "%-32s  %9d rows  %11d bytes\n", f.Name, f.Rows, f.Bytes)
			}
			fmt.Fprintf(env.stdout, "written to %s and read back; SHA-256 of its manifest.json: %s\n", dir, digest)
		})
	})
}

// tenantImport gives a tenant what tenantExport, or a deprovisioning, has
// written.
func tenantImport(ctx context.Context, env *environment, args []string) error {
	id, err := oneTenant("tenant import", args)
	if err != nil {
		return err
	}
	var opts tenancy.ImportOptions
	if env.config.from != "" {
		if opts.From, err = parseTenant(env.config.from); err != nil {
			return err
		}
	}
	dir := env.config.dir
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return usagef("-dir %s: want the directory of an export", quote(dir))
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		if _, err := o.record(ctx, id, "import", "", func(r *onboarding.Record) error {
			if !r.State.Serves() && r.State != tenant.Suspended {
				return fmt.Errorf("tenant %s is %s: nothing is imported", id, r.State)
			}
			return nil
		}); err != nil {
			return err
		}
		counts, err := o.data.Import(ctx, id, os.DirFS(dir), &opts)
		if err != nil {
			return err
		}
		return env.print(map[string]any{"tenant": id, "imported": counts}, func() {
			for _, table := range slices.Sorted(maps.Keys(counts)) {
				fmt.Fprintf(env.stdout, "%-32s  %9d rows\n", table, counts[table])
			}
			fmt.Fprintf(env.stdout, "%s: imported and compared with the files\n", id)
		})
	})
}

// closedFor is how long a door must have been closed until no call can be
// under way.
const closedFor = time.Second + toolTimeout

// tenantErase deletes a tenant's rows for good, and proves that nothing is left. The ledger
// stays: invoices are explained from it.
func tenantErase(ctx context.Context, env *environment, args []string) error {
	id, err := oneTenant("tenant erase", args)
	if err != nil {
		return err
	}
	return withOffice(ctx, env, func(ctx context.Context, o *office) error {
		closed := time.Duration(0)
		r, err := o.record(ctx, id, "erase", "", func(r *onboarding.Record) error {
			if r.State != tenant.Suspended && r.State != tenant.Deleted {
				return fmt.Errorf("tenant %s is %s: only a suspended or deleted one is erased (`tenant suspend`, or `tenant delete`, which archives first)", id, r.State)
			}
			closed = r.Now.Sub(r.UpdatedAt)
			return nil
		})
		if err != nil {
			return err
		}
		if left := closedFor - closed; left > 0 {
			fmt.Fprintf(env.stderr, "waiting %v for the calls under way\n", left.Round(time.Second))
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(left):
			}
		}
		receipt, err := o.erase(ctx, id)
		if err != nil {
			return err
		}
		if r.State == tenant.Suspended { // it may be resumed, with nothing in its place
			if _, err := o.prepare(ctx, id); err != nil {
				return err
			}
		}
		return env.print(receipt, func() {
			for _, p := range receipt.Places {
				for _, table := range slices.Sorted(maps.Keys(p.Left)) {
					fmt.Fprintf(env.stdout, "%-10s  %-32s  %9d rows deleted, %d left\n", tierOf(p.Placement), table, p.Deleted[table], p.Left[table])
				}
			}
			fmt.Fprintf(env.stdout, "%s: nothing is left at %s; the ledger of its usage stays\n", id, receipt.Proved.UTC().Format(time.RFC3339))
		})
	})
}

// oneTenant reads the only argument of a command.
func oneTenant(name string, args []string) (tenant.ID, error) {
	if err := wantArgs(name, args, 1, 1); err != nil {
		return tenant.ID{}, err
	}
	return parseTenant(args[0])
}
